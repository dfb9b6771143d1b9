"""How everything in an image is found. Imports nothing heavy, so that the command line can list the settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sam2_ros.tracking.settings import check_settings, setting


@dataclass(frozen=True)
class EverythingSettings:
    """How everything in an image is found. The defaults are those of SAM 2's automatic mask generator; a small model
    (:data:`SMALL_MODEL`) has its own.

    Raises:
        ValueError: a value is outside its range; the message gives the range.
    """

    points: int = setting(32, "Points of the grid along each side of the image.", 1, 256)
    batch: int = setting(
        0, "Points that are decoded at a time; 0 = 16 on a CPU, whose caches hold them, else 64.", 0, 1024
    )
    min_iou: float = setting(0.8, "Drop masks with a predicted IoU of this or less.", 0.0, 1.0)
    min_stability: float = setting(0.95, "Drop masks that are less stable.", 0.0, 1.0)
    stability_offset: float = setting(
        1.0, "Stability is the IoU of the masks at thresholds this much above and below zero.", 0, 32
    )
    nms_iou: float = setting(0.7, "Of two masks whose boxes have a larger IoU, drop the one of lower quality.", 0, 1)
    crop_layers: int = setting(
        0, "Search again in crops: layer n has 4 to the power n of them, and finds smaller objects.", 0, 4
    )
    crop_overlap: float = setting(512 / 1500, "Share of the image's shorter side by which the crops overlap.", 0, 0.9)
    crop_points_factor: int = setting(1, "Divide the points along a side by this for each layer of crops.", 1, 8)
    min_region: int = setting(
        0, "Fill holes and remove islands of fewer pixels than this; 0 = leave masks as they are.", 0, 1 << 26
    )

    def __post_init__(self) -> None:
        check_settings(self)


SMALL_MODEL: dict[str, Any] = {"min_iou": 0.6, "min_stability": 0.6}
"""Defaults of the embedded model, whose logits are flatter. Chosen on six labelled COCO photographs."""
