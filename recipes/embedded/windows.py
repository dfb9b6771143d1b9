"""Trains the embedded checkpoint on what the tracker sees: ``python -m recipes.embedded windows --help``.

The tracker looks at each object through a window that follows it (:mod:`sam2_ros.tracking.windows`). Here the labels
of videos say where the windows would be, with some jitter; clips are what is seen through them. The encoder stays
frozen, and its features are stored on disk. Existing results are reused, and an interrupted run resumes.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterable, Iterator, Sequence
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
from sam2_ros.model import load_model
from sam2_ros.model.sam2 import Sam2Model
from sam2_ros.tracking.windows import Frame, Target, Window, plan
from sam2_ros.training.clip_folder import check_split
from sam2_ros.training.clips import Clip, Image, read_rgb
from sam2_ros.training.data.stills import read_stills
from sam2_ros.training.data.videos import Video, find_videos, read_labels
from sam2_ros.training.synthetic import OcclusionClips

SIDES = (320, 448)  # of the network's input: two windows in a frame, or one
TURNS = (320, 320, 320, 448)  # sides of the steps, in turn
MOST_OBJECTS = 4  # of a video that are tracked together
WHOLE_SHARE = {"scenes": 0.1, "davis": 0.5}  # of the tracks without windows
SMALL_SIDE = 0.5  # share of the tracks with the smaller side
SIZE_JITTER, EDGE_JITTER = 0.2, 0.03  # of boxes: log of a track's factor; of each edge, share of the box's sides
SHORTEST = 12  # frames of a track
DRAWS = {"scenes": 1, "davis": 1}  # of tracks a video
SHARES = {"scenes": 0.5, "davis": 0.3, "composites": 0.2}
STRIDES = {"scenes": 2, "davis": 3, "composites": 1}  # at most, between two frames of a clip
COMPOSITES, COMPOSITE_FRAMES = 12, 20


@dataclass(frozen=True)
class Track:
    """Objects of a video that are seen through the same windows."""

    video: Video
    start: int  # frame
    windows: tuple[Window, ...]  # from ``start`` on
    side: int  # of the network's input, pixels
    objects: tuple[int, ...]


def box_of(mask: NDArray[np.bool_]) -> tuple[int, int, int, int] | None:
    """Edges in pixels; None for an empty mask."""
    x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
    return (x, y, x + w, y + h) if w else None


def tracks_of(video: Video, labels: Image, rng: np.random.Generator, whole: float) -> list[Track]:
    """Some objects of a video and the windows in which the tracker would see them.

    Args:
        video: what the tracks are of.
        labels: ``[T, H, W]``, its labels.
        rng: source of all random numbers.
        whole: share of whole frames.
    """
    height, width = labels.shape[1:]
    frame = Frame(width, height, SIDES[0 if rng.random() < SMALL_SIDE else 1])
    values = np.unique(labels)[1:]
    chosen = rng.permutation(values)[: int(rng.integers(1, MOST_OBJECTS + 1))].tolist()
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
                    targets[key] = replace(targets[key], hidden=targets[key].hidden + 1, window=window)
                else:
                    targets[key] = Target(key, _jittered(box, sizes[key], rng), 0, window)
    members: dict[tuple[Window, ...], list[int]] = {}
    for key in targets:
        members.setdefault(tuple(seen[key]), []).append(key)
    return [
        Track(video, starts[keys[0]], windows, frame.side, tuple(keys))
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


def seen_through(track: Track) -> Clip:
    """What the network sees of a track, and the labels of its objects."""
    frames, labels = [], []
    side = (track.side, track.side)
    for t, window in enumerate(track.windows, track.start):
        place = slice(window.y0, max(window.y1, window.y0 + 1)), slice(window.x0, max(window.x1, window.x0 + 1))
        picture, label = read_rgb(track.video.frames[t])[place], read_labels(track.video.labels[t])[place]
        shrinks = max(picture.shape[:2]) > track.side
        frames.append(cv2.resize(picture, side, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR))
        own = np.where(np.isin(label, track.objects), label, 0).astype(np.uint8)
        labels.append(cv2.resize(own, side, interpolation=cv2.INTER_NEAREST))
    return Clip(track.video.name, np.stack(frames).astype(np.uint8), np.stack(labels).astype(np.uint8))


def tracks(videos: Sequence[Video], kind: str, seed: int) -> list[Track]:
    """The tracks of all videos."""
    found = []
    for index, video in enumerate(videos):
        labels = np.stack([read_labels(path) for path in video.labels])
        for draw in range(DRAWS[kind]):
            found += tracks_of(video, labels, np.random.default_rng((seed, index, draw)), WHOLE_SHARE[kind])
    return found


class Stores:
    """Features of clips on disk, made where they are missing.

    Args:
        folder: of all stores.
        model: its encoder makes the features.
    """

    def __init__(self, folder: Path, model: Sam2Model) -> None:
        self._folder = folder
        self._encoder = copy.deepcopy(model.image_encoder).to(ENCODER_DTYPE)

    def _done(self, name: str, side: int) -> Path:
        return self._folder / f"{name}_{side}" / "done"

    def of_clips(self, name: str, side: int, clips: Iterable[Clip], frames: int) -> FeatureStore:
        done = self._done(name, side)
        if not done.exists():
            print(f"features of '{name}' at {side} px: {frames} frames", flush=True)
            FeatureStore.build(done.parent, clips, frames, side, self._encoder, ENCODER_DTYPE)
            done.touch()
        return FeatureStore(done.parent)

    def of_videos(self, name: str, kind: str, videos: Sequence[Video], seed: int) -> dict[int, FeatureStore]:
        """By side of the network's input; a side without a track is left out."""
        made = {side: self._done(name, side) for side in SIDES}
        if all(done.exists() for done in made.values()):
            return {side: FeatureStore(done.parent) for side, done in made.items()}
        drawn = tracks(videos, kind, seed)
        by_side = {side: [track for track in drawn if track.side == side] for side in SIDES}
        return {
            side: self.of_clips(name, side, map(seen_through, own), sum(len(track.windows) for track in own))
            for side, own in by_side.items() if own
        }  # fmt: skip


