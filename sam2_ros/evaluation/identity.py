"""Identity switches: an object's mask jumps to another labelled object.

A mask lies on an object if its J with that object's label is the greatest and at least one half. A switch is a labelled
frame on which the mask lies on another object than its own, after it last lay on a different one. A mask that lies on
no object, or is empty, changes nothing. Coming back to its own object is no switch.
"""

from __future__ import annotations

from collections.abc import Sequence

from sam2_ros.evaluation.results import Row, SequenceResult

OVERLAP = 0.5  # intersection over union


def switches(rows: Sequence[Row]) -> list[int]:
    """The frames on which one object's mask switches to another object."""
    found = []
    last: int | None = None
    for row in rows:
        if row.j is None:
            continue
        if row.other is not None and row.other_iou >= OVERLAP and row.other_iou > row.j:
            if last is not None and last != row.other:
                found.append(row.frame)
            last = row.other
        elif row.j >= OVERLAP and row.truth_area:
            last = row.object
    return found


def count_switches(result: SequenceResult) -> int:
    """Switches of all objects of a sequence."""
    return sum(len(switches(result.of(object_id))) for object_id in result.objects)
