"""Which frames of which objects a protocol's J and F count, and the measures of one frame.

Two published evaluators set the rules. Both leave out the first labelled frame of a sequence, which is given, and by
convention the last one. Both average over frames, then over objects. They differ in where an object starts:

- ``davis`` (davis2017-evaluation, semi-supervised): the objects of the first labelled frame, each on all frames that
  remain. J = F = 1 if label and prediction are both empty.
- ``vos`` (vos-benchmark 0.1.0, from which SA-V's sav_benchmark is derived; used for MOSE, LVOS and YouTube-VOS too):
  of the frames that remain, an object counts from the first one on which its label or prediction has a pixel. An
  object without a label on these frames does not count. The frame on which a late object is prompted counts.

DAVIS has no objects that enter after the first frame; under ``davis`` they are counted as under ``vos``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sam2_ros.evaluation.mask_metrics import Mask, boundary_f, jaccard
from sam2_ros.evaluation.results import Row
from sam2_ros.evaluation.sequences import Truth

RULES = {"davis": "davis", "youtube": "vos", "sav": "vos", "sav-train": "vos"}  # by layout


@dataclass(frozen=True)
class FrameMeasures:
    """One object on one labelled frame."""

    truth_area: int
    j: float
    f: float
    other: int | None
    other_iou: float


def measure(object_id: int, predicted: Mask, truth: Mapping[int, Mask]) -> FrameMeasures:
    """Compares a prediction with its object's label, and for J with the labels of the others."""
    other, other_iou = None, 0.0
    if predicted.any():
        for other_id, mask in truth.items():
            if other_id != object_id and (overlap := np.count_nonzero(predicted & mask)):
                iou = overlap / (np.count_nonzero(predicted) + np.count_nonzero(mask) - overlap)
                if iou > other_iou:
                    other, other_iou = other_id, iou
    own = truth[object_id]
    area = int(np.count_nonzero(own))
    return FrameMeasures(area, jaccard(predicted, own), boundary_f(predicted, own), other, other_iou)


def mark_scored(rows: Sequence[Row], truth: Truth, rule: str) -> tuple[Row, ...]:
    """The rows with ``scored`` set as ``rule`` ("davis" or "vos") says."""
    frames = {object_id: scored_frames(object_id, rows, truth, rule) for object_id in {row.object for row in rows}}
    return tuple(replace(row, scored=row.frame in frames[row.object]) for row in rows)


def scored_frames(object_id: int, rows: Sequence[Row], truth: Truth, rule: str) -> frozenset[int]:
    """The frames on which an object counts."""
    labelled = truth.annotated(object_id)
    remaining = frozenset(labelled[1:-1])
    own = [row for row in rows if row.object == object_id]
    if rule == "davis" and own and own[0].frame == labelled[0]:
        return remaining
    counted = [row for row in own if row.frame in remaining]
    if not any(row.truth_area for row in counted):
        return frozenset()
    start = next(row.frame for row in counted if row.truth_area or row.area)
    return frozenset(frame for frame in remaining if frame >= start)
