"""The clips that the embedded checkpoint is trained on, as features of its frozen encoder on disk."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from sam2_ros.model.tinyvit import TinyViTEncoder
from sam2_ros.training import clips as clips_module
from sam2_ros.training import mobilesam
from sam2_ros.training.clips import Clip, Image, Still
from sam2_ros.training.features import FeatureStore
from sam2_ros.training.synthetic import OcclusionClips

ENCODER_DTYPE = torch.bfloat16  # as the tracker runs it on a CPU
COMPOSITE_LENGTH = 6
OCCLUSIONS = {  # clips and their frames, by store
    "occlusion": (450, 10),
    "longer_occlusion": (160, 20),
    "longest_occlusion": (130, 40),
}


def sequence_names(davis: Path, part: str) -> list[str]:
    return (davis / f"{part}.txt").read_text().split()


def frame_count(davis: Path, names: list[str]) -> list[int]:
    return [len(list((davis / "JPEGImages" / name).glob("*.jpg"))) for name in names]


def composites(args: argparse.Namespace) -> Iterator[Clip]:
    """Clips of COCO and pantry photographs, with their instances and DAVIS' objects flying over them."""
    rng = np.random.default_rng(2)
    stills = clips_module.read_coco_stills(args.coco) + clips_module.read_coco_json_stills(args.stills)
    pieces: list[tuple[Image, Image]] = [piece for still in stills for piece in clips_module.cutouts(still)]
    for name in sequence_names(args.davis, "fit"):
        clip = clips_module.read_sequence(args.davis, name)
        for t in range(0, len(clip.frames), 15):
            pieces += clips_module.cutouts(Still(name, clip.frames[t], clip.labels[t]))
    for _ in range(args.composites):
        background = stills[rng.integers(len(stills))]
        chosen = rng.integers(len(pieces), size=int(rng.integers(1, 5)))
        yield clips_module.composite(background, [pieces[i] for i in chosen], rng, args.size, COMPOSITE_LENGTH)


def filmed(args: argparse.Namespace) -> Iterator[Clip]:
    """Every second frame of the fit sequences, seen by a moving virtual camera."""
    rng = np.random.default_rng(1)
    for name in sequence_names(args.davis, "fit"):
        clip = clips_module.read_sequence(args.davis, name)
        yield clips_module.film(Clip(name, clip.frames[::2], clip.labels[::2]), rng, args.size)


def approached(args: argparse.Namespace) -> Iterator[Clip]:
    """Every second frame of the fit sequences, seen by a camera that comes close to their objects."""
    rng = np.random.default_rng(3)
    for name in sequence_names(args.davis, "fit"):
        clip = clips_module.read_sequence(args.davis, name)
        yield clips_module.approach(Clip(name, clip.frames[::2], clip.labels[::2]), rng, args.size)


def prepare_features(args: argparse.Namespace, mobile: mobilesam.StateDict) -> dict[str, FeatureStore]:
    """The stores ``fit``, ``dev``, ``approach``, those of OCCLUSIONS, and for the first training ``camera`` and
    ``composite``."""
    encoder = TinyViTEncoder().eval().requires_grad_(False)
    encoder.load_state_dict(mobilesam.image_encoder_state(mobile))
    encoder.to(ENCODER_DTYPE)
    plans: dict[str, tuple[Callable[[], Iterator[Clip]], int]] = {}
    for part in ("dev", "fit"):
        names = sequence_names(args.davis, part)

        def squashed(names: list[str] = names) -> Iterator[Clip]:
            for name in names:
                yield clips_module.squash(clips_module.read_sequence(args.davis, name), args.size)

        plans[part] = (squashed, sum(frame_count(args.davis, names)))
    for index, (name, (count, steps)) in enumerate(OCCLUSIONS.items()):
        if name == "longest_occlusion" and not (args.fourth_phases or args.metric_steps):
            continue

        def covered(seed: int = 11 + index, count: int = count, steps: int = steps) -> Iterator[Clip]:
            stills = clips_module.read_stills(args.coco) + clips_module.read_stills(args.stills)
            made = OcclusionClips(stills, seed, args.size, steps)
            return (made[number] for number in range(count))

        plans[name] = (covered, count * steps)
    halves = [(count + 1) // 2 for count in frame_count(args.davis, sequence_names(args.davis, "fit"))]
    plans["approach"] = (lambda: approached(args), sum(halves))
    if args.first_stage or args.second_stage or args.third_stage:
        return _stores(args, plans, encoder)
    plans["camera"] = (lambda: filmed(args), sum(halves))
    plans["composite"] = (lambda: composites(args), args.composites * COMPOSITE_LENGTH)
    return _stores(args, plans, encoder)


def _stores(
    args: argparse.Namespace, plans: dict[str, tuple[Callable[[], Iterator[Clip]], int]], encoder: TinyViTEncoder
) -> dict[str, FeatureStore]:
    """Encodes the clips of each plan, where that was not done before."""
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
