"""Ids, names and rows of living objects, and what of an object belongs to a frame."""

from __future__ import annotations

import numpy as np
import pytest

from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.registry import Registry
from sam2_ros.tracking.types import CroppedMask, EventCode, ObjectState, Prompt, PromptCode, PromptError, PromptRequest
from sam2_ros.tracking.visibility import Observation, Presence
from sam2_ros.tracking.windows import Window

PROMPT, CONFIG = Prompt(box=np.array([1, 2, 5, 6], np.float32)), TrackerConfig(lost_after=3, search_every=4)


def named(name: str = "") -> PromptRequest:
    return PromptRequest(PROMPT, None, name, "dish", 0.5)


def mask(width: int = 3) -> CroppedMask:
    full = np.zeros((6, 8), np.bool_)
    full[1, 2 : 2 + width] = True
    return CroppedMask.from_full(full)


def refusal(registry: Registry, request: PromptRequest) -> PromptError:
    with pytest.raises(PromptError) as caught:
        registry.create(request, 0)
    return caught.value


def test_ids_go_up_and_the_lowest_free_row_is_taken() -> None:
    registry = Registry(3)
    made = [registry.create(named(), frame) for frame in range(3)]
    assert [(obj.object_id, obj.row, obj.added_frame) for obj in made] == [(1, 0, 0), (2, 1, 1), (3, 2, 2)]
    full = refusal(registry, named())
    assert full.code is PromptCode.FULL and "3 objects tracked already" in str(full)
    assert registry.next_id == 4
    del registry.objects[2]
    again = registry.create(named("cup"), 5)
    assert (again.object_id, again.row, again.name, again.label, again.label_score) == (4, 1, "cup", "dish", 0.5)
    assert list(registry.objects) == [1, 3, 4]


def test_names_are_unique_among_the_living() -> None:
    registry = Registry(3)
    first, _ = registry.create(named("cup"), 0), registry.create(named(), 0)
    twice = refusal(registry, named("cup"))
    assert twice.code is PromptCode.DUPLICATE_NAME and "object 1 is already named 'cup'" in str(twice)
    registry.check_name("cup", first.object_id)
    registry.check_name("", None)
    with pytest.raises(PromptError):
        registry.check_name("cup", 2)
    del registry.objects[1]
    assert registry.create(named("cup"), 0).object_id == 3


def test_who_asks_for_an_object_that_is_gone_is_told_who_lives() -> None:
    registry = Registry(3)
    with pytest.raises(PromptError, match="there is no object 1; living objects: none"):
        registry.living(1)
    first, second = registry.create(named(), 0), registry.create(named(), 0)
    assert registry.living(2) is second and registry.living(1) is first
    with pytest.raises(PromptError, match="there is no object 7; living objects: 1, 2") as caught:
        registry.living(7)
    assert caught.value.code is PromptCode.UNKNOWN_OBJECT


def test_a_result_says_what_is_known() -> None:
    obj = Registry(1).create(named("cup"), 4)
    new = obj.result(8, 6)
    assert (new.mask.area, new.mask.width, new.mask.height, new.state) == (0, 8, 6, ObjectState.OCCLUDED)
    assert (new.first_seen, new.last_seen, new.window) == (0, 0, ())
    obj.set_scores(1.5, 0.75, 0.25)
    obj.window = Window(0, 0, 8, 6)
    before = obj.set_presence(Presence(4, absent_since=4).prompted(6, 60, 0.1, True, CONFIG), mask())
    assert before is ObjectState.OCCLUDED and obj.box == (2, 1, 5, 2) and obj.box_frame == 6 == obj.newest_frame
    obj.set_presence(obj.presence.after(8, 80, Observation(False, 0.0, 0.5), CONFIG), CroppedMask.empty(8, 6))
    result = obj.result(8, 6)
    assert (result.object_id, result.name, result.label, result.label_score) == (1, "cup", "dish", 0.5)
    assert (result.object_score, result.visibility, result.predicted_iou) == (1.5, 0.75, 0.25)
    assert (result.first_seen, result.last_seen, result.frames_since_seen, result.frames_tracked) == (60, 60, 2, 4)
    assert result.window == (), "it was not looked for on this frame"
    assert obj.box == (2, 1, 5, 2) and obj.box_frame == 6, "where it was seen last"


