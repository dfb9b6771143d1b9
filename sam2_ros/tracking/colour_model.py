"""Tells an object from what surrounds it by colour: two smoothed histograms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

BINS = 16  # of each channel
LARGEST = 3.0  # log likelihood ratio: one colour never decides alone
BORDER = 8  # samples on both sides of the mask's border, where the model is judged


@dataclass(frozen=True)
class ColourModel:
    """How much more likely a colour is on the object than beside it."""

    ratios: NDArray[np.float32]  # [BINS ** 3] log likelihood ratios
    weight: float  # [0, 1] how well colours tell mask from surroundings near the border: 0 = not at all

    @classmethod
    def of(cls, rgb: NDArray[np.uint8], mask: NDArray[np.bool_]) -> ColourModel | None:
        """From a picture ``[h, w, 3]`` and the object's mask in it; None if the mask is empty or fills the picture."""
        inside = int(np.count_nonzero(mask))
        if not 0 < inside < mask.size:
            return None
        cells = _cells(rgb)
        counts = np.bincount((cells + mask * np.uint16(BINS**3)).ravel(), minlength=2 * BINS**3)
        off, on = _smooth(counts[: BINS**3]), _smooth(counts[BINS**3 :])
        likelier = (on / inside + 1e-5) / (off / (mask.size - inside) + 1e-5)
        ratios = np.clip(np.log(likelier), -LARGEST, LARGEST).astype(np.float32)
        model = cls(ratios, 0.0)
        return cls(ratios, model._skill(cells, mask))

    def evidence(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The weighted log likelihood ratio of every pixel, averaged over 3x3 pixels; > 0 = rather the object."""
        return np.asarray(cv2.blur(self.ratios.take(_cells(rgb)), (3, 3))) * np.float32(self.weight)

    def _skill(self, cells: NDArray[np.uint16], mask: NDArray[np.bool_]) -> float:
        """Twice the balanced accuracy at the border, less one."""
        pixels = mask.view(np.uint8)
        square = np.ones((2 * BORDER + 1, 2 * BORDER + 1), np.uint8)
        band = cv2.dilate(pixels, square) != cv2.erode(pixels, square)
        right = (cv2.blur(self.ratios.take(cells), (3, 3)) > 0) == mask
        right &= band
        on, off = band & mask, band & ~mask
        sizes = np.count_nonzero(on), np.count_nonzero(off)
        if not all(sizes):
            return 0.0
        shares = [np.count_nonzero(right & side) / size for side, size in zip((on, off), sizes, strict=True)]
        return max(0.0, sum(shares) - 1)


def _cells(rgb: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """The histogram cell of every pixel."""
    red, green, blue = cv2.split(rgb & np.uint8(0xF0))
    return np.asarray((red.astype(np.uint16) << 4) | green | (blue >> 4))


def _smooth(histogram: NDArray[Any]) -> NDArray[np.float32]:
    """With the kernel 1 2 1 along each channel; cells at the edge count as their own neighbours."""
    smooth = histogram.astype(np.float32)
    for _ in range(3):  # smooths the first axis and makes it the last
        smooth = smooth.reshape(BINS, -1).T @ _KERNEL
    return smooth.ravel()


_KERNEL = np.eye(BINS, dtype=np.float32) / 2
for _shift in (-1, 1):
    _KERNEL[np.arange(BINS), np.clip(np.arange(BINS) + _shift, 0, BINS - 1)] += 0.25
