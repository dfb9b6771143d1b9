"""Checks prompts and brings them into the network's coordinates."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sam2_ros.model.prompt_encoder import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT
from sam2_ros.tracking.types import Prompt, PromptCode, PromptError


def check_prompt(prompt: Prompt, width: int, height: int, new_object: bool) -> None:
    """Raises :class:`PromptError` where ``prompt`` can't be applied to an image of ``width`` × ``height``."""

    def refuse(message: str) -> PromptError:
        return PromptError(PromptCode.INVALID_PROMPT, message)

    kinds = [name for name in ("points", "box", "mask") if getattr(prompt, name) is not None]
    if prompt.candidate is not None:
        if prompt.candidate not in (1, 2, 3):
            raise refuse(f"candidate is {prompt.candidate}; accepted: 1, 2 or 3, as offered by the answer before")
        if not kinds and new_object:
            raise refuse("a candidate is chosen for an existing object; give its id, or a point for a new object")
        if kinds and (kinds != ["points"] or len(np.asarray(prompt.points)) != 1):
            raise refuse(
                "candidates are offered for a single point; give one point with the choice, or the choice alone"
            )
    elif not kinds:
        raise refuse("the prompt is empty; give points with labels, a box, a box with points, or a mask")
    if prompt.points is None and prompt.labels is not None and len(prompt.labels):
        raise refuse("labels came without points; accepted: one label for each point")
    if prompt.mask is not None:
        if len(kinds) > 1:
            raise refuse(
                f"a mask can't be combined with {' or '.join(k for k in kinds if k != 'mask')}; give one of them"
            )
        if prompt.mask.dtype != np.bool_:
            raise refuse(f"the mask is of type {prompt.mask.dtype}; accepted: bool, for example mask > 0")
        if prompt.mask.ndim != 2 or prompt.mask.shape != (height, width):
            shape = " x ".join(str(n) for n in reversed(prompt.mask.shape))
            raise refuse(f"the mask is {shape} pixels, the image {width} x {height}; they must be equal")
    if prompt.box is not None:
        box = np.asarray(prompt.box, np.float64).reshape(-1)
        if box.shape != (4,) or not np.isfinite(box).all():
            raise refuse("a box is four finite numbers: x0, y0, x1, y1 in pixels")
        x0, y0, x1, y1 = box.tolist()
        if x1 - x0 < 1 or y1 - y0 < 1:
            raise refuse(
                f"the box ({x0:g}, {y0:g}, {x1:g}, {y1:g}) is smaller than a pixel; accepted: x0 < x1 and y0 < y1"
            )
        if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
            raise refuse(f"the box ({x0:g}, {y0:g}, {x1:g}, {y1:g}) lies outside the image of {width} x {height}")
    if prompt.points is not None:
        _check_points(prompt, width, height, new_object)


def _check_points(prompt: Prompt, width: int, height: int, new_object: bool) -> None:
    points = np.asarray(prompt.points, np.float64)
    labels = np.asarray([] if prompt.labels is None else prompt.labels)
    problem = ""
    if points.ndim != 2 or points.shape[1:] != (2,) or len(points) == 0:
        problem = f"points have shape {points.shape}; accepted: one or more pairs x, y"
    elif len(labels) != len(points):
        problem = f"{len(points)} points came with {len(labels)} labels; accepted: one label for each point"
    elif not np.isin(labels, (0, 1)).all():
        problem = f"point labels are {sorted(set(labels.tolist()))}; accepted: 1 (on the object) and 0 (not on it)"
    elif not np.isfinite(points).all():
        problem = "a point is not finite"
    elif not ((points >= -0.5) & (points <= (width - 0.5, height - 0.5))).all():
        x, y = next(p for p in points.tolist() if not (-0.5 <= p[0] <= width - 0.5 and -0.5 <= p[1] <= height - 0.5))
        problem = f"the point ({x:g}, {y:g}) lies outside the image of {width} x {height}"
    elif new_object and prompt.box is None and not (labels == 1).any():
        problem = "a new object needs a positive point (label 1), a box or a mask; only negative points came"
    if problem:
        raise PromptError(PromptCode.INVALID_PROMPT, problem)


def clicks_of(prompt: Prompt) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Box corners, then points, with their labels, in source pixels; empty for a mask."""
    points, labels = np.zeros((0, 2), np.float32), np.zeros(0, np.int32)
    if prompt.box is not None:
        points = np.asarray(prompt.box, np.float32).reshape(2, 2)
        labels = np.array([BOX_TOP_LEFT, BOX_BOTTOM_RIGHT], np.int32)
    if prompt.points is not None:
        points = np.concatenate((points, np.asarray(prompt.points, np.float32)))
        labels = np.concatenate((labels, np.asarray(prompt.labels, np.int32)))
    return points, labels


def to_network(points: NDArray[np.float32], width: int, height: int, size: int) -> NDArray[np.float32]:
    """Source pixels to pixels of the square input, as the reference does it."""
    return points / np.array([width, height], np.float32) * np.float32(size)


def mask_to_network(mask: NDArray[np.bool_], size: int, device: torch.device) -> Tensor:
    """A mask in source pixels → binary float ``[1, 1, size, size]`` (bilinear, antialiased, threshold 0.5)."""
    tensor = torch.from_numpy(np.ascontiguousarray(mask)).to(device)[None, None].float()
    if mask.shape == (size, size):
        return tensor
    resized = F.interpolate(tensor, (size, size), mode="bilinear", align_corners=False, antialias=True)
    return (resized >= 0.5).float()
