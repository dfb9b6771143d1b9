"""Simulated users: prompts of a clip's frames, and clicks that correct wrong masks (SAM 2 paper, section D.2.2).

All random numbers come from a ``numpy.random.Generator``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sam2_ros.evaluation.clicks import deepest_point
from sam2_ros.training.options import PROMPT_KINDS, TrainOptions
from sam2_ros.training.rollout import FramePrompt

Masks = NDArray[np.bool_]
POSITIVE, NEGATIVE = 1, 0


@dataclass(frozen=True)
class Plan:
    """The actions of a simulated user in one clip, the same for all of its objects."""

    kind: str
    prompted: tuple[int, ...]  # frames, 0 among them
    clicks: Mapping[int, int]  # correcting clicks by frame


def draw_plan(options: TrainOptions, visible: Masks, rng: np.random.Generator) -> Plan:
    """Draws a plan.

    Half of the plans have a second prompted frame, in which every object is visible. A frame with a mask prompt
    receives no clicks, because there is nothing to correct.

    Args:
        options: of the training, whose defaults are those of the SAM 2 paper.
        visible: ``[T, B]``, which objects are in which frame; all are in frame 0.
        rng: source of all random numbers.
    """
    names = [kind for kind in PROMPT_KINDS if options.prompts.get(kind, 0) > 0]
    shares = np.array([options.prompts[kind] for kind in names], np.float64)
    kind = str(rng.choice(names, p=shares / shares.sum()))
    length = len(visible)
    prompted = [0]
    later = 1 + np.flatnonzero(visible[1:].all(axis=1))
    # Not in clips of two frames: two mask prompts would leave nothing to learn from.
    if rng.integers(options.prompted_frames) and len(later) and length > 2:
        prompted.append(int(rng.choice(later)))
    open_frames = [t for t in range(length) if kind != "mask" or t not in prompted]
    count = min(int(rng.integers(options.corrected_frames + 1)), len(open_frames))
    corrected = sorted(int(t) for t in rng.choice(open_frames, count, replace=False)) if count else []
    return Plan(kind, tuple(prompted), {t: int(rng.integers(1, options.clicks + 1)) for t in corrected})


def box_prompt(mask: Masks, rng: np.random.Generator | None = None) -> NDArray[np.float32]:
    """``[2, 2]`` corners of the mask's box, jittered by up to a tenth of its sides if ``rng`` is given."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = np.array([[columns[0], rows[0]], [columns[-1] + 1, rows[-1] + 1]], np.float32)
    if rng is not None:
        sides = box[1] - box[0]
        box += (rng.normal(0, 0.05, (2, 2)).clip(-0.1, 0.1) * sides).astype(np.float32)
        box = box.clip(0, np.array(mask.shape[::-1], np.float32))
    return box


def click_prompt(mask: Masks, rng: np.random.Generator | None = None) -> NDArray[np.float32]:
    """``[1, 2]`` a pixel of the object: random if ``rng`` is given, else the one farthest from the edge."""
    if rng is None:
        return deepest_point(mask)[None]
    y, x = np.argwhere(mask)[rng.integers(int(mask.sum()))]
    return np.array([[x, y]], np.float32)


def make_prompt(kind: str, masks: Sequence[Masks], rng: np.random.Generator | None = None) -> FramePrompt:
    """The prompt of this kind, one of ``PROMPT_KINDS``, for the objects' masks on the first frame."""
    if kind == "mask":
        return FramePrompt(mask=torch.from_numpy(np.stack(masks)[:, None]).float())
    prompt, labels = (box_prompt, [[2, 3]]) if kind == "box" else (click_prompt, [[1]])
    points = torch.from_numpy(np.stack([prompt(mask, rng) for mask in masks]))
    return FramePrompt(points=points, labels=torch.tensor(labels).expand(len(masks), -1))


def correction_clicks(predicted: Masks, wanted: Masks, rng: np.random.Generator, anywhere: float = 0.1) -> FramePrompt:
    """One click for each object on a random pixel where the masks ``[B, S, S]`` differ.

    It is positive on a missed pixel of the object, negative on a wrong pixel of the mask. If nothing is wrong, and in a
    share ``anywhere`` of cases, it is a positive click on the object, or a negative one anywhere if that is absent.
    """
    points, labels = [], []
    for mine, truth in zip(predicted, wanted, strict=True):
        errors = mine != truth
        if rng.random() < anywhere or not errors.any():
            errors = truth if truth.any() else np.ones_like(truth)
        rows, columns = np.nonzero(errors)
        index = int(rng.integers(len(rows)))
        points.append([[columns[index], rows[index]]])
        labels.append([POSITIVE if truth[rows[index], columns[index]] else NEGATIVE])
    return FramePrompt(points=torch.from_numpy(np.array(points, np.float32)), labels=torch.tensor(labels))
