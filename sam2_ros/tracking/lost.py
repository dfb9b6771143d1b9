"""With windows: looks at the whole frame for objects that left theirs."""

from __future__ import annotations

from collections.abc import Sequence

from sam2_ros.model.arrays import float32
from sam2_ros.model.network import Reference
from sam2_ros.tracking.bank import MemoryBank
from sam2_ros.tracking.history import StoredFrame
from sam2_ros.tracking.look_alikes import show_one_thing
from sam2_ros.tracking.masks import masks_in_windows
from sam2_ros.tracking.objects import LiveObject
from sam2_ros.tracking.recognition import likeliest_boxes, look_in
from sam2_ros.tracking.types import ObjectState
from sam2_ros.tracking.viewer import Viewer


def look_around(
    objects: Sequence[LiveObject], stored: StoredFrame, viewer: Viewer, bank: MemoryBank, turn: int, recognises: bool
) -> None:
    """Takes a closer look where ``stored`` shows something that looks like a hidden one of ``objects``, and if it is
    the object moves its window there. What another object's mask shows is not it. The hidden ones take turns."""
    hidden = [obj for obj in objects if obj.awaited is None and obj.state is not ObjectState.VISIBLE]
    hidden = [obj for obj in hidden if bank.remembers(obj.row, stored.frame)]
    if not hidden:
        return
    obj = hidden[turn % len(hidden)]
    reference: Reference | None = bank.references([obj.row], stored.frame) if recognises else obj.look
    if reference is None or not bool(reference.known.all()):
        return
    places = likeliest_boxes(viewer.whole_view(stored), reference, most=1)
    if not places:
        return
    view = viewer.view_around(places[0], stored)
    seen = look_in(view, places[0], reference)
    if seen is None:
        return
    logits = list(float32(seen[0].logits))
    (mask,) = masks_in_windows(logits, [view.window], stored.height, stored.width, non_overlap=False)
    others = [other.mask for other in objects if other is not obj and other.mask is not None]
    if mask.crop.size and not any(show_one_thing(mask, other) for other in others):
        obj.box, obj.box_frame = mask.box, stored.frame
