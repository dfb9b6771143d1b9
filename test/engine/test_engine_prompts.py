"""Prompts: what is refused and why, candidates, masks. In this process and in a server."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from bad_prompts import BAD, BAD_NAMES
from engines import MakeEngine, told
from small_tracker import add, box, click, object_score, rectangle, run, scene, small_model, stepped

from sam2_ros.inference import Backend
from sam2_ros.tracking import EventCode, ObjectState, Prompt, PromptCode, PromptError, PromptRequest, TrackerConfig
from sam2_ros.tracking.config import CLICK_CANDIDATES


@pytest.fixture
def engine(make_engine: MakeEngine) -> Backend:
    return make_engine(TrackerConfig(max_objects=3))


def state_of(engine: Backend) -> list[Any]:
    """What a refused prompt must leave as it is."""
    return [told(engine.objects()), engine.next_id]


@pytest.mark.parametrize("name", BAD)
def test_a_bad_prompt_is_refused_with_its_reason(make_engine: MakeEngine, engine: Backend, name: str) -> None:
    """Nothing has changed afterwards, and the good prompt beside it is applied, as if it had come alone."""
    prompt, message = BAD[name]
    stepped(engine, [box()])
    run(engine, 1, 2)
    before = state_of(engine)
    (refused,) = engine.add([PromptRequest(prompt, name="cup")])
    assert (refused.code, refused.message) == (PromptCode.INVALID_PROMPT, message)
    assert not refused.success and refused.object_id == 0 and refused.result is None
    assert state_of(engine) == before
    refused, accepted = engine.add([PromptRequest(prompt), PromptRequest(click())])
    assert refused.message == message and accepted.success and accepted.object_id == 2
    other = make_engine(TrackerConfig(max_objects=3))
    stepped(other, [box()])
    run(other, 1, 2)
    add(other, click())
    assert [told(one) for one in run(engine, 3, 4)] == [told(one) for one in run(other, 3, 4)]


def many(count: int, **changes: Any) -> Prompt:
    return replace(click(), points=np.full((count, 2), 30, np.float32), labels=np.ones(count, np.int32), **changes)


def test_points_that_add_up_on_one_frame_are_limited(engine: Backend) -> None:
    stepped(engine, [many(200)])
    message = "object 1 has 200 points on this frame, and 57 more came; accepted: up to 256 in all; send fewer, or "
    before = state_of(engine)
    for object_id, stamp in ((1, 0), (1, 1)):
        refused = engine.refine(PromptRequest(many(57), object_id, name="cup"), stamp)
        assert (refused.code, refused.message) == (PromptCode.INVALID_PROMPT, message + "replace the earlier ones")
    assert state_of(engine) == before
    assert engine.refine(PromptRequest(many(56), 1)).success  # as many as may be
    assert not engine.refine(PromptRequest(click(), 1)).success
    assert engine.refine(PromptRequest(many(256, replace=True), 1)).success
    first, second = engine.add([PromptRequest(box_and_points := replace(many(256), box=box().box), 1),
                                PromptRequest(many(1), 1)])  # fmt: skip
    assert first.success and "has 256 points on this frame, and 1 more" in second.message
    run(engine, 2, 2)
    assert engine.refine(PromptRequest(box_and_points, 1)).success  # on the next frame they begin anew
    late = engine.refine(PromptRequest(click(), 1), 1)
    assert "has 256 points on this frame, and 1 more" in late.message


def test_a_call_holds_a_limited_number_of_prompts_and_points(engine: Backend) -> None:
    stepped(engine, [box()])
    before = state_of(engine)
    for requests, message in (
        ([PromptRequest(click(), 1)] * 1025, "there are 1025 prompts; accepted: up to 1024; send fewer"),
        (
            [PromptRequest(many(256), 1)] * 65,
            "there are 16640 points in one request; accepted: up to 16384; send fewer",
        ),
    ):
        with pytest.raises(PromptError) as caught:
            engine.add(requests)
        assert (caught.value.code, str(caught.value)) == (PromptCode.INVALID_PROMPT, message)
    assert state_of(engine) == before


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_bad_name_is_refused_with_its_reason(engine: Backend, name: str) -> None:
    fields, message = BAD_NAMES[name]
    stepped(engine, [box()])
    before = state_of(engine)
    (refused,) = engine.add([replace(PromptRequest(click()), **fields)])
    assert (refused.code, refused.message) == (PromptCode.INVALID_PROMPT, message)
    with pytest.raises(PromptError) as caught:
        engine.rename(1, **({"name": "", "label": ""} | fields))
    assert (caught.value.code, str(caught.value)) == (PromptCode.INVALID_PROMPT, message)
    assert state_of(engine) == before


def test_a_prompt_before_the_first_frame_is_refused(engine: Backend) -> None:
    (answer,) = engine.add([PromptRequest(box())])
    assert answer.code is PromptCode.NO_FRAME
    assert answer.message == "no frame was processed yet; send the prompt after the first image"


def test_a_correction_needs_a_living_object(engine: Backend) -> None:
    stepped(engine, [box(), click()])
    answer = engine.refine(PromptRequest(click(), 9))
    assert answer.code is PromptCode.UNKNOWN_OBJECT
    assert answer.message == "there is no object 9; living objects: 1, 2"
    answer = engine.refine(PromptRequest(click()))
    assert answer.message == "a correction needs the id of a living object"


def test_a_negative_point_alone_corrects_an_existing_object(engine: Backend) -> None:
    (one,) = stepped(engine, [box()])
    run(engine, 1, 1)
    assert engine.refine(PromptRequest(click(20, 20, label=0), one)).success


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (np.zeros((9, 9, 3), np.float32), r"a frame is uint8 of shape \[H, W, 3\]; got float32 of shape \[9, 9, 3\]"),
        (np.zeros((120, 160), np.uint8), r"got uint8 of shape \[120, 160\]"),
        (np.zeros((120, 160, 4), np.uint8), r"got uint8 of shape \[120, 160, 4\]"),
        (np.zeros((0, 160, 3), np.uint8), r"got uint8 of shape \[0, 160, 3\]"),
    ],
)  # fmt: skip
def test_a_frame_of_another_kind_is_refused(engine: Backend, frame: Any, message: str) -> None:
    stepped(engine, [box()])
    before = state_of(engine)
    with pytest.raises(ValueError, match=message):
        engine.step(frame, 1)
    assert state_of(engine) == before
    assert engine.step(scene(1), 1).frame_index == 1  # the refused one was not counted


def test_frames_may_be_views(engine: Backend) -> None:
    """Not contiguous, turned over, read-only: what counts are the pixels."""
    image = scene(0)
    wide = np.repeat(image, 2, axis=1)
    locked = image.copy()
    locked.setflags(write=False)
    masks = []
    for view in (image, wide[:, ::2], np.flip(np.flip(image, 0).copy(), 0), locked, np.flip(image, 0)):
        engine.step(view, 0)
        (answer,) = engine.add([PromptRequest(box())])
        assert answer.result is not None
        masks.append(answer.result.mask.full())
        engine.reset()
    *same, other = masks
    assert all(np.array_equal(mask, masks[0]) for mask in same) and masks[0].any()
    assert not np.array_equal(other, masks[0]), "other pixels give another mask"


def test_with_non_overlap_a_prompt_takes_its_own_pixels_alone(make_engine: MakeEngine) -> None:
    """The other object keeps the rest of its mask."""
    engine = make_engine(TrackerConfig(max_objects=2, non_overlap=True))
    stepped(engine, [rectangle(10, 20, 70, 90)])
    add(engine, rectangle(50, 20, 130, 90))
    newest = engine.objects()
    assert newest is not None
    first, second = (obj.mask.full() for obj in newest.objects)
    assert not (first & second).any()
    assert first[30:80, 15:45].all() and second[30:80, 75:125].all()


def test_with_non_overlap_an_object_without_pixels_is_not_visible(make_engine: MakeEngine) -> None:
    """Another one's prompt takes all of them, and those that an object has lost do not come back with a prompt."""
    engine = make_engine(TrackerConfig(max_objects=2, non_overlap=True))
    stepped(engine, [box()])
    engine.take_changes()
    ones = np.ones(scene(0).shape[:2], np.bool_)
    whole, nothing = PromptRequest(Prompt(mask=ones)), PromptRequest(Prompt(mask=~ones), 2)
    for request, seen in ((whole, True), (replace(whole, object_id=2), True), (nothing, False)):
        assert engine.add([request])[0].success
        newest = engine.objects()
        assert newest is not None
        assert [one.mask.area > 0 for one in newest.objects] == [False, seen]
        assert [one.state is ObjectState.VISIBLE for one in newest.objects] == [False, seen]
    changes = [(change.event, change.state) for change in engine.take_changes() if change.object_id == 1]
    assert changes == [(EventCode.STATE_CHANGED, ObjectState.OCCLUDED)]


