"""Compares masks, states and positions of the simulated scene with the truth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sam2_ros.tracking.types import BoolMask

HIDDEN_BELOW = 0.05  # visible share of an object; below it the object counts as hidden
SEEN_FROM = 0.5
WHOLE_FROM = 0.95


@dataclass(frozen=True)
class Sample:
    """One object in one tracked frame. Distances in metres; NaN if there is none."""

    name: str
    seen: float  # true visible share of its pixels
    visible: bool  # by the tracker
    iou: float  # of its mask with the true one
    confused: bool  # its mask has more of another object than of its own
    error: float  # from its position to the middle of the true visible surface
    to_body: float  # from its position to the middle of the true body
    extent_error: float  # largest of the three axes


def visible_surface_center(
    mask: BoolMask, depth: NDArray[np.float32], matrix: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Median and size (2nd to 98th percentile) of each coordinate of the exact surface under a mask, metres.

    Args:
        mask: ``[H, W]`` with at least one pixel.
        depth: ``[H, W]`` metres, exact.
        matrix: K, row by row.
    """
    rows, columns = np.nonzero(mask)
    z = depth[rows, columns].astype(np.float64)
    points = np.stack([(columns - matrix[2]) / matrix[0] * z, (rows - matrix[5]) / matrix[4] * z, z])
    low, high = np.percentile(points, (2, 98), axis=1)
    return np.median(points, axis=1), high - low


def sample(
    name: str,
    object_id: int,
    seen: float,
    body: NDArray[np.float64],
    labels: NDArray[np.uint16],
    depth: NDArray[np.float32],
    matrix: Sequence[float],
    mask: BoolMask | None,
    position: NDArray[np.float64] | None,
    extent: NDArray[np.float64] | None,
) -> Sample:
    """Compares one object with the truth.

    Args:
        object_id, seen, body: the true id, share in sight, and middle of the body in the camera's frame.
        labels, depth: the true label image and the exact depth, ``[H, W]``.
        mask, position, extent: of the tracker; None if it has none.
    """
    true = labels == object_id
    iou, confused, error, to_body, extent_error = math.nan, False, math.nan, math.nan, math.nan
    if mask is not None:
        union = int(np.count_nonzero(true | mask))
        iou = int(np.count_nonzero(true & mask)) / union if union else math.nan
        under = np.bincount(labels[mask], minlength=object_id + 1)
        under[0] = 0  # neither table nor arm is an object
        confused = bool(under.max() > under[object_id])
    if position is not None and extent is not None:
        to_body = float(np.linalg.norm(position - body))
        if true.any():
            center, size = visible_surface_center(true, depth, matrix)
            error = float(np.linalg.norm(position - center))
            extent_error = float(np.abs(extent - size).max())
    return Sample(name, seen, mask is not None, iou, confused, error, to_body, extent_error)


def summary(samples: Sequence[Sample]) -> dict[str, float]:
    """Figures of samples: shares and IoU from 0 to 1, distances in millimetres; NaN without samples."""
    hidden = [s for s in samples if s.seen < HIDDEN_BELOW]
    clear = [s for s in samples if s.seen >= SEEN_FROM]
    whole = [s for s in samples if s.seen >= WHOLE_FROM]
    return {
        "frames": len(samples),
        "hidden": len(hidden),
        "hidden, reported": _mean([not s.visible for s in hidden]),
        "in sight": len(clear),
        "in sight, found": _mean([s.visible for s in clear]),
        "IoU": _mean([s.iou for s in clear if s.visible]),
        "confused": sum(s.confused for s in samples),
        "position error p50 [mm]": _percentile([s.error for s in samples], 50),
        "position error p95 [mm]": _percentile([s.error for s in samples], 95),
        "whole: position error p50 [mm]": _percentile([s.error for s in whole], 50),
        "whole: position error p95 [mm]": _percentile([s.error for s in whole], 95),
        "whole: extent error p50 [mm]": _percentile([s.extent_error for s in whole], 50),
        "whole: to the body's middle p50 [mm]": _percentile([s.to_body for s in whole], 50),
    }


def summaries(samples: Sequence[Sample]) -> Mapping[str, dict[str, float]]:
    """The figures of each object, and of all together."""
    names = list(dict.fromkeys(s.name for s in samples))
    found = {name: summary([s for s in samples if s.name == name]) for name in names}
    return found | {"all": summary(samples)}


def _mean(values: Sequence[float | bool]) -> float:
    return float(np.mean(values)) if values else math.nan


def _percentile(metres: Sequence[float], share: float) -> float:
    valid = [value for value in metres if not math.isnan(value)]
    return 1000 * float(np.percentile(valid, share)) if valid else math.nan
