"""Trains the embedded checkpoint on what the tracker sees: ``python -m recipes.embedded windows --help``.

The tracker looks at each object through a window that follows it (:mod:`sam2_ros.tracking.windows`). Here the labels of
clips say where the windows would be, with some errors. Whole frames are trained on, too, in the size that they have
without windows. Of rendered scenes, the objects that are alike, small or hidden for a while come first: there the
tracker is poor. The encoder and the decoder stay frozen, and the encoder's features are stored on disk. Existing
results are reused, and an interrupted run resumes.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from recipes.embedded.data import ENCODER_DTYPE, approach, sequence_names
from recipes.embedded.evaluate import evaluate
from recipes.embedded.export import export
from recipes.embedded.features import FeatureStore
from recipes.embedded.sampler import Sampler, Source
from recipes.embedded.trainer import Phase, Schedule, Trainer
from sam2_ros.evaluation.kinds import read_scene
from sam2_ros.model import load_model
from sam2_ros.model.config import WINDOW_SIDE
from sam2_ros.model.sam2 import Sam2Model
from sam2_ros.tracking.objects import LiveObject
from sam2_ros.tracking.types import ObjectState
from sam2_ros.tracking.viewer import target_of
from sam2_ros.tracking.windows import Frame, Window, window_of
from sam2_ros.training.clip_folder import check_split
from sam2_ros.training.clips import Clip, read_rgb, squash
from sam2_ros.training.data.stills import read_stills
from sam2_ros.training.data.videos import Video, find_videos, read_labels
from sam2_ros.training.synthetic import OcclusionClips

MOST_OBJECTS = 3  # of a clip, each in windows of its own
SIZE_JITTER, EDGE_JITTER = 0.2, 0.03  # of boxes: log of a clip's factor; of each edge, share of the box's sides
SHORTEST = 12  # frames in which an object is followed
COMPOSITES = {"windows": (45, 16, 640), "whole": (90, 14, 448)}  # clips, their frames and sides
# Of the clips of a step, the longest stride between two frames, and the least share with a hidden object.
SHARES: dict[str, dict[str, tuple[float, int, float]]] = {
    "windows": {"scenes": (0.5, 2, 0.5), "davis": (0.12, 2, 0), "approach": (0.08, 2, 0), "composites": (0.3, 1, 0.7)},
    "whole": {"scenes": (0.1, 2, 0.5), "davis": (0.45, 3, 0), "composites": (0.45, 1, 0.7)},
}
TURNS = ("windows", "windows", "whole")  # of the steps


def box_of(mask: NDArray[np.bool_]) -> tuple[int, int, int, int] | None:
    """Edges in pixels; None for an empty mask."""
    x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
    return (x, y, x + w, y + h) if w else None


def windows_of(masks: NDArray[np.bool_], rng: np.random.Generator, side: int) -> list[Window]:
    """The windows through which the tracker would see an object.

    Args:
        masks: ``[T, H, W]``, of the object; the first is not empty.
        rng: source of the errors in the boxes of its masks.
        side: of the network's input, pixels.
    """
    height, width = masks.shape[1:]
    frame = Frame(width, height, side)
    size = float(np.exp(rng.uniform(-SIZE_JITTER, SIZE_JITTER)))
    obj = LiveObject(0, 0, "", "", 0.0, 0)
    windows: list[Window] = []
    for t, mask in enumerate(masks):
        box = box_of(mask)
        if t == 0:
            assert box is not None
            obj.window = frame.window(box)
        else:
            obj.window = window_of(target_of(obj, frame, t), frame)
        windows.append(obj.window)
        if box is None:
            obj.presence = replace(obj.presence, state=ObjectState.OCCLUDED)
            continue
        found = _jittered(box, size, rng) if t else box
        edges = np.clip(found, 0, (width, height, width, height))
        obj.box, obj.box_frame = tuple(np.rint(edges).astype(int).tolist()), t
        obj.trail = obj.trail.seen(t, (edges / (width, height, width, height)).tolist(), float(mask.mean()))
        obj.presence = replace(obj.presence, state=ObjectState.VISIBLE)
    return windows


def seen_through(clip: Clip, windows: Sequence[Window], value: int, side: int) -> Clip:
    """What the network sees of the object ``value`` in its input of ``side`` pixels, frame by frame."""
    frames, labels = [], []
    for picture, label, window in zip(clip.frames, clip.labels, windows, strict=True):
        place = slice(window.y0, max(window.y1, window.y0 + 1)), slice(window.x0, max(window.x1, window.x0 + 1))
        shrinks = max(window.width, window.height) > side
        how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        frames.append(cv2.resize(picture[place], (side, side), interpolation=how))
        own = np.where(label[place] == value, np.uint8(value), np.uint8(0))
        labels.append(cv2.resize(own, (side, side), interpolation=cv2.INTER_NEAREST))
    return Clip(clip.name, np.stack(frames).astype(np.uint8), np.stack(labels).astype(np.uint8))


def looks(clip: Clip, rng: np.random.Generator, side: int, first: Collection[int] = ()) -> Iterator[Clip]:
    """Some objects of a clip, each through its own windows; those of ``first`` are taken before the others."""
    drawn = rng.permutation(np.setdiff1d(clip.labels, 0)).tolist()
    for value in sorted(drawn, key=lambda value: value not in first)[:MOST_OBJECTS]:
        masks = clip.labels == value
        start = int(masks.any(axis=(1, 2)).argmax())
        if len(masks) - start >= SHORTEST:
            rest = Clip(clip.name, clip.frames[start:], clip.labels[start:])
            yield seen_through(rest, windows_of(masks[start:], rng, side), value, side)


def _jittered(
    box: tuple[int, int, int, int], size: float, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    edges = np.array(box, np.float64)
    middle, half = (edges[:2] + edges[2:]) / 2, (edges[2:] - edges[:2]) / 2 * size
    low, high = np.split(np.concatenate((middle - half, middle + half)), 2)
    noise = rng.normal(0, EDGE_JITTER, 4) * np.tile(2 * half, 2)
    x0, y0, x1, y1 = (np.concatenate((low, high)) + noise).tolist()
    return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)


def hard_objects(scenes: Path, name: str) -> set[int]:
    """Of a rendered scene, the objects that are alike, small, or hidden for a while; none if nothing is known of it."""
    known = read_scene(scenes, name) or {}
    return {number for number, each in known.items() if each.kind in ("copy", "small") or each.hidden_and_back}


def read_clip(video: Video, stride: int = 1) -> Clip:
    """Every ``stride``-th frame of a video, in its own size."""
    frames = [read_rgb(path) for path in video.frames[::stride]]
    return Clip(video.name, np.stack(frames), np.stack([read_labels(path) for path in video.labels[::stride]]))


class Stores:
    """Features of clips on disk, made where they are missing.

    Args:
        folder: of all stores.
        model: its encoder makes the features.
    """

    def __init__(self, folder: Path, model: Sam2Model) -> None:
        self._folder = folder
        self._encoder = copy.deepcopy(model.image_encoder).to(ENCODER_DTYPE)

    def of(self, name: str, side: int, clips: Iterable[Clip], most: int) -> FeatureStore:
        """Features of ``clips``, square and of ``side`` pixels, with ``most`` frames together or fewer."""
        done = self._folder / name / "done"
        if not done.exists():
            print(f"features of '{name}'", flush=True)
            FeatureStore.build(done.parent, clips, most, side, self._encoder, ENCODER_DTYPE)
            done.touch()
        return FeatureStore(done.parent)

    def of_looks(
        self, name: str, clips: Iterable[Clip], most: int, seed: int, scenes: Path | None = None
    ) -> FeatureStore:
        """What is seen of ``clips``, with ``most`` frames together or fewer, through windows. Of those rendered to the
        folder ``scenes``, hard objects come first."""
        seen = (
            look
            for index, clip in enumerate(clips)
            for look in looks(
                clip,
                np.random.default_rng((seed, index)),
                WINDOW_SIDE,
                hard_objects(scenes, clip.name) if scenes else (),
            )
        )
        return self.of(name, WINDOW_SIDE, seen, most * MOST_OBJECTS)


def samplers(args: argparse.Namespace, stores: Stores, side: int) -> list[Sampler]:
    """What a step draws from, in turns: clips through windows, and whole frames in an input of ``side`` pixels."""
    check_split(args.scenes, "training", "train")
    scenes, davis = find_videos(args.scenes), find_videos(args.davis, sequence_names(args.davis, "fit"))
    stills = read_stills(args.coco) + read_stills(args.stills)

    def composites(kind: str, seed: int) -> Iterator[Clip]:
        count, steps, size = COMPOSITES[kind]
        made = OcclusionClips(stills, seed, size, steps)
        return (made[number] for number in range(count))

    def approached() -> Iterator[Clip]:
        rng = np.random.default_rng(41)
        return (approach(read_clip(video, 2), rng, WINDOW_SIDE) for video in davis)

    def frames(videos: Sequence[Video]) -> int:
        return sum(len(video.frames) for video in videos)

    counts = {kind: count * steps for kind, (count, steps, _) in COMPOSITES.items()}
    made = {
        "windows": {
            "davis": stores.of_looks("davis", (read_clip(video, 2) for video in davis), frames(davis), 40),
            "approach": stores.of("approach", WINDOW_SIDE, approached(), frames(davis)),
            "composites": stores.of_looks("composites", composites("windows", 60), counts["windows"], 42),
            "scenes": stores.of_looks("scenes", map(read_clip, scenes), frames(scenes), 20, args.scenes),
        },
        "whole": {
            "davis": stores.of(
                "davis_whole", side, (squash(read_clip(video, 2), side) for video in davis), frames(davis)
            ),
            "composites": stores.of("composites_whole", side, composites("whole", 61), counts["whole"]),
            "scenes": stores.of(
                "scenes_whole", side, (squash(read_clip(video), side) for video in scenes[::4]), frames(scenes)
            ),
        },
    }
    return [
        Sampler([Source(made[turn][name], *shares) for name, shares in SHARES[turn].items()], seed=seed, largest=0.85)
        for seed, turn in enumerate(TURNS)
    ]


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
    videos = find_videos(folder)
    store = stores.of_looks("choose", map(read_clip, videos), sum(len(video.frames) for video in videos), 80, folder)
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
    parser.add_argument("--work", type=Path, required=True, help="folder for features and training state (16 GB)")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint to write")
    parser.add_argument("--steps", type=int, default=1110, help="updates (default: 1110)")
    parser.add_argument("--clips", type=int, default=3, help="of a step (default: 3)")
    parser.add_argument("--length", type=int, default=9, help="frames of a clip (default: 9)")
    parser.add_argument("--lead", type=int, default=4, help="up to so many frames more, without gradients (default: 4)")
    parser.add_argument("--rate", type=float, default=1.5e-4, help="of learning (default: 1.5e-4)")
    parser.add_argument("--keep", type=float, default=0.3, help="share of the weights before (default: 0.3)")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU (default: 1)")
    parser.add_argument("--export-only", action="store_true", help="export the state as it is, without training")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = arguments().parse_args(argv)
    torch.set_num_threads(args.threads)
    model = load_model(args.model)
    stores = Stores(args.work / "features", model)
    schedule = Schedule(
        (Phase(args.steps, args.clips, args.length, args.lead),),
        rate=args.rate,
        decoder_rate=0,  # recognition judges masks found without memory, and was fitted to this decoder
        certainty=1.5,  # the head was calibrated on hard clips: elsewhere its scores are too small, and would all rise
        warmup=50,
        save_every=50,
    )
    drawn = samplers(args, stores, model.config.image_size)
    trainer = Trainer(model.train(), drawn, schedule, args.work / "run")
    if not args.export_only:
        trainer.run(args.work / "run" / "log.jsonl")
    before, after = load_model(args.model), trainer.average
    blend(after, before, args.keep)
    export(after, args.out)
    if args.choose:
        compare(args.choose, stores, {"before": before, "after": after})
