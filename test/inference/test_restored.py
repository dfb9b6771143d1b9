"""Objects of an earlier engine in a new one: hidden until they are seen, with their ids, names and history."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest

from sam2_ros.inference import BackendFactory, NullBackend
from sam2_ros.inference.backend import Backend, EncodesAhead
from sam2_ros.inference.recovery import Recovery, SavedObjects, restore_objects
from sam2_ros.inference.restored import Restored
from sam2_ros.inference.worker import Worker
from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.types import CroppedMask, EventCode, ObjectState, Prompt, PromptError, PromptRequest

VISIBLE, OCCLUDED = ObjectState.VISIBLE, ObjectState.OCCLUDED
BOXES = ((10, 20, 40, 60), (60, 20, 90, 50))


def picture(seed: int = 0) -> np.ndarray:
    """Two bright boxes on a dark ground, with a little noise."""
    pixels = np.random.default_rng(seed).integers(20, 40, (96, 128, 3), dtype=np.uint8)
    for number, (x0, y0, x1, y1) in enumerate(BOXES):
        pixels[y0:y1, x0:x1] = (220, 90 * number, 40)
    return pixels


def request(box: tuple[int, ...], name: str = "") -> PromptRequest:
    return PromptRequest(Prompt(box=np.array(box, np.float32)), None, name, "dish", 0.5)


def lived(backend: Backend, frames: int = 3) -> SavedObjects:
    """What is kept of an engine that tracked two objects, of which it has forgotten a first one."""
    recovery = Recovery()
    for index in range(frames):
        image = picture(index)
        result = backend.step(image, index + 1)
        if index == 0:
            backend.add([request((1, 1, 9, 9)), request(BOXES[0], "cup"), request(BOXES[1])])
            backend.remove(1)
            newest = backend.objects()
            assert newest is not None
            result = newest
        recovery.note(result.objects, image, result.stamp)
    newest = backend.objects()
    assert newest is not None
    return SavedObjects(newest, recovery.sightings, backend.next_id)


def embedded() -> Backend:
    return BackendFactory("embedded", "cpu", "float32", image_size=256).make(TrackerConfig(max_objects=4))


@pytest.mark.parametrize("make", [NullBackend, embedded])
def test_objects_are_occluded_until_they_are_seen(make: Callable[[], Backend]) -> None:
    saved = lived(make())
    backend = Restored(make(), saved)
    hidden = backend.objects()
    assert hidden is not None
    assert [(obj.object_id, obj.name, obj.state, obj.mask.area) for obj in hidden.objects] == [
        (2, "cup", OCCLUDED, 0), (3, "", OCCLUDED, 0),
    ]  # fmt: skip
    result = backend.step(picture(7), 90)
    assert [(obj.object_id, obj.name, obj.label, obj.label_score, obj.state) for obj in result.objects] == [
        (2, "cup", "dish", 0.5, VISIBLE), (3, "", "dish", 0.5, VISIBLE),
    ]  # fmt: skip
    for obj, (x0, y0, x1, y1), before in zip(result.objects, BOXES, saved.newest.objects, strict=True):
        wanted = np.zeros((96, 128), np.bool_)
        wanted[y0:y1, x0:x1] = True
        found = obj.mask.full()
        assert (found & wanted).sum() / (found | wanted).sum() > 0.6
        assert obj.first_seen == before.first_seen and obj.frames_tracked > before.frames_tracked
    events = [(change.object_id, change.previous_state, change.state) for change in result.changes]
    assert events == [(2, VISIBLE, OCCLUDED), (3, VISIBLE, OCCLUDED), (2, OCCLUDED, VISIBLE), (3, OCCLUDED, VISIBLE)]
    assert "started again" in result.changes[0].reason
    assert backend.step(picture(8), 91).changes == () and backend.take_changes() == []
    (answer,) = backend.add([request((100, 60, 120, 90))])
    assert answer.object_id == saved.next_id == 4


def test_the_frames_of_the_earlier_process_are_not_kept() -> None:
    saved = lived(NullBackend())
    frames = {id(each.frame): weakref.ref(each.frame) for each in saved.sightings.values()}
    worker = Worker(partial(Restored, NullBackend(), saved), MagicMock())
    del saved
    worker.start().result(60)
    gc.collect()
    assert frames and not any(frame() is not None for frame in frames.values())
    worker.close()


def test_commands_reach_objects_that_wait_for_the_first_frame() -> None:
    backend = Restored(NullBackend(), lived(NullBackend()))
    backend.rename(2, "mug", "thing")
    backend.remove(3)
    hidden = backend.objects()
    assert hidden is not None
    assert [(obj.name, obj.label, obj.state) for obj in hidden.objects] == [("mug", "thing", OCCLUDED)]
    assert [change.event for change in backend.take_changes()] == [EventCode.STATE_CHANGED] * 2 + [EventCode.REMOVED]
    assert backend.reset() == 1 and backend.next_id == 4
    assert backend.step(picture(), 90).objects == ()


def test_answers_to_prompts_have_the_counters_of_before() -> None:
    saved = lived(NullBackend())
    backend = Restored(NullBackend(), saved)
    backend.step(picture(), 90)
    before = saved.newest.objects[0]
    answer = backend.refine(replace(request(BOXES[1]), object_id=2), 90)
    assert answer.result is not None and answer.result.mask.box == BOXES[1]
    assert answer.result.first_seen == before.first_seen and answer.result.frames_tracked > before.frames_tracked
    refused = backend.refine(replace(request(BOXES[1]), object_id=77), 90)
    assert not refused.success and refused.result is None
    new, wrong = backend.add([request((100, 60, 120, 90)), request((200, 200, 300, 300))], 90)
    assert new.result is not None and new.result.frames_tracked == 0 and not wrong.success


def test_an_object_that_was_never_seen_and_one_without_room_are_dropped() -> None:
    saved = lived(NullBackend())
    saved = SavedObjects(saved.newest, {2: saved.sightings[2]}, saved.next_id)
    changes = Restored(NullBackend(), saved).step(picture(), 90).changes
    assert [(each.event, each.object_id, each.reason) for each in changes if each.event is EventCode.DROPPED] == [
        (EventCode.DROPPED, 3, "could not be re-created: it was never seen")
    ]
    result = Restored(NullBackend(TrackerConfig(max_objects=1)), lived(NullBackend())).step(picture(), 90)
    assert [obj.object_id for obj in result.objects] == [2]
    (dropped,) = [each for each in result.changes if each.event is EventCode.DROPPED]
    assert dropped.object_id == 3 and "1 object tracked already" in dropped.reason
    nobody = Restored(NullBackend(), SavedObjects(saved.newest, {}, 4))
    assert len(nobody.take_changes()) == 4 and nobody.objects() is not None and nobody.step(picture(), 9).objects == ()


def test_an_engine_that_fails_at_what_was_saved_starts_without_it() -> None:
    class Broken(NullBackend):
        fault: Exception | None = MemoryError("full")

        def step(self, frame: np.ndarray, stamp: int) -> Any:
            fault, self.fault = self.fault, None
            if fault:
                raise fault
            return super().step(frame, stamp)

    result = Restored(Broken(), lived(NullBackend())).step(picture(), 90)
    assert result.objects == ()
    assert {each.reason for each in result.changes if each.event is EventCode.DROPPED} == {
        "could not be re-created: MemoryError: full"
    }


def test_it_encodes_ahead_where_the_engine_does() -> None:
    plain = Restored(NullBackend(), lived(NullBackend()))
    assert isinstance(plain, EncodesAhead) and not plain.encodes_ahead
    factory = BackendFactory("embedded", "cpu", "float32", image_size=256, ahead=True)
    backend = Restored(factory.make(), lived(NullBackend()))
    assert backend.encodes_ahead
    assert [obj.object_id for obj in backend.step(backend.encode(picture()), 90).objects] == [2, 3]


def test_a_hidden_object_is_handed_over_on_the_frame_where_it_was_seen_and_the_oldest_comes_first() -> None:
    recovery = Recovery()
    engine = NullBackend()
    frames = [picture(seed) for seed in range(3)]
    engine.step(frames[0], 1)
    engine.add([request(BOXES[0]), request(BOXES[1])])
    first = engine.objects()
    assert first is not None
    one, two = first.objects
    recovery.note([one, two], frames[0], 5)
    hidden, _ = recovery.lose(first)
    recovery.note([one, hidden.objects[1]], frames[1], 7)
    plan = recovery.plan([one, two])
    assert [(sighting.stamp, [each.object_id for each in requests]) for sighting, requests in plan] == [
        (5, [2]), (7, [1]),
    ]  # fmt: skip
    assert plan[0][0].frame is frames[0] and plan[1][0].frame is frames[1]


def test_an_object_that_was_never_visible_has_no_sighting() -> None:
    """Else a ghost with an empty mask would be handed over where it should be DROPPED."""
    recovery, engine = Recovery(), NullBackend()
    engine.step(picture(), 1)
    engine.add([request(BOXES[0])])
    newest = engine.objects()
    assert newest is not None
    (visible,) = newest.objects
    for unseen in (replace(visible, mask=CroppedMask.empty(128, 96)), replace(visible, state=OCCLUDED)):
        recovery.note([unseen], picture(), 1)
        assert recovery.plan(newest.objects) == [] and recovery.sightings == {}
    taken, changes = recovery.restored(newest.objects, {})
    assert taken == () and [each.event for each in changes] == [EventCode.DROPPED]


def test_an_object_that_is_visible_without_a_mask_was_not_seen_now() -> None:
    """The states lag behind by a few frames; the new engine may know an earlier sighting only."""
    recovery, engine = Recovery(), NullBackend()
    engine.step(picture(), 1)
    answers = {1: engine.add([request(BOXES[0])])[0]}
    newest = engine.objects()
    assert newest is not None
    (obj,) = newest.objects
    recovery.restored([replace(obj, last_seen=100, first_seen=5, frames_tracked=7)], answers)
    unseen = replace(obj, mask=CroppedMask.empty(128, 96))
    for now, last_seen in ((replace(obj, last_seen=120), 120), (replace(unseen, last_seen=40), 100)):
        continued = recovery.continued(replace(now, frames_tracked=2))
        assert (continued.first_seen, continued.last_seen, continued.frames_tracked) == (5, last_seen, 9)


def test_objects_are_restored_with_any_id_that_there_may_be() -> None:
    engine = NullBackend()
    engine.step(picture(), 1)
    for object_id in (1, (1 << 62) - 1):
        (answer,) = restore_objects(engine, [replace(request(BOXES[0]), object_id=object_id)])
        assert answer.success and answer.object_id == object_id and engine.next_id == object_id + 1
    for wrong, why in ((None, "a number from 1 on"), (0, "from 1 on"), (1 << 62, "from 1 on"), (1, "object 1 lives")):
        with pytest.raises(PromptError, match=why):
            restore_objects(engine, [replace(request(BOXES[1]), object_id=wrong)])
