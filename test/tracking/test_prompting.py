"""Prompts: what is refused and why, candidates, clicks that add up, masks, choices that are too late."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from sam2_reference import difference
from small_tracker import add, box, click, logits, object_score, rectangle, run, scene, small_model, stepped

from sam2_ros.model.mask_decoder import DecodedMasks
from sam2_ros.tracking import AddRequest, ObjectState, Prompt, PromptCode, Tracker, TrackerConfig
from sam2_ros.tracking.config import CLICK_CANDIDATES
from sam2_ros.tracking.prompting import preferred_candidate

ONE = np.array([[30, 80]], np.float32)
POSITIVE = np.array([1], np.int32)


@pytest.fixture
def tracker() -> Tracker:
    return Tracker(small_model(), TrackerConfig(max_objects=3))


def state_of(tracker: Tracker) -> list[Any]:
    """Everything that a refused prompt must leave as it is."""
    objects = [
        {name: value.tolist() if hasattr(value, "tolist") else value for name, value in vars(one).items()}
        for one in tracker._objects.values()
    ]
    bank = tracker.bank
    tables = [table.tolist() for table in (bank.prompted_frames, bank.recent_frames, bank.pointer_frames)]
    memory = [bank.spatial.float().sum().item(), bank.pointers.sum().item()]
    return [copy.copy(objects), tables, memory, tracker.next_id, list(tracker._changes)]


BAD = {
    "empty": (Prompt(), "the prompt is empty; give points with labels, a box, a box with points, or a mask"),
    "no points": (
        Prompt(points=np.zeros((0, 2), np.float32), labels=np.zeros(0, np.int32)),
        "points have shape (0, 2); accepted: one or more pairs x, y",
    ),
    "points of three": (
        Prompt(points=np.zeros((1, 3), np.float32), labels=POSITIVE),
        "points have shape (1, 3); accepted: one or more pairs x, y",
    ),
    "too few labels": (
        Prompt(points=np.zeros((2, 2), np.float32), labels=POSITIVE),
        "2 points came with 1 labels; accepted: one label for each point",
    ),
    "no labels": (Prompt(points=ONE), "1 points came with 0 labels; accepted: one label for each point"),
    "labels alone": (
        Prompt(labels=POSITIVE, box=np.array([1, 1, 9, 9], np.float32)),
        "labels came without points; accepted: one label for each point",
    ),
    "other labels": (
        Prompt(points=ONE, labels=np.array([2], np.int32)),
        "point labels are [2]; accepted: 1 (on the object) and 0 (not on it)",
    ),
    "not finite": (Prompt(points=np.array([[np.nan, 1]], np.float32), labels=POSITIVE), "a point is not finite"),
    "outside": (
        Prompt(points=np.array([[30, 80], [160, 5]], np.float32), labels=np.array([1, 1], np.int32)),
        "the point (160, 5) lies outside the image of 160 x 120",
    ),
    "negative only": (
        Prompt(points=ONE, labels=np.array([0], np.int32)),
        "a new object needs a positive point (label 1), a box or a mask; only negative points came",
    ),
    "box of three": (
        Prompt(box=np.zeros(3, np.float32)),
        "a box is four finite numbers: x0, y0, x1, y1 in pixels",
    ),
    "infinite box": (
        Prompt(box=np.array([0, 0, np.inf, 9], np.float32)),
        "a box is four finite numbers: x0, y0, x1, y1 in pixels",
    ),
    "box turned over": (
        Prompt(box=np.array([40, 60, 15, 100], np.float32)),
        "the box (40, 60, 15, 100) is smaller than a pixel; accepted: x0 < x1 and y0 < y1",
    ),
    "box outside": (
        Prompt(box=np.array([160, 0, 170, 10], np.float32)),
        "the box (160, 0, 170, 10) lies outside the image of 160 x 120",
    ),
    "mask and box": (
        Prompt(mask=np.ones((120, 160), np.bool_), box=np.array([1, 1, 9, 9], np.float32)),
        "a mask can't be combined with box; give one of them",
    ),
    "mask of another size": (
        Prompt(mask=np.ones((160, 120), np.bool_)),
        "the mask is 120 x 160 pixels, the image 160 x 120; they must be equal",
    ),
    "mask of numbers": (
        Prompt(mask=np.ones((120, 160), np.uint8)),
        "the mask is of type uint8; accepted: bool, for example mask > 0",
    ),
    "candidate 4": (
        click(candidate=4),
        "candidate is 4; accepted: 1, 2 or 3, as offered by the answer before",
    ),
    "candidate of nothing": (
        Prompt(candidate=1),
        "a candidate is chosen for an existing object; give its id, or a point for a new object",
    ),
    "candidate of a box": (
        Prompt(box=np.array([1, 1, 9, 9], np.float32), candidate=1),
        "candidates are offered for a single point; give one point with the choice, or the choice alone",
    ),
    "candidate of two points": (
        Prompt(points=np.array([[30, 80], [60, 5]], np.float32), labels=np.array([1, 1], np.int32), candidate=1),
        "candidates are offered for a single point; give one point with the choice, or the choice alone",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_prompt_is_refused_with_its_reason(tracker: Tracker, name: str) -> None:
    """Nothing has changed afterwards, and the good prompt beside it is applied."""
    prompt, message = BAD[name]
    stepped(tracker, [box()])
    run(tracker, 1, 2)
    before = state_of(tracker)
    (refused,) = tracker.add([AddRequest(prompt, name="cup")])
    assert (refused.code, refused.message) == (PromptCode.INVALID_PROMPT, message)
    assert not refused.success and refused.object_id == 0 and refused.result is None
    assert state_of(tracker) == before
    refused, accepted = tracker.add([AddRequest(prompt), AddRequest(click())])
    assert refused.message == message and accepted.success and accepted.object_id == 2
    assert len(run(tracker, 3, 3)[0].objects) == 2


def test_a_prompt_before_the_first_frame_is_refused(tracker: Tracker) -> None:
    (answer,) = tracker.add([AddRequest(box())])
    assert answer.code is PromptCode.NO_FRAME
    assert answer.message == "no frame was processed yet; send the prompt after the first image"


def test_a_correction_needs_a_living_object(tracker: Tracker) -> None:
    stepped(tracker, [box(), click()])
    answer = tracker.refine(AddRequest(click(), 9))
    assert answer.code is PromptCode.UNKNOWN_OBJECT
    assert answer.message == "there is no object 9; living objects: 1, 2"
    answer = tracker.refine(AddRequest(click()))
    assert answer.message == "a correction needs the id of a living object"


def test_a_negative_point_alone_corrects_an_existing_object(tracker: Tracker) -> None:
    (one,) = stepped(tracker, [box()])
    run(tracker, 1, 1)
    assert tracker.refine(AddRequest(click(20, 20, label=0), one)).success


def test_a_box_may_reach_out_of_the_image(tracker: Tracker) -> None:
    """Clipped, it is the same prompt."""
    first, second = stepped(tracker, [box(-50, -20, 60, 70), box(0, 0, 60, 70)])
    assert torch.equal(logits(tracker, first), logits(tracker, second))


# -- frames --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (np.zeros((9, 9, 3), np.float32), r"a frame is uint8 of shape \[H, W, 3\]; got float32 of shape \[9, 9, 3\]"),
        (np.zeros((120, 160), np.uint8), r"got uint8 of shape \[120, 160\]"),
        (np.zeros((120, 160, 4), np.uint8), r"got uint8 of shape \[120, 160, 4\]"),
        (np.zeros((0, 160, 3), np.uint8), r"got uint8 of shape \[0, 160, 3\]"),
    ],
)  # fmt: skip
def test_a_frame_of_another_kind_is_refused(tracker: Tracker, frame: Any, message: str) -> None:
    stepped(tracker, [box()])
    before = state_of(tracker)
    with pytest.raises(ValueError, match=message):
        tracker.step(frame, 1)
    assert state_of(tracker) == before
    assert tracker.step(scene(1), 1).frame_index == 1  # the refused one was not counted


def test_frames_may_be_views(tracker: Tracker) -> None:
    """Not contiguous, turned over, read-only: what counts are the pixels."""
    image = scene(0)
    wide = np.repeat(image, 2, axis=1)
    locked = image.copy()
    locked.setflags(write=False)
    areas = []
    for view in (image, wide[:, ::2], np.flip(np.flip(image, 0).copy(), 0), locked):
        tracker.step(view, 0)
        (answer,) = tracker.add([AddRequest(box())])
        assert answer.result is not None
        areas.append(answer.result.mask.area)
        tracker.reset()
    assert len(set(areas)) == 1


def test_frames_may_change_their_size(tracker: Tracker) -> None:
    """Masks and prompts follow the newest frame."""
    (one,) = stepped(tracker, [box()])
    large = np.repeat(np.repeat(scene(1), 2, axis=0), 2, axis=1)
    result = tracker.step(large, 1)
    assert (result.width, result.height) == (320, 240)
    assert result.object(one).mask.full().shape == (240, 320)
    assert tracker.refine(AddRequest(click(300, 200), one)).success
    result = tracker.step(scene(2), 2)
    assert result.object(one).mask.full().shape == (120, 160)
    assert tracker.refine(AddRequest(click(300, 200), one)).code is PromptCode.INVALID_PROMPT


# -- candidates ----------------------------------------------------------------------------------------------


def test_a_single_click_offers_three_candidates(tracker: Tracker) -> None:
    tracker.step(scene(0), 0)
    single, framed = tracker.add([AddRequest(click()), AddRequest(box())])
    assert [candidate.index for candidate in single.candidates] == [1, 2, 3]
    assert framed.candidates == ()
    assert single.result is not None
    best = max(single.candidates, key=lambda candidate: candidate.predicted_iou)
    assert np.array_equal(best.mask.full(), single.result.mask.full())
    assert best.predicted_iou == pytest.approx(single.result.predicted_iou)
    assert all(0 <= c.stability <= 1 and 0 <= c.predicted_iou <= 1 and c.mask.area for c in single.candidates)


@pytest.mark.parametrize("index", [1, 2, 3])
def test_a_candidate_is_chosen_by_a_second_call(tracker: Tracker, index: int) -> None:
    """The chosen mask is shown, and what is remembered from now on; the others may still be chosen instead."""
    tracker.step(scene(0), 0)
    (offered,) = tracker.add([AddRequest(click())])
    assert [candidate.index for candidate in offered.candidates] == [1, 2, 3]
    assert tracker.refine(AddRequest(Prompt(candidate=index % 3 + 1), offered.object_id)).success
    answer = tracker.refine(AddRequest(Prompt(candidate=index), offered.object_id))
    assert answer.success and answer.result is not None
    assert np.array_equal(answer.result.mask.full(), offered.candidates[index - 1].mask.full())
    assert answer.result.predicted_iou == pytest.approx(offered.candidates[index - 1].predicted_iou)
    chosen = run(tracker, 1, 3)[-1]
    # The same as asking for it at once.
    direct = Tracker(small_model(), TrackerConfig(max_objects=3))
    stepped(direct, [click(candidate=index)])
    run(direct, 1, 3)
    assert difference(logits(tracker, 1), logits(direct, 1)) <= 1e-5
    assert chosen.object(1).state is ObjectState.VISIBLE


def test_a_chosen_candidate_is_there_whatever_the_score_says(tracker: Tracker) -> None:
    tracker.step(scene(0), 0)
    with object_score(small_model(), -4.0):
        (offered,) = tracker.add([AddRequest(click())])
        assert offered.result is not None and offered.result.mask.area == 0
        answer = tracker.refine(AddRequest(Prompt(candidate=1), offered.object_id))
    assert answer.result is not None and answer.result.mask.area > 0
    assert answer.result.state is ObjectState.VISIBLE and answer.result.object_score > 0


@pytest.mark.parametrize("rule", CLICK_CANDIDATES)
def test_a_setting_says_which_candidate_a_click_means(rule: str) -> None:
    tracker = Tracker(small_model(), TrackerConfig(max_objects=1, click_candidate=rule))
    tracker.step(scene(0), 0)
    (answer,) = tracker.add([AddRequest(click())])
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
    assert tracker.refine(AddRequest(Prompt(candidate=other), answer.object_id)).success


def test_rules_for_candidates_pass_by_empty_and_bad_ones() -> None:
    logits = torch.full((1, 4, 8, 8), -9.0)
    logits[0, 1, :2], logits[0, 2, :4] = 9.0, 9.0  # the third candidate is empty: nothing is more stable
    decoded = DecodedMasks(logits, torch.tensor([[0.0, 0.5, 0.9, 0.8]]), torch.zeros(1, 4, 1), torch.ones(1, 1))
    choices = {rule: preferred_candidate(decoded, rule) for rule in CLICK_CANDIDATES}
    assert choices.pop("best") is None
    assert {rule: int(index) for rule, index in choices.items() if index is not None} == {
        "stable": 0,  # as stable as the second, and the first of them
        "largest": 1,
        "smallest": 1,  # the smaller one is predicted too bad
    }


def test_a_choice_is_refused_where_nothing_is_offered(tracker: Tracker) -> None:
    one, framed = stepped(tracker, [click(), box()])
    before = state_of(tracker)
    kept_none = "no candidates are kept for this object on this frame; give the point again with the choice"
    assert tracker.refine(AddRequest(Prompt(candidate=3), framed)).message == kept_none
    answer = tracker.refine(AddRequest(click(candidate=3), one))
    assert answer.code is PromptCode.INVALID_PROMPT and "this object has earlier ones on this frame" in answer.message
    assert state_of(tracker) == before
    run(tracker, 1, 1)
    answer = tracker.refine(AddRequest(Prompt(candidate=3), one))  # a frame too late
    assert (answer.code, answer.message) == (PromptCode.INVALID_PROMPT, kept_none)
    assert tracker.refine(AddRequest(click(candidate=3), one)).success


# -- clicks add up -------------------------------------------------------------------------------------------


def test_clicks_on_the_same_frame_add_up(tracker: Tracker) -> None:
    (one,) = stepped(tracker, [click()])
    tracker.refine(AddRequest(click(60, 60, label=0), one))
    kept = tracker._objects[one]
    assert kept.points.tolist() == [[30, 80], [60, 60]] and kept.labels.tolist() == [1, 0]
    tracker.refine(AddRequest(click(90, 90, replace=True), one))
    assert kept.points.tolist() == [[90, 90]]
    tracker.refine(AddRequest(box(), one))  # a box begins anew
    assert kept.labels.tolist() == [2, 3]
    run(tracker, 1, 1)
    tracker.refine(AddRequest(click(50, 50), one))  # and so does a frame
    assert kept.points.tolist() == [[50, 50]]


def test_clicks_in_one_call_are_applied_one_after_the_other() -> None:
    """Two prompts for one object in one call are what they are in two."""
    trackers = [Tracker(small_model(), TrackerConfig(max_objects=3)) for _ in range(2)]
    for tracker in trackers:
        stepped(tracker, [box(), box()])
        run(tracker, 1, 2)
    requests = [AddRequest(click(60, 60), 1), AddRequest(click(20, 20), 2), AddRequest(click(90, 90, label=0), 1)]
    together = trackers[0].add(requests)
    apart = [trackers[1].add([request])[0] for request in requests]
    assert [answer.object_id for answer in together] == [answer.object_id for answer in apart] == [1, 2, 1]
    for object_id in (1, 2):
        assert difference(logits(trackers[0], object_id), logits(trackers[1], object_id)) <= 1e-4
    assert trackers[0]._objects[1].labels.tolist() == [1, 0]


def test_a_second_correction_with_one_prompted_slot() -> None:
    """The first one has taken the place of all that was remembered; the second is like a first prompt."""
    tracker = Tracker(small_model(), TrackerConfig(max_objects=1, prompted_slots=1))
    (one,) = stepped(tracker, [box()])
    run(tracker, 1, 1)
    for _ in range(2):
        assert tracker.refine(AddRequest(click(60, 60), one)).success
    assert run(tracker, 2, 2)[0].object(one).mask.area > 0


# -- masks ---------------------------------------------------------------------------------------------------


def test_a_mask_is_taken_as_it_is(tracker: Tracker) -> None:
    """Up to the resampling to the network's size and back."""
    tracker.step(scene(0), 0)
    prompt = rectangle(40, 30, 100, 90)
    (answer,) = tracker.add([AddRequest(prompt)])
    assert answer.result is not None and prompt.mask is not None
    mask = answer.result.mask.full()
    assert np.count_nonzero(mask & prompt.mask) / np.count_nonzero(mask | prompt.mask) > 0.95
    assert answer.result.predicted_iou == 1.0 and answer.result.object_score == 10.0
    assert answer.candidates == ()


