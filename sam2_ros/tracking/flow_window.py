"""Boxes of an image, and boxes seen through a grid of samples."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]  # [h, w, 2] x, y; or [h, w]
Box = tuple[int, int, int, int]  # x0, y0, x1, y1, edges in pixels
Pair = tuple[float, float]  # in x and y

MIN_SIDE = 24  # samples: optical flow works on patches, of pictures half as large
MARGIN = 0.15  # of an object's box, on each side
MIN_MARGIN = 24  # pixels: an object that moves further in one image is lost


class Pyramid:
    """An image ``uint8 [h, w, 3]``, and halves of it, each made once and when it is needed."""

    def __init__(self, image: NDArray[np.uint8]) -> None:
        self._levels = [image]
        self._sampled: tuple[FlowWindow, NDArray[np.uint8]] | None = None  # the newest

    @property
    def shape(self) -> tuple[int, ...]:
        return self._levels[0].shape

    def level(self, level: int) -> NDArray[np.uint8]:
        """The image, so many times halved; a row or column that is left over becomes one of its own."""
        while len(self._levels) <= level:
            last = self._levels[-1]
            height, width = last.shape[:2]
            if height % 2 or width % 2:
                last = np.asarray(cv2.copyMakeBorder(last, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE))
            size = (width + 1) // 2, (height + 1) // 2
            self._levels.append(np.asarray(cv2.resize(last, size, interpolation=cv2.INTER_AREA)))
        return self._levels[level]

    def sampled(self, window: FlowWindow) -> NDArray[np.uint8]:
        """Through a window, ``[h, w, 3]``; the newest one is kept."""
        if self._sampled is None or self._sampled[0] != window:
            self._sampled = window, window.sample(self)
        return self._sampled[1]


@dataclass(frozen=True)
class FlowWindow:
    """A box of the work image, seen through ``width`` × ``height`` samples.

    The box begins and ends between two pixels of the ``level`` of a pyramid that is sampled, so that it may reach a
    little over the image.
    """

    box: Box
    width: int
    height: int
    level: int  # the coarsest one with a pixel for each sample

    @classmethod
    def of(cls, box: Box, samples: float) -> FlowWindow:
        """With about so many samples, at most one for each pixel, and an even number of them on each side."""
        width, height = box[2] - box[0], box[3] - box[1]
        scale = min(1.0, math.sqrt(samples / (width * height)))
        columns, rows = (max(MIN_SIDE, 2 * round(side * scale / 2)) for side in (width, height))
        level = max(0, int(math.log2(max(1.0, min(width / columns, height / rows)))))
        x0, y0 = (edge >> level << level for edge in box[:2])
        x1, y1 = (-(-edge >> level << level) for edge in box[2:])
        return cls((x0, y0, x1, y1), columns, rows, level)

    @functools.cached_property
    def halved(self) -> FlowWindow:
        """The same box seen through half as many samples on each side."""
        return FlowWindow(self.box, self.width // 2, self.height // 2, self.level + 1)

    @functools.cached_property
    def doubled(self) -> FlowWindow:
        """The same box seen through twice as many samples on each side; of one that is halved."""
        return FlowWindow(self.box, self.width * 2, self.height * 2, self.level - 1)

    @functools.cached_property
    def pitch(self) -> Pair:
        """Pixels from one sample to the next."""
        x0, y0, x1, y1 = self.box
        return (x1 - x0) / self.width, (y1 - y0) / self.height

    @functools.cached_property
    def points(self) -> Field:
        """Where the samples lie in the work image."""
        (px, py), (x0, y0) = self.pitch, self.box[:2]
        return grid(self.width, self.height, (px, py), (x0 + px / 2 - 0.5, y0 + py / 2 - 0.5))

    def shifted(self, dx: float, dy: float, shape: tuple[int, ...]) -> FlowWindow:
        """About so many pixels further, within an image of ``shape``."""
        step = 1 << self.level
        x0, y0, x1, y1 = self.box
        x, y = (
            max(-low, min(round(move / step) * step, max(0, -(-side // step) * step - high)))
            for move, low, high, side in ((dx, x0, x1, shape[1]), (dy, y0, y1, shape[0]))
        )
        return replace(self, box=(x0 + x, y0 + y, x1 + x, y1 + y))

    def sample(self, image: Pyramid) -> NDArray[np.uint8]:
        """The work image at the samples."""
        x0, y0, x1, y1 = (edge >> self.level for edge in self.box)
        crop = image.level(self.level)[y0:y1, x0:x1]
        return np.asarray(cv2.resize(crop, (self.width, self.height), interpolation=cv2.INTER_LINEAR))

    def sample_at(self, image: Pyramid, points: Field) -> NDArray[np.uint8]:
        """As :meth:`sample`, at other points of the work image, one for each sample."""
        scale = 2.0**-self.level  # the centre of pixel i is at i + 0.5; cv2 counts pixels from their centres
        at = affine(points, (scale, scale), (0.5 * scale - 0.5, 0.5 * scale - 0.5))
        level = image.level(self.level)
        return np.asarray(cv2.remap(level, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))

    def look_up(self, values: NDArray[Any], points: Field) -> NDArray[Any]:
        """``values`` of the samples, interpolated at ``points``; beyond the box, those of its edge."""
        (px, py), (x0, y0) = self.pitch, self.box[:2]
        at = affine(points, (1 / px, 1 / py), ((0.5 - x0) / px - 0.5, (0.5 - y0) / py - 0.5))
        return np.asarray(cv2.remap(values, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


def grid(width: int, height: int, pitch: Pair = (1.0, 1.0), first: Pair = (0.0, 0.0)) -> Field:
    """Points ``[height, width, 2]`` at an even pitch from the first one."""
    return affine(_integers(-(-width // _BLOCK), -(-height // _BLOCK))[:height, :width], pitch, first)


_BLOCK = 64


@functools.lru_cache(maxsize=16)
def _integers(columns: int, rows: int) -> Field:
    """Whole numbers from 0, x and y, for so many blocks: windows of nearly one size share them."""
    x, y = np.arange(columns * _BLOCK, dtype=np.float32), np.arange(rows * _BLOCK, dtype=np.float32)
    return np.stack(np.meshgrid(x, y), axis=-1)


def affine(points: Field, scale: Pair, shift: Pair) -> Field:
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
