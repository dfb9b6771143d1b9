"""VISIBLE, OCCLUDED, LOST and back; what was seen when; changes and events."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from unittest import mock

import pytest
import torch
from small_tracker import add, box, click, object_score, run, scene, small_model, stepped

from sam2_ros.tracking import AddRequest, ObjectState, Tracker, TrackerConfig
from sam2_ros.tracking.prompting import Answer
from sam2_ros.tracking.tracker import ADDED, CORRECTED, KEPT_CHANGES, REMOVED, STATE_CHANGED

VISIBLE, OCCLUDED, LOST = ObjectState.VISIBLE, ObjectState.OCCLUDED, ObjectState.LOST
SECOND = 1_000_000_000


def _answer_quickly(tracker: Tracker) -> Callable[..., list[Answer]]:
    """What one real prompt gave, again and again."""
    (one,) = add(tracker, box())
    found = tracker._objects[one]
    assert found.logits is not None
    answer = Answer(found.logits, found.object_score, found.predicted_iou, 1.0, None)
    tracker.remove(one)
    return lambda prompts, *_: [answer for _ in prompts]


@pytest.fixture
def tracker() -> Tracker:
    return Tracker(small_model(), TrackerConfig(max_objects=2, lost_after=3, search_every=1))


def test_visible_occluded_lost_and_back(tracker: Tracker) -> None:
    """Three frames without the object are an occlusion, with the fourth it is lost; it may still come back."""
    tracker.step(scene(0), 10 * SECOND)
    (one,) = add(tracker, box())
    seen = []
    for frame in range(1, 10):
        with object_score(small_model(), -2.0 if 3 <= frame <= 7 else 2.0):
            found = tracker.step(scene(frame), (10 + frame) * SECOND).object(one)
        seen.append((found.state, found.frames_since_seen, found.last_seen // SECOND, found.mask.area > 0))
    assert seen == [
        (VISIBLE, 0, 11, True),
        (VISIBLE, 0, 12, True),
        (OCCLUDED, 1, 12, False),
        (OCCLUDED, 2, 12, False),
        (OCCLUDED, 3, 12, False),
        (LOST, 4, 12, False),
        (LOST, 5, 12, False),
        (VISIBLE, 0, 18, True),
        (VISIBLE, 0, 19, True),
    ]
    assert (found.first_seen, found.frames_tracked) == (10 * SECOND, 9)


def test_state_changes_come_with_the_frame(tracker: Tracker) -> None:
    """Each once, with the states before and after."""
    (one,) = stepped(tracker, [box()])
    tracker.take_changes()
    changes = {}
    for frame in range(1, 9):
        with object_score(small_model(), -2.0 if 2 <= frame <= 6 else 2.0):
            changes[frame] = [
                (change.event, change.object_id, change.previous_state, change.state, change.reason)
                for change in tracker.step(scene(frame), frame).changes
            ]
    assert {frame: found for frame, found in changes.items() if found} == {
        2: [(STATE_CHANGED, one, VISIBLE, OCCLUDED, "VISIBLE became OCCLUDED")],
        5: [(STATE_CHANGED, one, OCCLUDED, LOST, "OCCLUDED became LOST")],
        7: [(STATE_CHANGED, one, LOST, VISIBLE, "LOST became VISIBLE")],
    }
    assert tracker.take_changes() == []  # a frame's result carries them, and nothing else does


def test_an_object_that_was_never_seen(tracker: Tracker) -> None:
    """Its absence is counted from the frame on which it was added."""
    tracker.step(scene(0), SECOND)
    with object_score(small_model(), -2.0):
        (one,) = add(tracker, box())
        results = [tracker.step(scene(frame), frame * SECOND).object(one) for frame in range(1, 6)]
    assert [result.state for result in results] == [OCCLUDED, OCCLUDED, OCCLUDED, LOST, LOST]
    assert [result.frames_since_seen for result in results] == [1, 2, 3, 4, 5]
    assert (results[-1].first_seen, results[-1].last_seen) == (0, 0)
    found = tracker.step(scene(6), 6 * SECOND).object(one)
    assert (found.state, found.first_seen, found.last_seen, found.frames_since_seen) == (
        VISIBLE, 6 * SECOND, 6 * SECOND, 0,
    )  # fmt: skip


def test_events_of_commands(tracker: Tracker) -> None:
    """Added, corrected, removed: with what is known then, in their order, and once."""
    tracker.step(scene(0), 5)
    with object_score(small_model(), 2.0):
        tracker.add([AddRequest(box(), name="ball", label="toy"), AddRequest(click())])
    first, second = tracker.take_changes()
    assert (first.event, first.object_id, first.name, first.label) == (ADDED, 1, "ball", "toy")
    assert (first.previous_state, first.state, first.last_seen) == (None, VISIBLE, 5)
    assert first.object_score == pytest.approx(2.0) and 0.8 < first.visibility < 0.9
    assert (second.event, second.object_id) == (ADDED, 2)
    assert tracker.take_changes() == []

    with object_score(small_model(), -2.0):
        tracker.step(scene(1), 6)
    tracker.refine(AddRequest(click(60, 60), 1))
    corrected, changed = tracker.take_changes()
    assert (corrected.event, corrected.previous_state, corrected.state) == (CORRECTED, OCCLUDED, VISIBLE)
    assert (changed.event, changed.previous_state, changed.state) == (STATE_CHANGED, OCCLUDED, VISIBLE)

    tracker.remove(1)
    tracker.reset()
    events = [(change.event, change.object_id, change.state, change.reason) for change in tracker.take_changes()]
    assert events == [(REMOVED, 1, None, "removed by request"), (REMOVED, 2, None, "removed by request")]


def test_events_that_nobody_takes_do_not_pile_up(tracker: Tracker) -> None:
    tracker.step(scene(0), 0)
    with mock.patch.object(tracker._prompts, "apply", _answer_quickly(tracker)):
        for _ in range(KEPT_CHANGES):
            tracker.remove(add(tracker, box())[0])
    changes = tracker.take_changes()
    assert len(changes) == KEPT_CHANGES
    assert (changes[-1].event, changes[-1].object_id) == (REMOVED, KEPT_CHANGES + 1)
    assert tracker.take_changes() == []


def test_refused_prompts_and_failed_removals_are_no_events(tracker: Tracker) -> None:
    stepped(tracker, [box()])
    tracker.take_changes()
    tracker.add([AddRequest(click(-5, 0))])
    tracker.refine(AddRequest(click(), 9))
    tracker.remove(9)
    assert tracker.take_changes() == []


def test_prompted_marks_the_frame_of_the_prompt_only(tracker: Tracker) -> None:
    (one,) = stepped(tracker, [box()])
    newest = tracker.objects()
    assert newest is not None and newest.object(one).prompted
    assert not run(tracker, 1, 1)[0].object(one).prompted
    answer = tracker.refine(AddRequest(click(60, 60), one))
    assert answer.result is not None and answer.result.prompted


def test_visibility_is_the_calibrated_probability_of_the_score(tracker: Tracker) -> None:
    (one,) = stepped(tracker, [box()])
    for score, visibility in ((0.0, 0.5), (4.0, 0.982), (-4.0, 0.018)):
        with object_score(small_model(), score):
            found = tracker.step(scene(1), 1).object(one)
        assert found.object_score == pytest.approx(score)
        assert found.visibility == pytest.approx(visibility, abs=1e-3)


def test_a_model_may_take_a_low_predicted_iou_for_absence() -> None:
    """The object score says that it is there; the predicted IoU of its mask decides."""
    seen = []
    for threshold in (0.0, 1.01):
        model = copy.copy(small_model())
        model.config = replace(model.config, present_iou=threshold)
        tracker = Tracker(model, TrackerConfig(max_objects=1))
        tracker.step(scene(0), 0)
        tracker.add([AddRequest(box())])
        seen.append(tracker.step(scene(1), 1).objects[0])
    there, gone = seen
    assert there.object_score > 0 and there.state is ObjectState.VISIBLE and there.visibility > 0.5
    assert gone.object_score == pytest.approx(there.object_score, abs=1e-5)
    assert gone.state is ObjectState.OCCLUDED and gone.mask.area == 0 and gone.visibility < 0.5


def test_the_memory_of_a_hidden_object_waits() -> None:
    """Hidden for ten frames, an object is looked for with the same recent frames, as old as they were."""
    model = copy.copy(small_model())
    tracker = Tracker(model, TrackerConfig(max_objects=2))
    tracker.step(scene(0), 0)
    tracker.add([AddRequest(box())])
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