def test_a_frame_that_is_done_again_begins_where_it_began() -> None:
    obj = Registry(1).create(named(), 0)
    for frame in (1, 2):
        obj.set_presence(obj.presence.prompted(frame, frame, 0.1, True, CONFIG), mask())
    first = obj.presence_before_frame(2)
    assert first.frame == 1 and obj.presence_before_frame(3).frame == 2
    obj.set_presence(first.prompted(2, 2, 0.0, True, CONFIG), CroppedMask.empty(8, 6))
    assert obj.presence_before_frame(2) is first


def test_a_past_object_comes_back_with_the_name_of_today() -> None:
    obj = Registry(1).create(named("cup"), 0)
    past = obj.snapshot()
    obj.name, obj.label, obj.label_score = "mug", "thing", 0.25
    obj.set_presence(obj.presence.prompted(2, 2, 0.1, True, CONFIG), mask())
    obj.set_scores(3.0, 0.5, 0.5)
    obj.restore(past)
    assert (obj.name, obj.label, obj.label_score, obj.object_id) == ("mug", "thing", 0.25, 1)
    assert (obj.presence, obj.mask, obj.object_score, obj.box) == (past.presence, None, 0.0, None)


def test_events_tell_a_change_of_state_alone() -> None:
    obj = Registry(1).create(named("cup"), 0)
    obj.set_scores(1.5, 0.75, 0.25)
    before = obj.set_presence(obj.presence.prompted(1, 10, 0.1, True, CONFIG), mask())
    assert obj.state_change(ObjectState.VISIBLE) == []
    (told,) = obj.state_change(before)
    assert (told.event, told.previous_state, told.state, told.reason) == (
        EventCode.STATE_CHANGED, ObjectState.OCCLUDED, ObjectState.VISIBLE, "OCCLUDED became VISIBLE",
    )  # fmt: skip
    assert (told.object_id, told.name, told.label, told.object_score, told.visibility, told.last_seen) == (
        1, "cup", "dish", 1.5, 0.75, 10,
    )  # fmt: skip
    assert obj.change(EventCode.REMOVED, obj.state, "", gone=True).state is None


def test_an_object_that_a_picture_shows_is_lost_until_it_is_seen() -> None:
    presence = Presence.awaiting(7, CONFIG)
    assert presence.state is ObjectState.LOST and presence.lost_since == 7 and presence.absent_for == 0
    later = presence.passed(8, 80, CONFIG)
    assert later.state is ObjectState.LOST and later.absent_for == 1
    assert [frame for frame in range(8, 20) if later.due(frame, CONFIG)] == [11, 15, 19]
    assert [frame for frame in range(8, 32) if later.due(frame, CONFIG, search_factor=3)] == [19, 31]
    seen = later.after(11, 110, Observation(True, 0.1, 0.9), CONFIG)
    assert seen.state is ObjectState.VISIBLE and not seen.awaited and seen.first_seen == 110
    gone = seen.after(12, 120, Observation(False, 0.0, 0.9), CONFIG)
    assert gone.state is ObjectState.OCCLUDED, "from now on as every other object"


@pytest.mark.parametrize(
    ("prompted", "area", "iou", "doubted"),
    [
        (0.1, 0.95, 0.9, False), (0.1, 0.951, 0.9, True), (0.95, 0.97, 0.9, True), (0.951, 0.97, 0.9, False),
        (0.1, 0.4, 0.69, False), (0.1, 0.41, 0.69, True), (0.1, 0.41, 0.7, False),
    ],
)  # fmt: skip
def test_a_mask_is_doubted_beyond_its_limits(prompted: float, area: float, iou: float, doubted: bool) -> None:
    config = TrackerConfig(max_area=0.95, explosion_factor=4, explosion_iou=0.7)
    presence = Presence(-1).prompted(0, 0, prompted, True, config).after(1, 1, Observation(True, area, iou), config)
    assert presence.doubted == doubted and (presence.state is ObjectState.VISIBLE) == (not doubted)
    assert (area in presence.areas) == (not doubted)