def test_frames_may_change_their_size(engine: Backend) -> None:
    """Masks and prompts follow the newest frame."""
    (one,) = stepped(engine, [box()])
    large = np.repeat(np.repeat(scene(1), 2, axis=0), 2, axis=1)
    result = engine.step(large, 1)
    assert (result.width, result.height) == (320, 240)
    assert result.object(one).mask.full().shape == (240, 320)
    assert engine.refine(PromptRequest(click(300, 200), one)).success
    result = engine.step(scene(2), 2)
    assert result.object(one).mask.full().shape == (120, 160)
    assert engine.refine(PromptRequest(click(300, 200), one)).code is PromptCode.INVALID_PROMPT


def test_a_single_click_offers_three_candidates(engine: Backend) -> None:
    engine.step(scene(0), 0)
    single, framed = engine.add([PromptRequest(click()), PromptRequest(box())])
    assert [candidate.index for candidate in single.candidates] == [1, 2, 3]
    assert framed.candidates == ()
    assert single.result is not None
    best = max(single.candidates, key=lambda candidate: candidate.predicted_iou)
    assert np.array_equal(best.mask.full(), single.result.mask.full())
    assert best.predicted_iou == pytest.approx(single.result.predicted_iou)
    assert all(0 <= c.stability <= 1 and 0 <= c.predicted_iou <= 1 and c.mask.area for c in single.candidates)


