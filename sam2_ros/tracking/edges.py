"""Draws the edges of masks where the image has them. Free of torch.

The network draws masks in a quarter of the resolution that it sees. A guided filter (He, Sun and Tang, "Guided Image
Filtering", ECCV 2010, section 3) makes each mask near its edge a linear function of the colours in small boxes, twice:
the second time of a mask that is nearly sharp. The functions are found in half the resolution of the image (He and Sun,
"Fast Guided Filter", 2015).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from sam2_ros.model.arrays import float32, to_numpy
from sam2_ros.model.network import Array
from sam2_ros.tracking.types import CroppedMask
from sam2_ros.tracking.windows import Window

REACH = 2.0  # half the side of a box, in pixels of the network's mask
NOISE = np.float32(3e-5)  # variance of colours (from 0 to 1) up to which a box counts as flat
EXPLAINED = 0.3  # share of a mask's variance in a box from which on its colours decide alone
FLAT = 1e-3  # variance of a mask that is the same in a whole box
LARGEST = 448  # pixels of a window's longer side, in which it is filtered
LEAST = 0.5  # IoU with the network's mask below which the filtered one is not believed
STEEP = 16.0  # slope of logits where the filtered mask is 0.5

Map = NDArray[np.float32]
Picture = NDArray[np.uint8]


class Edges:
    """The edges of one image.

    Args:
        picture: the image, RGB ``uint8``, perhaps smaller than it is.
        width, height: of the image, pixels.
    """

    def __init__(self, picture: Picture, width: int, height: int) -> None:
        self._picture, self._width, self._height = picture, width, height
        self._parts: dict[tuple[Window, tuple[int, int]], Picture] = {}  # by window and size

    def draw(self, logits: Array, window: Window) -> CroppedMask:
        """The mask of ``logits`` (``[1, h, w]`` in ``window``) in the size of the image."""
        low = to_numpy(float32(logits[0]))
        size = window.width, window.height
        drawn = _resized(sharpened(low, self._part(window, low.shape)), size) > 0
        return CroppedMask.from_full(drawn).within(window.x0, window.y0, self._width, self._height)

    def redraw(self, mask: CroppedMask, window: Window, side: int) -> CroppedMask:
        """A mask of the image as if the network had drawn it, with ``side`` x ``side`` pixels for ``window``; itself if
        it reaches out of that."""
        if not window.holds(mask.box):
            return mask
        part = mask.full()[window.y0 : window.y1, window.x0 : window.x1].view(np.uint8) * np.uint8(255)
        shares = cv2.resize(part, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        return self.draw(np.asarray(2 * STEEP * (shares - 0.5), np.float32)[None], window)

    def _part(self, window: Window, low: tuple[int, ...]) -> Picture:
        """What the window shows, in the size in which a mask of the size ``low`` (height, width) is filtered there."""
        rows, columns = self._picture.shape[:2]
        place = window.scaled(self._width, self._height, columns, rows)
        factor = min(1.0, LARGEST / max(place.width, place.height))
        size = max(round(place.width * factor), low[1]), max(round(place.height * factor), low[0])
        if (window, size) not in self._parts:
            part = self._picture[place.y0 : place.y1, place.x0 : place.x1]
            if size != part.shape[1::-1]:
                how = cv2.INTER_AREA if size[0] < part.shape[1] else cv2.INTER_LINEAR
                part = np.asarray(cv2.resize(part, size, interpolation=how), np.uint8)
            self._parts[window, size] = part
        return self._parts[window, size]


def sharpened(logits: Map, picture: Picture) -> Map:
    """Logits ``[h, w]`` of a thing in ``picture`` (RGB ``uint8 [H, W, 3]``) → ``float32 [H, W]``, positive in it."""
    height, width = picture.shape[:2]
    full = _resized(logits, (width, height))
    x, y, w, h = cv2.boundingRect((full > 0).view(np.uint8))
    if not w:
        return full
    reach = REACH * width / logits.shape[1], REACH * height / logits.shape[0]
    left, top = (math.ceil(3 * each) for each in reach)  # twice the reach is what one pixel depends on
    place = slice(max(y - top, 0), y + h + top), slice(max(x - left, 0), x + w + left)
    part, before = np.ascontiguousarray(picture[place]), full[place]
    size = part.shape[1], part.shape[0]
    half = -(-size[0] // 2), -(-size[1] // 2)
    box = 2 * max(1, round(reach[0] / 2)) + 1, 2 * max(1, round(reach[1] / 2)) + 1
    guide = _Guide(np.asarray(cv2.resize(part, half, interpolation=cv2.INTER_AREA), np.uint8), box)
    mask = _shares(_resized(before, half))
    mask = _shares(STEEP * (_value(guide.functions(mask), guide.colours, mask) - 0.5))
    functions = [_resized(each, size) for each in guide.functions(mask)]
    nearly_sharp = _shares(STEEP * (_shares(before) - 0.5))
    found = _value(functions, _planes(part), nearly_sharp) - 0.5
    if np.count_nonzero((before > 0) & (found > 0)) >= LEAST * np.count_nonzero((before > 0) | (found > 0)):
        full[place] = found
    return full


def _resized(values: Map, size: tuple[int, int]) -> Map:
    """A map in another width and height."""
    return np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_LINEAR), np.float32)


def _shares(logits: Map) -> Map:
    """Logits as probabilities."""
    return np.asarray(1 / (1 + np.exp(-logits.clip(-30, 30))), np.float32)


def _planes(picture: Picture) -> list[Map]:
    """Red, green and blue, from 0 to 1."""
    return [np.asarray(plane * np.float32(1 / 255), np.float32) for plane in cv2.split(picture)]


def _value(functions: Sequence[Map], colours: Sequence[Map], mask: Map) -> Map:
    """The functions of :meth:`_Guide.functions` of ``colours`` and the mask that they were found for."""
    *slopes, offset, rest = functions
    found = offset + rest * mask
    for slope, colour in zip(slopes, colours, strict=True):
        found += slope * colour
    return found


class _Guide:
    """A picture, and what is known of the colours in the boxes around its pixels.

    Args:
        picture: RGB ``uint8 [H, W, 3]``.
        box: width and height of the boxes, pixels.
    """

    def __init__(self, picture: Picture, box: tuple[int, int]) -> None:
        self._box = box
        self.colours = _planes(picture)
        self._means = [self._mean(each) for each in self.colours]
        self._inverse = self._inverse_covariances()

    def _mean(self, values: Map) -> Map:
        return np.asarray(cv2.blur(values, self._box, borderType=cv2.BORDER_REFLECT), np.float32)

    def _inverse_covariances(self) -> tuple[tuple[Map, Map, Map], ...]:
        """The rows of the inverse of each box's matrix of covariances, by its factors L D Lᵀ. In a grey picture its
        determinant is almost 0: by cofactors nothing would be left of it in float32."""
        (r, g, b), (mr, mg, mb) = self.colours, self._means
        rr, gg, bb = (self._mean(c * c) - m * m + NOISE for c, m in ((r, mr), (g, mg), (b, mb)))
        rg, rb, gb = self._mean(r * g) - mr * mg, self._mean(r * b) - mr * mb, self._mean(g * b) - mg * mb
        rr = np.maximum(rr, NOISE)
        m21, m31 = rg / rr, rb / rr
        d2 = np.maximum(gg - m21 * rg, NOISE)
        m32 = (gb - m31 * rg) / d2
        d3 = np.maximum(bb - m31 * rb - m32 * m32 * d2, NOISE)
        p, q, s = 1 / rr, 1 / d2, 1 / d3
        k = m21 * m32 - m31
        v, z = -m32 * s, k * s
        u, y = q + m32 * m32 * s, -m21 * q - m32 * z
        x = p + m21 * m21 * q + k * z
        return (x, y, z), (y, u, v), (z, v, s)

    def functions(self, mask: Map) -> list[Map]:
        """For each pixel what the mask ``[H, W]`` is in the boxes around it, on average: slopes of red, green and blue,
        an offset, and a factor of the mask itself, which counts where colours explain little of it."""
        mean = self._mean(mask)
        shared = [self._mean(c * mask) - m * mean for c, m in zip(self.colours, self._means, strict=True)]
        x, y, z = shared
        slopes = [p * x + q * y + r * z for p, q, r in self._inverse]
        offset, explained = mean.copy(), np.full_like(mean, FLAT)
        for slope, colour, both in zip(slopes, self._means, shared, strict=True):
            offset -= slope * colour
            explained += slope * both
        variance = (self._mean(mask * mask) - mean * mean).clip(0, None) + FLAT
        trust = (explained / variance * (1 / EXPLAINED)).clip(0, 1)
        return [self._mean(each * trust) for each in (*slopes, offset)] + [1 - self._mean(trust)]
