"""The training clips of the embedded checkpoint, stored on disk as features of its frozen encoder."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import torch

from recipes.embedded import mobilesam
from recipes.embedded.features import FeatureStore
from sam2_ros.model.tinyvit import TinyViTEncoder
from sam2_ros.training.clips import (
    Clip,
    Cutout,
    Still,
    composite,
    cutouts,
    film,
    read_rgb,
    smooth_path,
    squash,
    warp,
)
from sam2_ros.training.data.stills import read_stills
from sam2_ros.training.synthetic import OcclusionClips

ENCODER_DTYPE = torch.bfloat16  # as the tracker runs it on a CPU
COMPOSITE_LENGTH = 6
OCCLUSIONS = {  # clips and their frames, by store
    "occlusion": (450, 10),
    "longer_occlusion": (160, 20),
    "longest_occlusion": (130, 40),
}


def read_sequence(root: Path, name: str) -> Clip:
    """A DAVIS sequence in its own size: ``JPEGImages/<name>/*.jpg`` and ``Annotations/<name>/*.png``."""
    paths = sorted((root / "JPEGImages" / name).glob("*.jpg"))
    if not paths:
        raise ValueError(f"{root} holds no frames of a sequence '{name}'; expected JPEGImages/{name}/*.jpg")
    frames = [read_rgb(path) for path in paths]
    labels = [read_rgb(root / "Annotations" / name / f"{path.stem}.png").any(axis=2).astype(np.uint8) for path in paths]
    return Clip(name, np.stack(frames), np.stack(labels))


def approach(clip: Clip, rng: np.random.Generator, size: int, largest: float = 1.4) -> Clip:
    """``clip`` filmed by a camera that follows its objects and moves towards them or away.

    The labelled area fills between a third and ``largest`` of the view's width or height, as far as the picture allows.
    The view never leaves the picture. While nothing is labelled, the camera moves on to the next labelled area.

    Raises:
        ValueError: no frame has a label.
    """
    steps, height, width = clip.labels.shape
    boxes = np.full((steps, 4), np.nan)  # x, y, width, height as shares of the picture
    for t in range(steps):
        if clip.labels[t].any():
            boxes[t] = np.array(cv2.boundingRect((clip.labels[t] > 0).astype(np.uint8))) / (
                width,
                height,
                width,
                height,
            )
    known = np.flatnonzero(np.isfinite(boxes[:, 0]))
    if not known.size:
        raise ValueError(f"clip '{clip.name}' has no labelled pixel to come close to")
    boxes = np.stack([np.interp(np.arange(steps), known, column[known]) for column in boxes.T], axis=1)
    ends = np.log(rng.permutation([0.33, rng.uniform(0.8, largest)]))
    share = boxes[:, 2:].max(axis=1) / np.exp(np.interp(np.arange(steps), (0, steps - 1), ends))
    sway = np.stack((smooth_path(rng, steps, 0.12), smooth_path(rng, steps, 0.12)), axis=1)
    centre = boxes[:, :2] + boxes[:, 2:] / 2 + sway * share[:, None]
    kernel = np.ones(7) / 7  # a camera moves more smoothly than a box
    share, x, y = (np.convolve(np.pad(v, 3, mode="edge"), kernel, mode="valid") for v in (share, *centre.T))
    share = np.minimum(share, 1)
    flip = -1.0 if rng.random() < 0.5 else 1.0
    frames, labels = [], []
    for t in range(steps):
        middle = np.clip((x[t], y[t]), share[t] / 2, 1 - share[t] / 2) * (width, height)
        linear = np.diag((flip * size / (width * share[t]), size / (height * share[t])))
        matrix = np.column_stack((linear, size / 2 - linear @ middle))
        frames.append(warp(clip.frames[t], matrix, size))
        labels.append(warp(clip.labels[t], matrix, size, linear=False))
    return Clip(clip.name + "+approach", np.stack(frames), np.stack(labels))


def sequence_names(davis: Path, part: str) -> list[str]:
    return (davis / f"{part}.txt").read_text().split()


def frame_count(davis: Path, names: list[str]) -> list[int]:
    return [len(list((davis / "JPEGImages" / name).glob("*.jpg"))) for name in names]


def composites(args: argparse.Namespace) -> Iterator[Clip]:
    """Clips of photographs; their instances, and DAVIS' objects unless ``--no-video``, fly over them."""
    rng = np.random.default_rng(2)
    stills = read_stills(args.coco) + read_stills(args.stills)
    pieces: list[Cutout] = [piece for still in stills for piece in cutouts(still)]
    for name in () if args.no_video else sequence_names(args.davis, "fit"):
        clip = read_sequence(args.davis, name)
        for t in range(0, len(clip.frames), 15):
            pieces += cutouts(Still(name, clip.frames[t], clip.labels[t]))
    for _ in range(args.composites):
        background = stills[rng.integers(len(stills))]
        chosen = rng.integers(len(pieces), size=int(rng.integers(1, 5)))
        yield composite(background, [pieces[i] for i in chosen], rng, args.size, COMPOSITE_LENGTH)


def filmed(args: argparse.Namespace) -> Iterator[Clip]:
    """Every second frame of the fit sequences, filmed by a virtual camera."""
    rng = np.random.default_rng(1)
    for name in sequence_names(args.davis, "fit"):
        clip = read_sequence(args.davis, name)
        yield film(Clip(name, clip.frames[::2], clip.labels[::2]), rng, args.size)


def approached(args: argparse.Namespace) -> Iterator[Clip]:
    """Every second frame of the fit sequences, filmed by a camera that comes close to their objects."""
    rng = np.random.default_rng(3)
    for name in sequence_names(args.davis, "fit"):
        clip = read_sequence(args.davis, name)
        yield approach(Clip(name, clip.frames[::2], clip.labels[::2]), rng, args.size)


def prepare_features(args: argparse.Namespace, mobile: mobilesam.StateDict) -> dict[str, FeatureStore]:
    """The stores ``fit``, ``dev``, ``approach``, those of OCCLUSIONS, and for the first training ``camera`` and
    ``composite``; with ``--no-video`` those of photographs and ``dev``."""
    encoder = TinyViTEncoder().eval().requires_grad_(False)
    encoder.load_state_dict(mobilesam.image_encoder_state(mobile))
    encoder.to(ENCODER_DTYPE)
    plans: dict[str, tuple[Callable[[], Iterator[Clip]], int]] = {}
    for part in ("dev",) if args.no_video else ("dev", "fit"):
        names = sequence_names(args.davis, part)

        def squashed(names: list[str] = names) -> Iterator[Clip]:
            for name in names:
                yield squash(read_sequence(args.davis, name), args.size)

        plans[part] = (squashed, sum(frame_count(args.davis, names)))
    for index, (name, (count, steps)) in enumerate(OCCLUSIONS.items()):
        if name == "longest_occlusion" and not (args.fourth_phases or args.metric_steps):
            continue

        def covered(seed: int = 11 + index, count: int = count, steps: int = steps) -> Iterator[Clip]:
            stills = read_stills(args.coco) + read_stills(args.stills)
            made = OcclusionClips(stills, seed, args.size, steps)
            return (made[number] for number in range(count))

        plans[name] = (covered, count * steps)
    first = not (args.first_stage or args.second_stage or args.third_stage)
    if not args.no_video:
        halves = [(count + 1) // 2 for count in frame_count(args.davis, sequence_names(args.davis, "fit"))]
        plans["approach"] = (lambda: approached(args), sum(halves))
        if first:
            plans["camera"] = (lambda: filmed(args), sum(halves))
    if first:
        plans["composite"] = (lambda: composites(args), args.composites * COMPOSITE_LENGTH)
    return _stores(args, plans, encoder)


def _stores(
    args: argparse.Namespace, plans: dict[str, tuple[Callable[[], Iterator[Clip]], int]], encoder: TinyViTEncoder
) -> dict[str, FeatureStore]:
    """Encodes the clips of each plan, unless they are on disk already."""
    stores = {}
    for name, (source, total) in plans.items():
        folder = args.work / "features" / name
        done = folder / "done"
        if not done.exists():
            print(f"features of '{name}': {total} frames", flush=True)
            FeatureStore.build(folder, source(), total, args.size, encoder, ENCODER_DTYPE)
            done.touch()
        stores[name] = FeatureStore(folder)
    return stores
