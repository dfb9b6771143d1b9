"""What is kept so that another engine can continue the objects: their last good frames and masks, and their history.

A client of an inference server uses it for failover, the node for a restart (``state_file``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sam2_ros.tracking.types import (
    CroppedMask,
    EventCode,
    FrameResult,
    ObjectChange,
    ObjectResult,
    ObjectState,
    Prompt,
    PromptCode,
    PromptError,
    PromptRequest,
    PromptResult,
)

if TYPE_CHECKING:
    from sam2_ros.inference.backend import Backend

LOST = "the inference server was lost; the object is looked for again from its last mask"
UNANSWERED = "no inference server answered in time"
RESTARTED = "the node was started again; the object is looked for from its last mask"


@dataclass(frozen=True)
class Sighting:
    """The newest frame on which an object was seen, and its mask there."""

    frame: NDArray[np.uint8]
    stamp: int  # ns
    mask: CroppedMask


@dataclass(frozen=True)
class SavedObjects:
    """The objects of an earlier engine."""

    newest: FrameResult  # every living object
    sightings: Mapping[int, Sighting]  # by object id; an object that was never seen has none
    next_id: int


class Recovery:
    """Keeps the last good frame and mask of every living object: at most one frame per object."""

    def __init__(self) -> None:
        self._sightings: dict[int, Sighting] = {}
        self._before: dict[int, ObjectResult] = {}  # as they were when the server was lost
        self._unseen: set[int] = set()  # reported as OCCLUDED since the server was lost

    @property
    def sightings(self) -> Mapping[int, Sighting]:
        """By object id."""
        return dict(self._sightings)

    def recall(self, sightings: Mapping[int, Sighting]) -> None:
        """Takes over what an earlier process kept."""
        self._sightings = dict(sightings)

    def note(self, objects: Iterable[ObjectResult], frame: NDArray[np.uint8] | None, stamp: int) -> None:
        """Stores where every living object is on the newest frame."""
        living = {obj.object_id: obj for obj in objects}
        self._sightings = {key: sighting for key, sighting in self._sightings.items() if key in living}
        self._before = {key: obj for key, obj in self._before.items() if key in living}
        for object_id, obj in living.items():
            if obj.mask.area and frame is not None and obj.state is ObjectState.VISIBLE:
                self._sightings[object_id] = Sighting(frame, stamp, obj.mask)

    def plan(self, objects: Sequence[ObjectResult]) -> list[tuple[Sighting, list[PromptRequest]]]:
        """Frames to send to a new server, the oldest first, and the objects to add on each."""
        frames: dict[int, tuple[Sighting, list[PromptRequest]]] = {}
        for obj in objects:
            sighting = self._sightings.get(obj.object_id)
            if sighting is not None:
                prompt = Prompt(mask=sighting.mask.full())
                request = PromptRequest(prompt, obj.object_id, obj.name, obj.label, obj.label_score)
                frames.setdefault(sighting.stamp, (sighting, []))[1].append(request)
        return [frames[stamp] for stamp in sorted(frames)]

    def may_move(self, objects: Iterable[ObjectResult]) -> bool:
        """Whether failback loses nothing: every object was seen, and none is hidden. A hidden object is found again by
        its memory, which stays behind."""
        return all(obj.object_id in self._sightings and obj.state is not ObjectState.OCCLUDED for obj in objects)

    def lose(
        self, result: FrameResult, unseen_only: bool = False, reason: str = LOST
    ) -> tuple[FrameResult, list[ObjectChange]]:
        """Hides the objects while no engine sees them: OCCLUDED, without a mask; also returns the changes.

        With ``unseen_only`` visible objects stay as they are, for failback from the newest frame.
        """
        objects, changes = [], []
        for obj in result.objects:
            if unseen_only and obj.state is ObjectState.VISIBLE:
                objects.append(obj)
                continue
            nothing = CroppedMask.empty(result.width, result.height)
            objects.append(replace(obj, state=ObjectState.OCCLUDED, mask=nothing, prompted=False, window=()))
            if obj.object_id not in self._unseen and obj.state is not ObjectState.OCCLUDED:
                changes.append(_change(obj, obj.state, ObjectState.OCCLUDED, reason))
            self._unseen.add(obj.object_id)
        return replace(result, objects=tuple(objects), changes=()), changes

    def restored(
        self, objects: Iterable[ObjectResult], done: Mapping[int, PromptResult]
    ) -> tuple[tuple[ObjectResult, ...], list[ObjectChange]]:
        """Continues the counters of the objects that another engine took over; the others are forgotten.

        Args:
            done: the engine's answers to :meth:`plan`, by object id.

        Returns:
            the objects that live on, and the changes of the others.
        """
        taken, changes = [], []
        for obj in objects:
            answer = done.get(obj.object_id)
            if answer is not None and answer.success:
                taken.append(obj)
                continue
            why = answer.message if answer is not None else "it was never seen"
            self._unseen.discard(obj.object_id)
            changes.append(_change(obj, obj.state, None, f"could not be re-created: {why}", EventCode.DROPPED))
        self._before = {obj.object_id: obj for obj in taken}
        return tuple(taken), changes

    def go_on(self, result: FrameResult) -> FrameResult:
        """A server's result with the history of the objects, in the order of their ids."""
        reported = {(object_id, ObjectState.OCCLUDED) for object_id in self._unseen}
        changes = [change for change in result.changes if (change.object_id, change.state) not in reported]
        objects = tuple(sorted((self.continued(obj) for obj in result.objects), key=lambda obj: obj.object_id))
        for obj in objects:
            if obj.object_id in self._unseen and obj.state is ObjectState.VISIBLE:
                changes.append(_change(obj, ObjectState.OCCLUDED, obj.state, "OCCLUDED became VISIBLE"))
        self._unseen.clear()
        return replace(result, objects=objects, changes=tuple(changes))

    def continued(self, obj: ObjectResult) -> ObjectResult:
        """An object with its counters from before the server was lost."""
        before = self._before.get(obj.object_id)
        if before is None:
            return obj
        seen = obj.mask.area > 0 and obj.state is ObjectState.VISIBLE
        return replace(
            obj,
            first_seen=before.first_seen,
            last_seen=obj.last_seen if seen else max(before.last_seen, obj.last_seen),
            frames_tracked=before.frames_tracked + obj.frames_tracked,
        )


