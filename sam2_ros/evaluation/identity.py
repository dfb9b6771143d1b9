"""Identity switches: an object's mask jumps to another labelled object.

A mask lies on its own object where its J with that one is at least one half and the greatest, and on another's where
that holds for the other's label. A switch is a labelled frame on which it lies on another object, having last lain on a
different one. What lies on none of them, or is empty, changes nothing; coming back home is no switch, a second jump is.
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
