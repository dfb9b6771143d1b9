"""What is kept of the objects for another engine, and what is told of them while none sees them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sam2_ros.inference import NullBackend
from sam2_ros.inference.recovery import LOST, Recovery, restore_objects
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

VISIBLE, OCCLUDED, GONE = ObjectState.VISIBLE, ObjectState.OCCLUDED, ObjectState.LOST
FRAMES = [np.full((4, 6, 3), value, np.uint8) for value in range(3)]
NOTHING = CroppedMask.empty(6, 4)
DONE = PromptResult(PromptCode.OK, "")


def mask(pixels: int = 2) -> CroppedMask:
    full = np.zeros((4, 6), np.bool_)
    full[1, :pixels] = True
    return CroppedMask.from_full(full)


def thing(object_id: int, state: ObjectState = VISIBLE, area: int = 2) -> ObjectResult:
    return ObjectResult(
        object_id, mask(area) if area else NOTHING, state, 1.5, 0.75, 0.9, True, f"name {object_id}", "dish", 0.5,
        first_seen=10, last_seen=20, frames_tracked=7,
    )  # fmt: skip


def frame(*objects: ObjectResult, changes: tuple[ObjectChange, ...] = ()) -> FrameResult:
    return FrameResult(3, 30, 6, 4, objects, changes)


def change(object_id: int, state: ObjectState) -> ObjectChange:
    return ObjectChange(EventCode.STATE_CHANGED, object_id, "", "", VISIBLE, state, 0.0, 0.0, 0, "")


def test_the_newest_good_mask_of_each_living_object_is_kept() -> None:
    recovery = Recovery()
    recovery.note([thing(1), thing(2), thing(3)], FRAMES[0], 5)
    recovery.note([thing(1, area=3), thing(2, OCCLUDED, 0)], FRAMES[1], 6)
    recovery.note([thing(1, area=4), thing(2, OCCLUDED, 3)], None, 7)
    kept = recovery.sightings
    assert {key: (seen.stamp, seen.mask.area) for key, seen in kept.items()} == {1: (6, 3), 2: (5, 2)}
    assert kept[1].frame is FRAMES[1] and kept[2].frame is FRAMES[0]


def test_each_object_is_added_on_its_frame_as_it_was() -> None:
    recovery = Recovery()
    recovery.note([thing(1), thing(2), thing(4)], FRAMES[0], 9)
    recovery.note([thing(1, OCCLUDED, 0), thing(2, area=3), thing(4, OCCLUDED, 0)], FRAMES[1], 8)  # a clock set back
    plan = recovery.plan([thing(4), thing(3), thing(2), thing(1)])
    assert [(seen.stamp, [each.object_id for each in requests]) for seen, requests in plan] == [(8, [2]), (9, [4, 1])]
    ((_, (request,)), _) = plan
    assert (request.name, request.label, request.label_score) == ("name 2", "dish", 0.5)
    assert request.prompt.mask is not None and request.prompt.mask.tolist() == mask(3).full().tolist()


def test_objects_move_to_another_server_where_nothing_is_lost_by_that() -> None:
    recovery = Recovery()
    recovery.note([thing(1), thing(2)], FRAMES[0], 5)
    assert recovery.may_move([thing(1), thing(2, GONE, 0)]) and recovery.may_move([])
    assert not recovery.may_move([thing(1), thing(2, OCCLUDED, 0)])
    assert not recovery.may_move([thing(1), thing(3)]), "never seen"


def test_what_no_engine_sees_is_hidden_and_told_once() -> None:
    recovery = Recovery()
    recovery.note([thing(1), thing(2), thing(3)], FRAMES[0], 5)
    first = replace(thing(1), window=(0, 0, 3, 2))
    objects = frame(first, thing(2, GONE, 0), thing(3, OCCLUDED, 0), changes=(change(1, VISIBLE),))
    hidden, told = recovery.lose(objects)
    assert [(obj.state, obj.mask.area, obj.prompted) for obj in hidden.objects] == [(OCCLUDED, 0, False)] * 3
    assert (hidden.objects[0].mask.width, hidden.objects[0].mask.height) == (6, 4) and hidden.changes == ()
    assert hidden.objects[0].window == (), "nobody looked for it"
    assert [(each.object_id, each.previous_state, each.state, each.reason) for each in told] == [
        (1, VISIBLE, OCCLUDED, LOST), (2, GONE, OCCLUDED, LOST),
    ]  # fmt: skip
    assert (told[0].name, told[0].label, told[0].object_score, told[0].visibility, told[0].last_seen) == (
        "name 1", "dish", 1.5, 0.75, 20,
    )  # fmt: skip
    assert recovery.lose(objects)[1] == []


def test_before_a_failback_only_what_is_not_visible_is_hidden() -> None:
    recovery = Recovery()
    hidden, told = recovery.lose(frame(thing(1), thing(2, GONE, 0)), unseen_only=True, reason="moves")
    assert [(obj.state, obj.mask.area) for obj in hidden.objects] == [(VISIBLE, 2), (OCCLUDED, 0)]
    assert hidden.objects[0].prompted, "it is as it was"
    assert [(each.object_id, each.reason) for each in told] == [(2, "moves")]


def test_objects_that_no_engine_takes_are_dropped_with_the_reason() -> None:
    recovery = Recovery()
    recovery.lose(frame(thing(1), thing(2), thing(3)))
    refused = PromptResult(PromptCode.FULL, "it is full")
    taken, told = recovery.restored([thing(1), thing(2), thing(3, OCCLUDED, 0)], {1: DONE, 2: refused})
    assert [obj.object_id for obj in taken] == [1]
    assert [(each.event, each.object_id, each.previous_state, each.state, each.reason) for each in told] == [
        (EventCode.DROPPED, 2, VISIBLE, None, "could not be re-created: it is full"),
        (EventCode.DROPPED, 3, OCCLUDED, None, "could not be re-created: it was never seen"),
    ]
    result = recovery.go_on(frame(thing(1), thing(2)))
    assert [each.object_id for each in result.changes] == [1], "another object of that id comes into sight in silence"


def test_what_comes_into_sight_again_is_told_and_what_was_told_is_not() -> None:
    recovery = Recovery()
    recovery.lose(frame(thing(1), thing(2), thing(3)))
    changes = (change(2, OCCLUDED), change(3, GONE), change(4, OCCLUDED))
    result = recovery.go_on(frame(thing(4), thing(3, GONE, 0), thing(2, OCCLUDED, 0), thing(1), changes=changes))
    assert [obj.object_id for obj in result.objects] == [1, 2, 3, 4]
    assert [(each.object_id, each.previous_state, each.state) for each in result.changes] == [
        (3, VISIBLE, GONE), (4, VISIBLE, OCCLUDED), (1, OCCLUDED, VISIBLE),
    ]  # fmt: skip
    later = recovery.go_on(frame(thing(2), changes=(change(1, OCCLUDED),)))
    assert [(each.object_id, each.state) for each in later.changes] == [(1, OCCLUDED)], "it is over"


def test_counters_go_on_from_before_for_as_long_as_an_object_lives() -> None:
    recovery = Recovery()
    before = replace(thing(1), first_seen=10, last_seen=20, frames_tracked=7)
    recovery.restored([before], {1: DONE})
    new = replace(thing(1, area=1), first_seen=15, last_seen=18, frames_tracked=2)
    for now, last_seen in ((new, 18), (replace(new, state=GONE), 20), (replace(new, state=GONE, last_seen=25), 25)):
        (obj,) = recovery.go_on(frame(now)).objects
        assert (obj.first_seen, obj.last_seen, obj.frames_tracked) == (10, last_seen, 9)
    recovery.note([new], FRAMES[0], 5)
    assert recovery.continued(new).frames_tracked == 9
    recovery.note([], FRAMES[0], 6)
    assert recovery.continued(new) == new, "it is another object"


def test_restored_objects_have_their_ids_and_new_ones_come_after_them() -> None:
    engine = NullBackend()
    engine.step(FRAMES[0], 1)
    engine.next_id = 9
    prompt = Prompt(mask=mask().full())
    requests = [PromptRequest(prompt, 5, "cup", "dish", 0.5), PromptRequest(prompt, 12), PromptRequest(prompt, 3)]
    assert [(each.success, each.object_id) for each in restore_objects(engine, requests)] == [
        (True, 5), (True, 12), (True, 3),
    ]  # fmt: skip
    living = engine.objects()
    assert engine.next_id == 13 and engine.take_changes() == []
    assert living is not None and {(obj.object_id, obj.name, obj.label, obj.label_score) for obj in living.objects} == {
        (5, "cup", "dish", 0.5), (12, "", "", 0.0), (3, "", "", 0.0),
    }  # fmt: skip
    with pytest.raises(PromptError, match="object 12 lives; correct it with refine"):
        restore_objects(engine, requests[1:2])