def restore_objects(backend: Backend, requests: Sequence[PromptRequest]) -> list[PromptResult]:
    """Adds objects on the newest frame with the ids that they had in another engine; reports no changes.

    Raises:
        PromptError: INVALID_PROMPT: a request has no id, or that of a living object.
    """
    next_id = backend.next_id
    results = []
    for request in requests:
        if request.object_id is None or not 1 <= request.object_id < 1 << 62:
            raise PromptError(PromptCode.INVALID_PROMPT, "an object is restored with its object_id, a number from 1 on")
        living = backend.objects()
        if living is not None and any(obj.object_id == request.object_id for obj in living.objects):
            reason = f"object {request.object_id} lives; correct it with refine"
            raise PromptError(PromptCode.INVALID_PROMPT, reason)
        backend.next_id = request.object_id
        results += backend.add([PromptRequest(request.prompt, None, request.name, request.label, request.label_score)])
        next_id = max(next_id, request.object_id + 1)
    backend.next_id = next_id
    backend.take_changes()
    return results


def _change(
    obj: ObjectResult,
    before: ObjectState,
    after: ObjectState | None,
    reason: str,
    event: EventCode = EventCode.STATE_CHANGED,
) -> ObjectChange:
    return ObjectChange(
        event, obj.object_id, obj.name, obj.label, before, after, obj.object_score, obj.visibility,
        obj.last_seen, reason,
    )  # fmt: skip
