"""Which images a person should look at."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sam2_ros.annotation.masks import SAME, Mask, box_of
from sam2_ros.inference.matching import Detection, as_array, ious

UNCERTAIN = 0.5  # predicted IoU below which a person should look
COVERED = 0.3  # IoU with some mask's box below which a detection was missed


@dataclass(frozen=True)
class Reason:
    """Why to look at an image. ``kind``: "score", "disagreement", "swap" or "missed"; ``value``: 0 = most doubtful."""

    frame: int
    kind: str
    object_id: int  # 0 = none
    value: float


def uncertain_masks(masks: Sequence[Mask]) -> Iterator[Reason]:
    for mask in masks:
        if mask.predicted_iou < UNCERTAIN:
            yield Reason(mask.frame, "score", mask.object_id, mask.predicted_iou)
        if mask.agreement is not None and mask.agreement <= SAME:
            yield Reason(mask.frame, "disagreement", mask.object_id, mask.agreement)


def missed_detections(masks: Sequence[Mask], found: Mapping[int, Sequence[Detection]]) -> Iterator[Reason]:
    """Detections where no mask is."""
    boxes: dict[int, list[tuple[float, float, float, float]]] = defaultdict(list)
    for mask in masks:
        if mask.frame in found:
            boxes[mask.frame].append(box_of(mask.mask))
    for frame, detections in found.items():
        if not detections:
            continue
        overlap = ious(as_array(each.box for each in detections), as_array(boxes[frame]))
        for each, best in zip(detections, overlap.max(axis=1, initial=0.0), strict=True):
            if best < COVERED:
                yield Reason(frame, "missed", 0, 1 - each.score)


def doubtful_frames(reasons: Sequence[Reason]) -> list[tuple[int, float, list[Reason]]]:
    """Images with their doubt, 0 to 1, and its reasons, the most doubtful first."""
    by_frame: dict[int, list[Reason]] = defaultdict(list)
    for reason in reasons:
        by_frame[reason.frame].append(reason)
    rows = [(frame, 1 - min(each.value for each in some), some) for frame, some in by_frame.items()]
    return sorted(rows, key=lambda row: (-row[1], -len(row[2]), row[0]))
