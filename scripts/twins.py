#!/usr/bin/env python3
"""Composites with identical twins that cross: how often is a twin taken for the other one, with each memory policy?

Two equal objects move over a textured ground, pass close by or behind each other and part again. Each is tracked from
its box on the first frame. A frame counts as switched where the mask overlaps the twin more than the object itself.
Equal seeds give equal clips. Prints a table and writes ``twins.json`` and ``twins.png``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from sam2_ros.media.figures import contact_sheet, write_png
from sam2_ros.media.overlay import draw_overlay
from sam2_ros.media.rendered_scene import bounding_box, texture
from sam2_ros.model import Sam2Model, load_model
from sam2_ros.tracking import AddRequest, Prompt, Tracker, TrackerConfig
from sam2_ros.tracking.policies import POLICIES
from sam2_ros.tracking.types import BoolMask

Rgb = NDArray[np.uint8]
SEEN = 0.1  # IoU from which on a mask is of an object at all
SHOWN = 0.15  # of a twin must be in sight for a frame to count


@dataclass(frozen=True)
class Twins:
    """One frame: RGB, and the visible pixels of both twins; ``shown`` is the share of each that is in sight."""

    rgb: Rgb
    masks: tuple[BoolMask, BoolMask]
    shown: tuple[float, float]


@dataclass
class Score:
    """What one policy made of all clips; two objects in each."""

    objects: int = 0
    switches: int = 0  # times that an object's mask went over to the twin
    ended_on_twin: int = 0  # objects whose mask was the twin's at the end
    wrong_frames: int = 0
    frames: int = 0
    overlap: list[float] = field(default_factory=list)  # IoU with the object itself, on frames on which it is in sight
    anchors: int = 0


def clip(seed: int, frames: int, width: int, height: int) -> Iterator[Twins]:
    """Twins on smooth paths that cross in the middle of the clip, one before the other."""
    rng = np.random.default_rng(seed)
    ground = texture(width, height, 10_000 + seed, (120, 130, 120), 30)
    skin = texture(width, height, 20_000 + seed, _color(rng), 50)
    half = rng.uniform(0.08, 0.13, 2) * height
    corner_count = int(rng.integers(3, 7))
    angles = np.sort(rng.uniform(0, 2 * np.pi, corner_count)) if corner_count > 4 else None
    miss = rng.uniform(-1.2, 1.2) * half[1]  # how far they pass from each other
    bend = rng.uniform(-0.15, 0.15, 2) * height
    for index in range(frames):
        t = 2 * index / max(1, frames - 1) - 1  # -1 to 1, crossing at 0
        centres = [
            np.array([width * (0.5 + 0.33 * t), height * 0.5 + miss / 2 + bend[0] * t * t]),
            np.array([width * (0.5 - 0.33 * t), height * 0.5 - miss / 2 + bend[1] * t * t]),
        ]
        canvas = ground.copy()
        whole = []
        for centre in centres:
            shape = np.zeros((height, width), np.uint8)
            if angles is None:
                cv2.ellipse(shape, _point(centre), _point(half), 0, 0, 360, 1, -1)
            else:
                corners = centre + np.stack((np.cos(angles), np.sin(angles)), axis=1) * half * 1.2
                cv2.fillPoly(shape, [np.rint(corners).astype(np.int32)], 1)
            whole.append(shape > 0)
            shift = (_point(centre)[1] - height // 2, _point(centre)[0] - width // 2)
            canvas[shape > 0] = np.roll(skin, shift, (0, 1))[shape > 0]
        visible = (whole[0] & ~whole[1], whole[1])
        shares = tuple(float(v.sum() / max(1, w.sum())) for v, w in zip(visible, whole, strict=True))
        yield Twins(np.asarray(cv2.GaussianBlur(canvas, (3, 3), 0), np.uint8), visible, (shares[0], shares[1]))


def measure(model: Sam2Model, policy: str, arguments: argparse.Namespace, pictures: list[tuple[Rgb, str]]) -> Score:
    """Tracks both twins of every clip; the first clip is drawn into ``pictures``."""
    score = Score()
    for seed in range(arguments.seed, arguments.seed + arguments.clips):
        tracker = Tracker(model, TrackerConfig(max_objects=2, memory_policy=policy), arguments.dtype)
        on_twin = [False, False]
        for index, twins in enumerate(clip(seed, arguments.frames, 320, 240)):
            result = tracker.step(twins.rgb, index)
            if index == 0:
                boxes = [np.array(bounding_box(mask), np.float32) for mask in twins.masks]
                tracker.add([AddRequest(Prompt(box=box)) for box in boxes])
                continue
            for one in (0, 1):
                mask = result.objects[one].mask.full()
                own, other = (iou(mask, twins.masks[i]) for i in (one, 1 - one))
                if twins.shown[one] < SHOWN:
                    continue
                score.frames += 1
                score.overlap.append(own)
                if max(own, other) >= SEEN:
                    swapped = bool(other > own)
                    score.switches += swapped and not on_twin[one]
                    on_twin[one] = swapped
                score.wrong_frames += bool(on_twin[one] and mask.any())
            if seed == arguments.seed and index % max(1, arguments.frames // 8) == 0:
                pictures.append((draw_overlay(twins.rgb, result), f"{policy}, frame {index}"))
        score.objects += 2
        score.ended_on_twin += sum(on_twin)
        score.anchors += int((tracker.bank.prompted_frames[:, tracker.config.prompted_slots :] >= 0).sum())
    return score


def iou(a: BoolMask, b: BoolMask) -> float:
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 0.0


def table(scores: dict[str, Score]) -> str:
    """Markdown."""
    lines = [
        "| policy | identity switches | ended on the twin | frames on the twin | mean IoU |",
        "|---|---|---|---|---|",
    ]
    for policy, score in scores.items():
        lines.append(
            f"| `{policy}` | {score.switches} | {score.ended_on_twin} of {score.objects} objects | "
            f"{100 * score.wrong_frames / score.frames:.1f} % | {np.mean(score.overlap):.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--policies", nargs="+", default=list(POLICIES), choices=list(POLICIES))
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("twins_output"), metavar="DIR")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = load_model(arguments.model)
    pictures: list[tuple[Rgb, str]] = []
    scores = {policy: measure(model, policy, arguments, pictures) for policy in arguments.policies}
    arguments.out.mkdir(parents=True, exist_ok=True)
    summary = {name: {**vars(score), "overlap": float(np.mean(score.overlap))} for name, score in scores.items()}
    (arguments.out / "twins.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    write_png(arguments.out / "twins.png", contact_sheet(pictures, columns=8, cell_width=240))
    print(table(scores))
    print(f"wrote {arguments.out / 'twins.json'} and twins.png")


def _color(rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in rng.integers(50, 220, 3))
    return red, green, blue


def _point(values: NDArray[np.float64]) -> tuple[int, int]:
    return round(float(values[0])), round(float(values[1]))


if __name__ == "__main__":
    main()
