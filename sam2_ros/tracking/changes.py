"""Changes in the life of objects, as ``ObjectEvent.msg`` numbers them."""

from __future__ import annotations

from sam2_ros.tracking.objects import TrackedObject
from sam2_ros.tracking.types import ObjectChange, ObjectState

ADDED, STATE_CHANGED, CORRECTED, REMOVED, DROPPED, PROMPT_RELEASED = range(1, 7)


def change_of(
    one: TrackedObject, event: int, before: ObjectState | None, reason: str, gone: bool = False
) -> ObjectChange:
    """A change of ``one`` with what is known of it now; ``gone``: it has no state any more."""
    return ObjectChange(
        event, one.object_id, one.name, one.label, before, None if gone else one.state, one.object_score,
        one.visibility, one.last_seen, reason,
    )  # fmt: skip


def state_change(one: TrackedObject, before: ObjectState) -> list[ObjectChange]:
    """The change from the state ``before``, or nothing."""
    if one.state is before:
        return []
    return [change_of(one, STATE_CHANGED, before, f"{before.name} became {one.state.name}")]