def test_an_empty_mask_says_that_the_object_is_not_there(tracker: Tracker) -> None:
    """It also takes back that the object was seen on this frame."""
    (one,) = stepped(tracker, [box()])
    run(tracker, 1, 3)
    assert tracker.step(scene(4), 4).object(one).last_seen == 4
    answer = tracker.refine(AddRequest(rectangle(0, 0, 0, 0), one))
    assert answer.success and answer.result is not None
    assert answer.result.state is ObjectState.OCCLUDED
    assert answer.result.mask.area == 0 and answer.result.object_score == -10.0
    assert (answer.result.last_seen, answer.result.frames_since_seen) == (3, 1)
    assert tracker.bank.prompted_frames[0].tolist() == [0, 4, -1, -1]  # remembered as such
    assert run(tracker, 5, 5)[0].object(one).state is ObjectState.VISIBLE


def test_several_kinds_in_one_call(tracker: Tracker) -> None:
    """Answers come in the order of the requests."""
    tracker.step(scene(0), 0)
    answers = tracker.add([AddRequest(rectangle(40, 30, 90, 90)), AddRequest(click()), AddRequest(box())])
    assert [answer.object_id for answer in answers] == [1, 2, 3]
    assert [len(answer.candidates) for answer in answers] == [0, 3, 0]
    alone = Tracker(small_model(), TrackerConfig(max_objects=3))
    stepped(alone, [box()])
    assert difference(logits(tracker, 3), logits(alone, 1)) <= 1e-5
    assert add(alone, rectangle(40, 30, 90, 90)) == [2]
    assert difference(logits(tracker, 1), logits(alone, 2)) <= 1e-5