def test_a_chosen_candidate_is_there_whatever_the_score_says(engine: Backend) -> None:
    engine.step(scene(0), 0)
    with object_score(small_model(), -4.0):
        (offered,) = engine.add([PromptRequest(click())])
        assert offered.result is not None and offered.result.mask.area == 0
        answer = engine.refine(PromptRequest(Prompt(candidate=1), offered.object_id))
    assert answer.result is not None and answer.result.mask.area > 0
    assert answer.result.state is ObjectState.VISIBLE and answer.result.object_score > 0


@pytest.mark.parametrize("rule", CLICK_CANDIDATES)
def test_a_setting_says_which_candidate_a_click_means(make_engine: MakeEngine, rule: str) -> None:
    engine = make_engine(TrackerConfig(max_objects=1, click_candidate=rule))
    engine.step(scene(0), 0)
    (answer,) = engine.add([PromptRequest(click())])
    assert answer.result is not None
    best = max(one.predicted_iou for one in answer.candidates)
    good = [one for one in answer.candidates if one.predicted_iou >= 0.8 * best and one.mask.area]
    wanted = {
        "best": max(answer.candidates, key=lambda one: one.predicted_iou),
        "stable": max(answer.candidates, key=lambda one: one.stability),
        "largest": max(good, key=lambda one: one.mask.area),
        "smallest": min(good, key=lambda one: one.mask.area),
    }[rule]
    assert len({one.mask.area for one in answer.candidates}) == 3  # the rules have something to choose from
    assert np.array_equal(answer.result.mask.full(), wanted.mask.full())
    # What was meant after all can still be chosen.
    other = wanted.index % 3 + 1
    assert engine.refine(PromptRequest(Prompt(candidate=other), answer.object_id)).success


def test_a_choice_is_refused_where_nothing_is_offered(engine: Backend) -> None:
    one, framed = stepped(engine, [click(), box()])
    before = state_of(engine)
    kept_none = "no candidates are stored for this object on this frame; give the point again with the choice"
    assert engine.refine(PromptRequest(Prompt(candidate=3), framed)).message == kept_none
    answer = engine.refine(PromptRequest(click(candidate=3), one))
    assert answer.code is PromptCode.INVALID_PROMPT and "this object has earlier ones on this frame" in answer.message
    assert state_of(engine) == before
    run(engine, 1, 1)
    answer = engine.refine(PromptRequest(Prompt(candidate=3), one))  # a frame too late
    assert (answer.code, answer.message) == (PromptCode.INVALID_PROMPT, kept_none)
    assert engine.refine(PromptRequest(click(candidate=3), one)).success


def test_a_second_correction_with_one_prompted_slot(make_engine: MakeEngine) -> None:
    """The first one replaced all memory; the second is like a first prompt."""
    engine = make_engine(TrackerConfig(max_objects=1, prompted_slots=1))
    (one,) = stepped(engine, [box()])
    run(engine, 1, 1)
    for _ in range(2):
        assert engine.refine(PromptRequest(click(60, 60), one)).success
    assert run(engine, 2, 2)[0].object(one).mask.area > 0


def test_a_mask_is_taken_as_it_is(engine: Backend) -> None:
    """Up to the resampling to the network's size and back."""
    engine.step(scene(0), 0)
    prompt = rectangle(40, 30, 100, 90)
    (answer,) = engine.add([PromptRequest(prompt)])
    assert answer.result is not None and prompt.mask is not None
    mask = answer.result.mask.full()
    assert np.count_nonzero(mask & prompt.mask) / np.count_nonzero(mask | prompt.mask) > 0.95
    assert answer.result.predicted_iou == 1.0 and answer.result.object_score == 10.0
    assert answer.candidates == ()


def test_an_empty_mask_says_that_the_object_is_not_there(engine: Backend) -> None:
    """It also takes back that the object was seen on this frame."""
    (one,) = stepped(engine, [box()])
    run(engine, 1, 3)
    assert engine.step(scene(4), 4).object(one).last_seen == 4
    answer = engine.refine(PromptRequest(rectangle(0, 0, 0, 0), one))
    assert answer.success and answer.result is not None
    assert answer.result.state is ObjectState.OCCLUDED
    assert answer.result.mask.area == 0 and answer.result.object_score == -10.0
    assert (answer.result.last_seen, answer.result.frames_since_seen) == (3, 1)
    assert run(engine, 5, 5)[0].object(one).state is ObjectState.VISIBLE
