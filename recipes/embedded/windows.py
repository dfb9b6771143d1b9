"""Trains the embedded checkpoint on what the tracker sees: ``python -m recipes.embedded windows --help``.

The tracker looks at each object through a window that follows it (:mod:`sam2_ros.tracking.windows`). Here the labels
of videos say where the windows would be, with some jitter; clips are what is seen through them. Of rendered scenes, the
objects that are alike, small or hidden for a while come first: there the tracker is poor. The encoder stays frozen, and
its features are stored on disk. Existing results are reused, and an interrupted run resumes. Several processes
(``torchrun``) train together.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from recipes.embedded.data import ENCODER_DTYPE, sequence_names
from recipes.embedded.evaluate import evaluate
from recipes.embedded.export import export
from recipes.embedded.features import FeatureStore
from recipes.embedded.sampler import Sampler, Source
from recipes.embedded.trainer import Phase, Schedule, Trainer
from sam2_ros.evaluation.kinds import read_scene
from sam2_ros.model import load_model
from sam2_ros.model.sam2 import Sam2Model
from sam2_ros.tracking.windows import Frame, Target, Window, plan
from sam2_ros.training.clip_folder import check_split
from sam2_ros.training.clips import Clip, Image, read_rgb
from sam2_ros.training.data.stills import read_stills
from sam2_ros.training.data.videos import Video, find_videos, read_labels
from sam2_ros.training.distributed import connect
from sam2_ros.training.synthetic import OcclusionClips

MOST_OBJECTS = 3  # of a video, each in windows of its own
WHOLE_SHARE = {"scenes": 0.1, "davis": 0.5}  # of the videos without windows
SIZE_JITTER, EDGE_JITTER = 0.2, 0.03  # of boxes: log of a track's factor; of each edge, share of the box's sides
SHORTEST = 12  # frames of a track
SHARES = {"scenes": 0.6, "davis": 0.25, "composites": 0.15}
STRIDES = {"scenes": 2, "davis": 3, "composites": 1}  # at most, between two frames of a clip
COMPOSITES, COMPOSITE_FRAMES = 24, 20


@dataclass(frozen=True)
class Track:
    """Objects of a video that are seen through the same windows."""

    video: Video
    start: int  # frame
    windows: tuple[Window, ...]  # from ``start`` on
    objects: tuple[int, ...]


def box_of(mask: NDArray[np.bool_]) -> tuple[int, int, int, int] | None:
    """Edges in pixels; None for an empty mask."""
    x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
    return (x, y, x + w, y + h) if w else None


def tracks_of(
    video: Video, labels: Image, rng: np.random.Generator, whole: float, side: int, first: Collection[int] = ()
) -> list[Track]:
    """Some objects of a video and the windows in which the tracker would see them.

    Args:
        video: what the tracks are of.
        labels: ``[T, H, W]``, its labels.
        rng: source of all random numbers.
        whole: share of whole frames.
        side: of the network's input, pixels.
        first: labels of the objects that are taken before the others.
    """
    height, width = labels.shape[1:]
    frame = Frame(width, height, side)
    drawn = rng.permutation(np.unique(labels)[1:]).tolist()
    chosen = sorted(drawn, key=lambda value: value not in first)[:MOST_OBJECTS]
    sizes = {key: float(np.exp(rng.uniform(-SIZE_JITTER, SIZE_JITTER))) for key in chosen}
    everything = rng.random() < whole
    targets: dict[int, Target] = {}
    starts: dict[int, int] = {}
    seen: dict[int, list[Window]] = {key: [] for key in chosen}
    for t, label in enumerate(labels):
        boxes = {key: box_of(label == key) for key in chosen}
        for key, box in boxes.items():  # a new object's window follows from its prompt
            if box is not None and key not in targets:
                targets[key], starts[key] = Target(key, box), t
        for group in plan(list(targets.values()), frame) if targets else ():
            window = frame.whole if everything else group.window
            for key in group.keys:
                seen[key].append(window)
                box = boxes[key]
                if box is None:
                    targets[key] = replace(targets[key], window=window)
                else:
                    targets[key] = Target(key, _jittered(box, sizes[key], rng), window)
    members: dict[tuple[Window, ...], list[int]] = {}
    for key in targets:
        members.setdefault(tuple(seen[key]), []).append(key)
    return [
        Track(video, starts[keys[0]], windows, tuple(keys))
        for windows, keys in members.items()
        if len(windows) >= SHORTEST
    ]


def _jittered(
    box: tuple[int, int, int, int], size: float, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    edges = np.array(box, np.float64)
    middle, half = (edges[:2] + edges[2:]) / 2, (edges[2:] - edges[:2]) / 2 * size
    low, high = np.split(np.concatenate((middle - half, middle + half)), 2)
    noise = rng.normal(0, EDGE_JITTER, 4) * np.tile(2 * half, 2)
    x0, y0, x1, y1 = (np.concatenate((low, high)) + noise).tolist()
    return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)


def seen_through(track: Track, side: int) -> Clip:
    """What the network sees of a track in its input of ``side`` pixels, and the labels of its objects."""
    frames, labels = [], []
    size = (side, side)
    for t, window in enumerate(track.windows, track.start):
        place = slice(window.y0, max(window.y1, window.y0 + 1)), slice(window.x0, max(window.x1, window.x0 + 1))
        picture, label = read_rgb(track.video.frames[t])[place], read_labels(track.video.labels[t])[place]
        shrinks = max(picture.shape[:2]) > side
        frames.append(cv2.resize(picture, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR))
        own = np.where(np.isin(label, track.objects), label, 0).astype(np.uint8)
        labels.append(cv2.resize(own, size, interpolation=cv2.INTER_NEAREST))
    return Clip(track.video.name, np.stack(frames).astype(np.uint8), np.stack(labels).astype(np.uint8))


def hard_objects(scenes: Path, name: str) -> set[int]:
    """Of a rendered scene, the objects that are alike, small, or hidden for a while; none if nothing is known of it."""
    known = read_scene(scenes, name) or {}
    return {number for number, each in known.items() if each.kind in ("copy", "small") or each.hidden_and_back}


class Stores:
    """Features of clips on disk, made where they are missing.

    Args:
        folder: of all stores.
        model: its encoder makes the features.
    """

    def __init__(self, folder: Path, model: Sam2Model) -> None:
        self._folder, self.side = folder, model.config.image_size
        self._encoder = copy.deepcopy(model.image_encoder).to(ENCODER_DTYPE)

    def of_clips(self, name: str, clips: Iterable[Clip], frames: int) -> FeatureStore:
        done = self._folder / name / "done"
        if not done.exists():
            print(f"features of '{name}': {frames} frames", flush=True)
            FeatureStore.build(done.parent, clips, frames, self.side, self._encoder, ENCODER_DTYPE)
            done.touch()
        return FeatureStore(done.parent)

    def of_videos(self, name: str, kind: str, root: Path, videos: Sequence[Video], seed: int) -> FeatureStore:
        """What is seen of ``videos``, which lie in ``root``, through the windows of their objects."""
        if (self._folder / name / "done").exists():
            return FeatureStore(self._folder / name)
        found: list[Track] = []
        for index, video in enumerate(videos):
            labels = np.stack([read_labels(path) for path in video.labels])
            rng, first = np.random.default_rng((seed, index)), hard_objects(root, video.name)
            found += tracks_of(video, labels, rng, WHOLE_SHARE[kind], self.side, first)
        clips = (seen_through(track, self.side) for track in found)
        return self.of_clips(name, clips, sum(len(track.windows) for track in found))


def composites(args: argparse.Namespace, side: int) -> Iterator[Clip]:
    """Clips of photographs in which objects are covered and leave."""
    stills = read_stills(args.coco) + read_stills(args.stills)
    clips = OcclusionClips(stills, 60, side, COMPOSITE_FRAMES)
    for number in range(COMPOSITES):
        yield clips[number]


def training_sources(args: argparse.Namespace, stores: Stores) -> list[Source]:
    """The sources of training clips."""
    halves = [
        Video(video.name, video.frames[::2], video.labels[::2])
        for video in find_videos(args.davis, sequence_names(args.davis, "fit"))
    ]
    made = {
        "davis": stores.of_videos("davis", "davis", args.davis, halves, 40),
        "composites": stores.of_clips("composites", composites(args, stores.side), COMPOSITES * COMPOSITE_FRAMES),
    }
    check_split(args.scenes, "training", "train")
    made["scenes"] = stores.of_videos("scenes", "scenes", args.scenes, find_videos(args.scenes), 20)
    return [Source(store, SHARES[kind], STRIDES[kind]) for kind, store in made.items()]


@torch.no_grad()
def blend(model: Sam2Model, other: Sam2Model, share: float) -> None:
    """Moves the weights of ``model`` this share of the way towards those of ``other``.

    A network between the one before a training and the one after it often keeps the skills of both (Wortsman et al.,
    "Robust fine-tuning of zero-shot models", 2022).
    """
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        mine.lerp_(theirs, share)


def compare(folder: Path, stores: Stores, models: dict[str, Sam2Model]) -> None:
    """Prints J of each model on scenes of the split ``choose``, through the windows that their labels ask for."""
    check_split(folder, "choosing", "choose")
    store = stores.of_videos("choose", "scenes", folder, find_videos(folder), 80)
    for name, model in models.items():
        with torch.autocast("cpu", ENCODER_DTYPE):
            scores = evaluate(model.eval(), store, "mask")
        print(f"{name}: J {np.mean(list(scores.values())):.3f}", flush=True)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m recipes.embedded windows", description=__doc__)
    parser.add_argument("--model", default="embedded", help="checkpoint to start from (default: embedded)")
    parser.add_argument(
        "--scenes", type=Path, required=True, help="folder of sam2_ros synthesize --scenes --split train"
    )
    parser.add_argument("--davis", type=Path, required=True, help="JPEGImages/, Annotations/ and fit.txt")
    parser.add_argument("--coco", type=Path, required=True, help="images/ and labels/ with YOLO polygons")
    parser.add_argument("--stills", type=Path, required=True, help="images/ and annotations.json in COCO's format")
    parser.add_argument("--choose", type=Path, help="scenes of the split choose, to compare before and after")
    parser.add_argument("--work", type=Path, required=True, help="folder for features and training state (4 GB)")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint to write")
    parser.add_argument("--steps", type=int, default=100, help="updates (default: 100)")
    parser.add_argument("--clips", type=int, default=2, help="of a step and process (default: 2)")
    parser.add_argument("--length", type=int, default=7, help="frames of a clip (default: 7)")
    parser.add_argument("--keep", type=float, default=0.5, help="share of the weights before (default: 0.5)")
    parser.add_argument("--threads", type=int, default=1, help="of each process (default: 1)")
    parser.add_argument("--export-only", action="store_true", help="export the state as it is, without training")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = arguments().parse_args(argv)
    torch.set_num_threads(args.threads)
    world, _ = connect("cpu")
    model = load_model(args.model)
    stores = Stores(args.work / "features", model)
    if not world.first:
        world.share([torch.zeros(1)])  # until the first one has made the features
    sources = training_sources(args, stores)
    if world.first:
        world.share([torch.zeros(1)])
    sampler = Sampler(sources, seed=4, largest=0.85)
    schedule = Schedule(
        (Phase(args.steps, args.clips, args.length),),
        rate=2e-4,
        decoder_rate=0,  # recognition judges masks found without memory, and was fitted to this decoder
        warmup=10,
        average=0.95,
        save_every=20,
    )
    trainer = Trainer(model.train(), [sampler], schedule, args.work / "run", world)
    if not args.export_only:
        trainer.run(args.work / "run" / "log.jsonl")
    world.close()
    if not world.first:
        return
    before, after = load_model(args.model), trainer.average
    blend(after, before, args.keep)
    export(after, args.out)
    if args.choose:
        compare(args.choose, stores, {"before": before, "after": after})
