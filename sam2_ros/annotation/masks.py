"""Masks of objects in the images of a recording."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from pycocotools import mask as coco

from sam2_ros.tracking.types import CroppedMask

_MOST_DIGITS = 6  # of a run: 30 bits
SAME = 0.5  # IoU from which on two masks, or a mask's box and a detection, show the same

Rle: TypeAlias = dict[str, Any]
"""COCO's compressed run lengths, ``{"size": [height, width], "counts": bytes}``."""


@dataclass(frozen=True)
class Mask:
    """An object in one image. ``score`` is predicted IoU x agreement x the detector's score."""

    frame: int
    object_id: int
    mask: Rle
    predicted_iou: float
    agreement: float | None = None  # IoU of both directions' masks; None: only one direction knew the object
    detection_score: float = 1.0

    @property
    def score(self) -> float:
        agreement = 1.0 if self.agreement is None else self.agreement
        return self.predicted_iou * agreement * self.detection_score


def encode(mask: CroppedMask) -> Rle:
    """The mask as pycocotools encodes it."""
    rle: Rle = coco.encode(np.asfortranarray(mask.full().view(np.uint8)))
    return rle


def check_runs(mask: Rle, width: int, height: int) -> None:
    """Run lengths from a file: pycocotools takes what lies in memory behind too few, and never ends comparing them.

    A number is written in characters of five bits from "0" on, the lowest bits first; bit 5 says that more follow. From
    the fourth run on it is the difference to the last but one.

    Raises:
        ValueError: they are no run lengths, or do not fill ``height`` x ``width`` pixels.
    """
    if mask.keys() != {"size", "counts"} or mask["size"] != [height, width]:
        raise ValueError(f"a mask has another size than its image, {width} x {height}")
    codes = np.frombuffer(mask["counts"], np.uint8).astype(np.int64) - ord("0")
    ends = np.flatnonzero((codes & 32) == 0)
    if not codes.size or codes.min() < 0 or codes.max() > 63 or not ends.size or ends[-1] != codes.size - 1:
        raise ValueError("a mask is not made of run lengths")
    begins = np.concatenate([[0], ends[:-1] + 1])
    place = np.arange(codes.size) - np.repeat(begins, ends - begins + 1)
    if place.max() > _MOST_DIGITS - 1:
        raise ValueError("a mask has a run that is too long")
    runs = np.add.reduceat((codes & 31) << (5 * place), begins)
    runs -= ((codes[ends] & 16) != 0).astype(np.int64) << (5 * (place[ends] + 1))  # the sign
    runs[1::2] = runs[1::2].cumsum()
    runs[2::2] = runs[2::2].cumsum()
    if runs.min() < 0 or runs.sum() != width * height:
        raise ValueError(f"a mask fills {runs.sum()} pixels of an image of {width} x {height}")


def decode(mask: Rle) -> CroppedMask:
    return CroppedMask.from_full(np.ascontiguousarray(coco.decode(mask)).view(np.bool_))


def box_of(mask: Rle) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 in pixels."""
    x, y, width, height = coco.toBbox(mask).tolist()
    return x, y, x + width, y + height
