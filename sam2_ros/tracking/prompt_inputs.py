"""Prompts as the network takes them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam2_ros.model.arrays import float32
from sam2_ros.model.network import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, MASK_BIAS, MASK_SCALE, Array
from sam2_ros.tracking.maps import resized
from sam2_ros.tracking.transfer import upload
from sam2_ros.tracking.types import Prompt


def clicks_of(prompt: Prompt) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Box corners, then points, in source pixels, and their labels; empty for a mask."""
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


def mask_to_network(mask: NDArray[np.bool_], size: int, device: Any) -> Array:
    """A mask in source pixels → binary float ``[1, 1, size, size]`` (bilinear, antialiased, threshold 0.5)."""
    array = float32(upload(mask, device)[None, None])
    if mask.shape == (size, size):
        return array
    return float32(resized(array, size, size, antialias=True) >= 0.5)


def low_logits(masks: Array) -> Array:
    """Binary ``masks`` (float ``[B, 1, S, S]``) as the decoder would draw them, ``[B, 1, S / 4, S / 4]``."""
    side = masks.shape[-1] // 4
    return resized(masks * MASK_SCALE + MASK_BIAS, side, side, antialias=True)