def composites(args: argparse.Namespace) -> Iterator[Clip]:
    """Clips of photographs in which objects are covered and leave."""
    stills = read_stills(args.coco) + read_stills(args.stills)
    clips = OcclusionClips(stills, 60, SIDES[0], COMPOSITE_FRAMES)
    for number in range(COMPOSITES):
        yield clips[number]


def training_sources(args: argparse.Namespace, stores: Stores) -> dict[int, list[Source]]:
    """The sources of training clips, by side of the network's input."""
    found: dict[int, list[Source]] = {side: [] for side in SIDES}

    def add(kind: str, made: dict[int, FeatureStore], part: float = 1.0) -> None:
        for side, store in made.items():
            found[side].append(Source(store, SHARES[kind] * part, STRIDES[kind]))

    halves = [
        Video(video.name, video.frames[::2], video.labels[::2])
        for video in find_videos(args.davis, sequence_names(args.davis, "fit"))
    ]
    add("davis", stores.of_videos("davis", "davis", halves, 40))
    store = stores.of_clips("composites", SIDES[0], composites(args), COMPOSITES * COMPOSITE_FRAMES)
    add("composites", {SIDES[0]: store})
    for number, folder in enumerate(args.scenes):
        check_split(folder, "training", "train")
        made = stores.of_videos(f"scenes{number}", "scenes", find_videos(folder), 20 + number)
        add("scenes", made, 1 / len(args.scenes))
    return found


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
    for side, store in stores.of_videos("choose", "scenes", find_videos(folder), 80).items():
        for name, model in models.items():
            with torch.autocast("cpu", ENCODER_DTYPE):
                scores = evaluate(model.eval(), store, "mask")
            print(f"{name} at {side} px: J {np.mean(list(scores.values())):.3f}", flush=True)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m recipes.embedded windows", description=__doc__)
    parser.add_argument("--model", default="embedded", help="checkpoint to start from (default: embedded)")
    parser.add_argument(
        "--scenes", type=Path, nargs="+", required=True, help="folders of sam2_ros synthesize --scenes --split train"
    )
    parser.add_argument("--davis", type=Path, required=True, help="JPEGImages/, Annotations/ and fit.txt")
    parser.add_argument("--coco", type=Path, required=True, help="images/ and labels/ with YOLO polygons")
    parser.add_argument("--stills", type=Path, required=True, help="images/ and annotations.json in COCO's format")
    parser.add_argument("--choose", type=Path, help="scenes of the split choose, to compare before and after")
    parser.add_argument("--work", type=Path, required=True, help="folder for features and training state (4 GB)")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint to write")
    parser.add_argument("--steps", type=int, default=600, help="updates (default: 600)")
    parser.add_argument("--clips", type=int, default=2, help="of a step (default: 2)")
    parser.add_argument("--length", type=int, default=7, help="frames of a clip (default: 7)")
    parser.add_argument("--keep", type=float, default=0.5, help="share of the weights before (default: 0.5)")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU (default: 2)")
    parser.add_argument("--export-only", action="store_true", help="export the state as it is, without training")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = arguments().parse_args(argv)
    torch.set_num_threads(args.threads)
    model = load_model(args.model)
    stores = Stores(args.work / "features", model)
    sources = training_sources(args, stores)
    samplers = {side: Sampler(sources[side], seed=4 + side, largest=0.85) for side in SIDES}
    schedule = Schedule(
        (Phase(args.steps, args.clips, args.length),),
        rate=2e-4,
        decoder_rate=1e-4,
        warmup=30,
        average=0.99,
        save_every=20,
    )
    trainer = Trainer(model.train(), [samplers[side] for side in TURNS], schedule, args.work / "run")
    if not args.export_only:
        trainer.run(args.work / "run" / "log.jsonl")
    before, after = load_model(args.model), trainer.average
    blend(after, before, args.keep)
    export(after, args.out)
    if args.choose:
        compare(args.choose, stores, {"before": before, "after": after})
