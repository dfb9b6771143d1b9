"""A rendered scene with exact masks: two textured objects move over a ground, one of them passes behind a post.

It replaces camera footage in the demo when none can be fetched, and it is the footage of many tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from sam2_ros.media.overlay import Rgb
from sam2_ros.tracking.types import BoolMask, CroppedMask


@dataclass(frozen=True)
class RenderedFrame:
    """``rgb`` is ``uint8 [H, W, 3]``; ``masks`` are the visible pixels of each object, by id."""

    rgb: Rgb
    masks: dict[int, BoolMask]


def render(frames: int, width: int = 640, height: int = 480, post: bool = True) -> Iterator[RenderedFrame]:
    """Renders ``frames`` frames: object 1, a ball, rolls to the right behind a ``post``; object 2, a book, turns."""
    ground = texture(width, height, seed=1, base=(150, 145, 135), contrast=22)
    ball = texture(width, height, seed=2, base=(205, 60, 45), contrast=45)
    book = texture(width, height, seed=3, base=(45, 90, 185), contrast=45)
    wood = texture(width, height, seed=4, base=(85, 65, 45), contrast=15)
    unit = height / 480
    for index in range(frames):
        t = index / max(1, frames - 1)
        canvas = ground.copy()
        masks: dict[int, BoolMask] = {}

        center = (round((0.35 + 0.1 * np.sin(2 * np.pi * t)) * width), round(0.27 * height))
        corners = cv2.boxPoints((center, (150 * unit, 100 * unit), 35.0 * float(np.sin(2 * np.pi * t))))
        shape = np.zeros((height, width), np.uint8)
        cv2.fillPoly(shape, [np.rint(corners).astype(np.int32)], 1)
        masks[2] = shape > 0
        canvas[masks[2]] = _moved(book, center)[masks[2]]

        center = (round((0.15 + 0.7 * t) * width), round((0.7 - 0.05 * abs(np.sin(6 * np.pi * t))) * height))
        shape = np.zeros((height, width), np.uint8)
        cv2.circle(shape, center, round(48 * unit), 1, -1)
        masks[1] = shape > 0
        canvas[masks[1]] = _moved(ball, center)[masks[1]]

        if post:
            columns = slice(round(0.48 * width), round(0.48 * width + 170 * unit))
            canvas[height // 2 :, columns] = wood[height // 2 :, columns]
            masks[1][height // 2 :, columns] = False
        yield RenderedFrame(np.asarray(cv2.GaussianBlur(canvas, (3, 3), 0), np.uint8), masks)


def bounding_box(mask: BoolMask) -> tuple[int, int, int, int]:
    """(x0, y0, x1, y1), edges in pixels, of a mask with at least one pixel."""
    return CroppedMask.from_full(mask).box


def texture(width: int, height: int, seed: int, base: tuple[int, int, int], contrast: float) -> Rgb:
    """Smooth noise in several sizes around a colour."""
    random = np.random.default_rng(seed)
    total = np.zeros((height, width), np.float32)
    for cells in (6, 16, 48):
        noise = random.standard_normal((max(2, cells * height // width), cells)).astype(np.float32)
        total += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    colored = np.asarray(base, np.float32) + contrast * total[:, :, None] / 1.7
    return np.clip(colored, 0, 255).astype(np.uint8)


def _moved(texture: Rgb, center: tuple[int, int]) -> Rgb:
    """``texture`` with its middle at ``center``, so that it moves with its object."""
    height, width = texture.shape[:2]
    return np.roll(texture, (center[1] - height // 2, center[0] - width // 2), (0, 1))
