"""Masks of objects in the images of a recording."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from pycocotools import mask as coco

from sam2_ros.tracking.types import CroppedMask

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


def decode(mask: Rle) -> CroppedMask:
    return CroppedMask.from_full(np.ascontiguousarray(coco.decode(mask)).view(np.bool_))


def box_of(mask: Rle) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 in pixels."""
    x, y, width, height = coco.toBbox(mask).tolist()
    return x, y, x + width, y + height
