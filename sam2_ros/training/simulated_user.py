"""Simulated users: which frames of a clip are prompted and how, and clicks that correct what the network got wrong.

After the SAM 2 paper, section D.2.2. All is drawn from a ``numpy.random.Generator``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sam2_ros.evaluation.clicks import deepest_point
from sam2_ros.training.options import PROMPT_KINDS, PromptRecipe
from sam2_ros.training.rollout import FramePrompt

Masks = NDArray[np.bool_]
POSITIVE, NEGATIVE = 1, 0


@dataclass(frozen=True)
class Plan:
    """What a simulated user does in one clip, alike for all of its objects."""

    kind: str
    prompted: tuple[int, ...]  # frames, 0 among them
    clicks: Mapping[int, int]  # correcting clicks by frame


def draw_plan(recipe: PromptRecipe, visible: Masks, rng: np.random.Generator) -> Plan:
    """Draws a plan.

    Args:
        recipe: its shares and limits.
        visible: ``[T, B]``, which objects are in which frame; all are in frame 0.
        rng: what is drawn from.

    The second prompted frame, as often there as not, is one in which every object is seen. A given mask leaves nothing
    to correct, so frames with one receive no clicks.
    """
    names = [kind for kind in PROMPT_KINDS if recipe.kinds.get(kind, 0) > 0]
    shares = np.array([recipe.kinds[kind] for kind in names], np.float64)
    kind = str(rng.choice(names, p=shares / shares.sum()))
    length = len(visible)
    prompted = [0]
    later = 1 + np.flatnonzero(visible[1:].all(axis=1))
    # Not in clips of two frames: with two masks there would be nothing left to learn from.
    if rng.integers(recipe.prompted_frames) and len(later) and length > 2:
        prompted.append(int(rng.choice(later)))
    open_frames = [t for t in range(length) if kind != "mask" or t not in prompted]
    count = min(int(rng.integers(recipe.corrected_frames + 1)), len(open_frames))
    corrected = sorted(int(t) for t in rng.choice(open_frames, count, replace=False)) if count else []
    return Plan(kind, tuple(prompted), {t: int(rng.integers(1, recipe.clicks + 1)) for t in corrected})


def box_prompt(mask: Masks, rng: np.random.Generator | None = None) -> NDArray[np.float32]:
    """``[2, 2]`` corners of the mask's box, jittered by up to a tenth of its sides where ``rng`` is given."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = np.array([[columns[0], rows[0]], [columns[-1] + 1, rows[-1] + 1]], np.float32)
    if rng is not None:
        sides = box[1] - box[0]
        box += (rng.normal(0, 0.05, (2, 2)).clip(-0.1, 0.1) * sides).astype(np.float32)
        box = box.clip(0, np.array(mask.shape[::-1], np.float32))
    return box


def click_prompt(mask: Masks, rng: np.random.Generator | None = None) -> NDArray[np.float32]:
    """``[1, 2]`` a pixel of the object: random where ``rng`` is given, else the one farthest from the edge."""
    if rng is None:
        return deepest_point(mask)[None]
    y, x = np.argwhere(mask)[rng.integers(int(mask.sum()))]
    return np.array([[x, y]], np.float32)


def make_prompt(kind: str, masks: Sequence[Masks], rng: np.random.Generator | None = None) -> FramePrompt:
    """The prompt of this kind for the objects' masks on the first frame."""
    if kind == "mask":
        return FramePrompt(mask=torch.from_numpy(np.stack(masks)[:, None]).float())
    if kind == "box":
        points = np.stack([box_prompt(mask, rng) for mask in masks])
        return FramePrompt(points=torch.from_numpy(points), labels=torch.tensor([[2, 3]]).expand(len(masks), -1))
    if kind == "click":
        points = np.stack([click_prompt(mask, rng) for mask in masks])
        return FramePrompt(points=torch.from_numpy(points), labels=torch.ones(len(masks), 1, dtype=torch.int64))
    raise ValueError(f"prompt kind '{kind}'; accepted: {', '.join(PROMPT_KINDS)}")


def correction_clicks(predicted: Masks, wanted: Masks, rng: np.random.Generator, anywhere: float) -> FramePrompt:
    """One click for each object, drawn evenly from where the masks ``[B, S, S]`` differ.

    Positive where the object was missed, negative where something else was taken for it. Where nothing is wrong, and in
    a share ``anywhere`` of cases, it is a positive click on the object, or, where that is absent, a negative one
    somewhere in the image.
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
