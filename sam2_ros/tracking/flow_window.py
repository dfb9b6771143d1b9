"""Boxes of an image, and boxes seen through a grid of samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]  # [h, w, 2] x, y; or [h, w]
Box = tuple[int, int, int, int]  # x0, y0, x1, y1, edges in pixels

MIN_SIDE = 16  # samples: optical flow works on patches
MARGIN = 0.25  # of an object's box, on each side
MIN_MARGIN = 24  # pixels: an object that moves further in one image is lost


class Pyramid:
    """An image ``uint8 [h, w]`` or ``[h, w, 3]``, and halves of it, each made once and when it is needed."""

    def __init__(self, image: NDArray[np.uint8]) -> None:
        self._levels = [image]

    @property
    def shape(self) -> tuple[int, ...]:
        return self._levels[0].shape

    def level(self, level: int) -> NDArray[np.uint8]:
        """The image, so many times halved; as often as it has two pixels on each side."""
        while len(self._levels) <= level:
            last = self._levels[-1]
            height, width = (max(1, side // 2) for side in last.shape[:2])
            whole = last[: 2 * height, : 2 * width]
            self._levels.append(np.asarray(cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)))
        return self._levels[level]


@dataclass(frozen=True)
class FlowWindow:
    """A box of the work image, seen through ``width`` × ``height`` samples."""

    box: Box
    width: int
    height: int

    @classmethod
    def of(cls, box: Box, samples: float) -> FlowWindow:
        """With about so many samples, at most one for each pixel."""
        width, height = box[2] - box[0], box[3] - box[1]
        scale = min(1.0, math.sqrt(samples / (width * height)))
        return cls(box, max(MIN_SIDE, round(width * scale)), max(MIN_SIDE, round(height * scale)))

    @property
    def pitch(self) -> Field:
        """Pixels from one sample to the next: x, y."""
        x0, y0, x1, y1 = self.box
        return np.array([(x1 - x0) / self.width, (y1 - y0) / self.height], np.float32)

    def points(self) -> Field:
        """Where the samples lie in the work image."""
        pitch = self.pitch
        points = np.empty((self.height, self.width, 2), np.float32)
        points[..., 0] = self.box[0] - 0.5 + (np.arange(self.width, dtype=np.float32) + 0.5) * pitch[0]
        points[..., 1] = (self.box[1] - 0.5 + (np.arange(self.height, dtype=np.float32) + 0.5) * pitch[1])[:, None]
        return points

    def sample(self, image: Pyramid, shift: Sequence[float] = (0.0, 0.0)) -> NDArray[np.uint8]:
        """The work image at the samples, or at samples that lie ``shift`` pixels further."""
        pitch, level = self.pitch, self._level
        scale = 2.0**-level
        # The centre of pixel i is at i + 0.5; cv2 counts pixels from their centres.
        moves = ((self.box[n] + shift[n] + 0.5 * float(pitch[n])) * scale - 0.5 for n in (0, 1))
        (ox, oy), (sx, sy) = moves, (pitch * np.float32(scale)).tolist()
        to_image = np.array([[sx, 0, ox], [0, sy, oy]])
        how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        size = self.width, self.height
        return np.asarray(
            cv2.warpAffine(image.level(level), to_image, size, flags=how, borderMode=cv2.BORDER_REPLICATE)
        )

    def sample_at(self, image: Pyramid, points: Field) -> NDArray[np.uint8]:
        """As :meth:`sample`, at other points of the work image, one for each sample."""
        level = self._level
        scale = np.float32(2.0**-level)
        at = (points + np.float32(0.5)) * scale - np.float32(0.5)
        return np.asarray(cv2.remap(image.level(level), at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))

    @property
    def _level(self) -> int:
        """The level of a pyramid with one to two pixels for each sample."""
        return max(0, int(math.log2(max(1.0, float(self.pitch.min())))))

    def look_up(self, values: NDArray[Any], points: Field) -> NDArray[Any]:
        """``values`` of the samples, interpolated at ``points``; beyond the box, those of its edge."""
        pitch = self.pitch
        at = affine(points, 1 / pitch, (0.5 - np.array(self.box[:2])) / pitch - 0.5)
        return np.asarray(cv2.remap(values, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


def affine(points: Field, scale: Sequence[float] | NDArray[Any], shift: Sequence[float] | NDArray[Any]) -> Field:
    """``scale * points + shift``, in x and y; NumPy takes many times as long to broadcast two values."""
    return np.asarray(cv2.transform(points, np.array([[scale[0], 0, shift[0]], [0, scale[1], shift[1]]])))


def box_of(mask: NDArray[np.bool_]) -> Box | None:
    """The tight box of a mask; None if it is empty."""
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    return (x, y, x + width, y + height) if width else None


def clipped(box: Sequence[float], shape: tuple[int, ...]) -> Box:
    """Within an image of ``shape``, at least one pixel."""
    height, width = shape[:2]
    x0, y0 = min(max(0, int(box[0])), width - 1), min(max(0, int(box[1])), height - 1)
    return x0, y0, min(width, max(x0 + 1, int(box[2]))), min(height, max(y0 + 1, int(box[3])))


def grown(box: Box, shape: tuple[int, ...]) -> Box:
    """With a margin, within an image of ``shape``."""
    x0, y0, x1, y1 = box
    dx, dy = max(MIN_MARGIN, MARGIN * (x1 - x0)), max(MIN_MARGIN, MARGIN * (y1 - y0))
    return clipped((x0 - dx, y0 - dy, x1 + dx, y1 + dy), shape)


def contains(outer: Box, inner: Box) -> bool:
    """Whether one box lies in another."""
    return outer[0] <= inner[0] and outer[1] <= inner[1] and inner[2] <= outer[2] and inner[3] <= outer[3]


def both(a: Box, b: Box) -> Box:
    """The smallest box around two."""
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])


def area_of(box: Box) -> int:
    """Pixels of a box."""
    return (box[2] - box[0]) * (box[3] - box[1])
