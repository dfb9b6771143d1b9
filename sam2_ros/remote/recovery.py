"""What a client keeps of its objects, so that another server can go on with them, and how the story goes on then."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sam2_ros.tracking.types import (
    AddRequest,
    CroppedMask,
    EventCode,
    FrameResult,
    ObjectChange,
    ObjectResult,
    ObjectState,
    Prompt,
)

REASON = "the inference server was lost; the object is looked for again from its last mask"


@dataclass(frozen=True)
class Sighting:
    """The newest frame on which an object was seen, and its mask there."""

    frame: NDArray[np.uint8]
    stamp: int  # ns
    mask: CroppedMask


class Recovery:
    """Remembers, for every living object, its last good frame and mask. Objects that were seen together share a frame;
    at most as many frames are kept as there are objects.
    """

    def __init__(self) -> None:
        self._sightings: dict[int, Sighting] = {}
        self._before: dict[int, ObjectResult] = {}  # as it stood when the server was lost, for what is counted on
        self._unseen: set[int] = set()  # told to be OCCLUDED since the server was lost

    def note(self, objects: Iterable[ObjectResult], frame: NDArray[np.uint8] | None, stamp: int) -> None:
        """Takes note of every living object, on the newest frame."""
        living = {known.object_id: known for known in objects}
        for object_id in [each for each in self._sightings if each not in living]:
            del self._sightings[object_id]
        for object_id in [each for each in self._before if each not in living]:
            del self._before[object_id]
        for object_id, known in living.items():
            if known.mask.area and frame is not None and known.state is ObjectState.VISIBLE:
                self._sightings[object_id] = Sighting(frame, stamp, known.mask)

    def clear(self) -> None:
        self._sightings.clear()
        self._before.clear()
        self._unseen.clear()

    def plan(self, objects: Sequence[ObjectResult]) -> list[tuple[Sighting, list[AddRequest]]]:
        """Which frames to show to a new server, the oldest first, and which objects to add on each."""
        frames: dict[int, tuple[Sighting, list[AddRequest]]] = {}
        for known in objects:
            sighting = self._sightings.get(known.object_id)
            if sighting is not None:
                prompt = Prompt(mask=sighting.mask.full())
                request = AddRequest(prompt, known.object_id, known.name, known.label, known.label_score)
                frames.setdefault(sighting.stamp, (sighting, []))[1].append(request)
        return [frames[stamp] for stamp in sorted(frames)]

    def may_move(self, objects: Iterable[ObjectResult]) -> bool:
        """Whether another server can take over at no great loss: every object was seen once, and none is hidden just
        now, since what finds it again, its memory, stays behind.
        """
        return all(known.object_id in self._sightings and known.state is not ObjectState.OCCLUDED for known in objects)

    def lose(self, result: FrameResult, unseen_only: bool = False) -> tuple[FrameResult, list[ObjectChange]]:
        """The objects as they stand while there is no server: OCCLUDED, without a mask; and the changes to that.

        With ``unseen_only``, those in sight stay as they are: another server takes them over from the newest frame.
        """
        objects, changes = [], []
        for known in result.objects:
            if unseen_only and known.state is ObjectState.VISIBLE:
                objects.append(known)
                continue
            hidden = replace(
                known, state=ObjectState.OCCLUDED, mask=CroppedMask.empty(result.width, result.height), prompted=False
            )
            objects.append(hidden)
            if known.object_id in self._unseen:
                continue
            self._unseen.add(known.object_id)
            if known.state is not ObjectState.OCCLUDED:
                changes.append(_change(known, known.state, ObjectState.OCCLUDED, REASON))
        return replace(result, objects=tuple(objects), changes=()), changes

    def restored(self, objects: Iterable[ObjectResult]) -> None:
        """The objects live on another server; what they had counted goes on from here."""
        self._before = {known.object_id: known for known in objects}

    def forget(self, known: ObjectResult, reason: str) -> ObjectChange:
        """An object that could not be re-created."""
        self._unseen.discard(known.object_id)
        return _change(
            known, known.state, None, f"could not be re-created on another server: {reason}", EventCode.DROPPED
        )

    def go_on(self, result: FrameResult) -> FrameResult:
        """A server's result with the objects' history before it, in the order of their ids."""
        changes = [
            change
            for change in result.changes
            if not (change.object_id in self._unseen and change.state is ObjectState.OCCLUDED)  # told already
        ]
        objects = tuple(sorted((self.continued(known) for known in result.objects), key=lambda one: one.object_id))
        for known in objects:
            if known.object_id in self._unseen and known.state is ObjectState.VISIBLE:
                changes.append(_change(known, ObjectState.OCCLUDED, known.state, "OCCLUDED became VISIBLE"))
        self._unseen.clear()
        return replace(result, objects=objects, changes=tuple(changes))

    def continued(self, known: ObjectResult) -> ObjectResult:
        """An object with what it had counted before the server was lost."""
        before = self._before.get(known.object_id)
        if before is None:
            return known
        seen = known.mask.area > 0 and known.state is ObjectState.VISIBLE
        return replace(
            known,
            first_seen=before.first_seen,
            last_seen=known.last_seen if seen else max(before.last_seen, known.last_seen),
            frames_tracked=before.frames_tracked + known.frames_tracked,
        )


def _change(
    known: ObjectResult,
    before: ObjectState,
    after: ObjectState | None,
    reason: str,
    event: EventCode = EventCode.STATE_CHANGED,
) -> ObjectChange:
    return ObjectChange(
        event, known.object_id, known.name, known.label, before, after, known.object_score, known.visibility,
        known.last_seen, reason,
    )  # fmt: skip
