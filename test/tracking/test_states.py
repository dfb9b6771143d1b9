"""VISIBLE, OCCLUDED, LOST and back; what was seen when; changes and events."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from unittest import mock

import pytest
import torch
from small_tracker import add, box, run, scene, small_model

from sam2_ros.tracking import EventCode, ObjectState, PromptRequest, Tracker, TrackerConfig
from sam2_ros.tracking.prompt_decoder import Answer
from sam2_ros.tracking.tracker import MAX_CHANGES

VISIBLE, OCCLUDED, LOST = ObjectState.VISIBLE, ObjectState.OCCLUDED, ObjectState.LOST
SECOND = 1_000_000_000


def _answer_quickly(tracker: Tracker) -> Callable[..., list[Answer]]:
    """Repeats the answer to one real prompt."""
    (one,) = add(tracker, box())
    found = tracker._objects[one]
    assert found.logits is not None
    answer = Answer(found.logits, torch.zeros(1), found.object_score, found.predicted_iou, stability=1.0)
    tracker.remove(one)
    return lambda prompts, *_: [answer for _ in prompts]


@pytest.fixture
def tracker() -> Tracker:
    return Tracker(small_model(), TrackerConfig(max_objects=2, lost_after=3, search_every=1))


def test_events_that_nobody_takes_do_not_pile_up(tracker: Tracker) -> None:
    tracker.step(scene(0), 0)
    with mock.patch.object(tracker._prompts, "apply", _answer_quickly(tracker)):
        for _ in range(MAX_CHANGES):
            tracker.remove(add(tracker, box())[0])
    changes = tracker.take_changes()
    assert len(changes) == MAX_CHANGES
    assert (changes[-1].event, changes[-1].object_id) == (EventCode.REMOVED, MAX_CHANGES + 1)
    assert tracker.take_changes() == []


def test_the_memory_of_a_hidden_object_waits() -> None:
    """Hidden for ten frames, an object is searched for with the same recent frames at the same ages."""
    model = copy.copy(small_model())
    tracker = Tracker(model, TrackerConfig(max_objects=2))
    tracker.step(scene(0), 0)
    tracker.add([PromptRequest(box())])
    run(tracker, 1, 8)
    row = tracker._objects[1].row
    before = tracker.bank.gather([row], 9)
    model.config = replace(model.config, present_iou=1.01)
    assert all(result.objects[0].state is not VISIBLE for result in run(tracker, 9, 18))
    after = tracker.bank.gather([row], 19)
    assert after.num_pointers == before.num_pointers and torch.equal(after.tokens, before.tokens)
    split = model.config.hidden_dim // model.config.memory_dim
    first = before.tokens.shape[1] - before.num_pointers
    unchanged = [*range(first), *range(first + split, before.tokens.shape[1])]  # all but the prompted frame's pointer
    assert torch.equal(after.codes[:, unchanged], before.codes[:, unchanged])
    model.config = replace(model.config, present_iou=0.0)
    assert run(tracker, 19, 19)[0].objects[0].state is VISIBLE
