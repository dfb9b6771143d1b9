"""Simulated users: which frames of a clip are prompted and how, and clicks that correct what the network got wrong.

After the SAM 2 paper, section D.2.2. All is drawn from a ``numpy.random.Generator``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from sam2_ros.training.rollout import FramePrompt
from sam2_ros.training.sampling import PROMPT_KINDS

Masks = NDArray[np.bool_]
POSITIVE, NEGATIVE = 1, 0


@dataclass(frozen=True)
class PromptRecipe:
    """How prompts are simulated; the defaults are the paper's.

    Raises:
        ValueError: a value out of range, with the range.
    """

    kinds: Mapping[str, float] = field(default_factory=lambda: {"mask": 0.5, "box": 0.25, "click": 0.25})
    prompted_frames: int = 2  # at most; the first frame always is
    corrected_frames: int = 2  # at most
    clicks: int = 7  # at most on a corrected frame
    anywhere: float = 0.1  # share of correcting clicks that fall on the object, wherever the prediction is wrong

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.kinds if kind not in PROMPT_KINDS]
        if unknown or min(self.kinds.values(), default=0) < 0 or sum(self.kinds.values()) <= 0:
            raise ValueError(
                f"prompts are {dict(self.kinds)}; accepted: shares from 0 on, not all 0, for {', '.join(PROMPT_KINDS)}"
            )
        for name, low, high in (("prompted_frames", 1, 2), ("corrected_frames", 0, 8), ("clicks", 1, 32)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} is {getattr(self, name)}; accepted: {low} to {high}")


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
