"""Prompts: what is refused and why, candidates, clicks that add up, masks, choices that are too late."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from bad_prompts import BAD
from sam2_reference import difference
from small_tracker import add, box, click, logits, rectangle, run, scene, small_model, stepped

from sam2_ros.model.network import DecodedMasks
from sam2_ros.tracking import ObjectState, Prompt, PromptRequest, Tracker, TrackerConfig
from sam2_ros.tracking.config import CLICK_CANDIDATES
from sam2_ros.tracking.prompt_decoder import preferred_candidate


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
    tables = [table.tolist() for table in (bank.conditioning_frames, bank.recent_frames, bank.pointer_frames)]
    memory = [bank.spatial.float().sum().item(), bank.pointers.sum().item()]
    return [copy.copy(objects), tables, memory, tracker.next_id, list(tracker._changes)]


@pytest.mark.parametrize("name", BAD)
def test_a_refused_prompt_leaves_the_memory_as_it_was(tracker: Tracker, name: str) -> None:
    stepped(tracker, [box()])
    run(tracker, 1, 2)
    before = state_of(tracker)
    (refused,) = tracker.add([PromptRequest(BAD[name][0], name="cup")])
    assert not refused.success and state_of(tracker) == before


def test_a_box_may_reach_out_of_the_image(tracker: Tracker) -> None:
    """Clipped, it is the same prompt."""
    first, second = stepped(tracker, [box(-50, -20, 60, 70), box(0, 0, 60, 70)])
    assert torch.equal(logits(tracker, first), logits(tracker, second))


# -- frames --------------------------------------------------------------------------------------------------


# -- candidates ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [1, 2, 3])
def test_a_candidate_is_chosen_by_a_second_call(tracker: Tracker, index: int) -> None:
    """The chosen mask is shown, and what is remembered from now on; the others may still be chosen instead."""
    tracker.step(scene(0), 0)
    (offered,) = tracker.add([PromptRequest(click())])
    assert [candidate.index for candidate in offered.candidates] == [1, 2, 3]
    assert tracker.refine(PromptRequest(Prompt(candidate=index % 3 + 1), offered.object_id)).success
    answer = tracker.refine(PromptRequest(Prompt(candidate=index), offered.object_id))
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


# -- clicks add up -------------------------------------------------------------------------------------------


def test_clicks_on_the_same_frame_add_up(tracker: Tracker) -> None:
    (one,) = stepped(tracker, [click()])
    tracker.refine(PromptRequest(click(60, 60, label=0), one))
    kept = tracker._objects[one]
    assert kept.points.tolist() == [[30, 80], [60, 60]] and kept.labels.tolist() == [1, 0]
    tracker.refine(PromptRequest(click(90, 90, replace=True), one))
    assert kept.points.tolist() == [[90, 90]]
    tracker.refine(PromptRequest(box(), one))  # a box begins anew
    assert kept.labels.tolist() == [2, 3]
    run(tracker, 1, 1)
    tracker.refine(PromptRequest(click(50, 50), one))  # and so does a frame
    assert kept.points.tolist() == [[50, 50]]


def test_clicks_in_one_call_are_applied_one_after_the_other() -> None:
    """Two prompts for one object in one call are what they are in two."""
    trackers = [Tracker(small_model(), TrackerConfig(max_objects=3)) for _ in range(2)]
    for tracker in trackers:
        stepped(tracker, [box(), box()])
        run(tracker, 1, 2)
    requests = [
        PromptRequest(click(60, 60), 1),
        PromptRequest(click(20, 20), 2),
        PromptRequest(click(90, 90, label=0), 1),
    ]
    together = trackers[0].add(requests)
    apart = [trackers[1].add([request])[0] for request in requests]
    assert [answer.object_id for answer in together] == [answer.object_id for answer in apart] == [1, 2, 1]
    for object_id in (1, 2):
        assert difference(logits(trackers[0], object_id), logits(trackers[1], object_id)) <= 1e-4
    assert trackers[0]._objects[1].labels.tolist() == [1, 0]


# -- masks ---------------------------------------------------------------------------------------------------


def test_several_kinds_in_one_call(tracker: Tracker) -> None:
    """Answers come in the order of the requests."""
    tracker.step(scene(0), 0)
    answers = tracker.add([PromptRequest(rectangle(40, 30, 90, 90)), PromptRequest(click()), PromptRequest(box())])
    assert [answer.object_id for answer in answers] == [1, 2, 3]
    assert [len(answer.candidates) for answer in answers] == [0, 3, 0]
    alone = Tracker(small_model(), TrackerConfig(max_objects=3))
    stepped(alone, [box()])
    assert difference(logits(tracker, 3), logits(alone, 1)) <= 1e-5
    assert add(alone, rectangle(40, 30, 90, 90)) == [2]
    assert difference(logits(tracker, 1), logits(alone, 2)) <= 1e-5


def test_an_empty_mask_is_remembered_as_such(tracker: Tracker) -> None:
    (one,) = stepped(tracker, [box()])
    run(tracker, 1, 4)
    assert tracker.refine(PromptRequest(rectangle(0, 0, 0, 0), one)).success
    assert tracker.bank.conditioning_frames[0].tolist() == [0, 4, -1, -1]
