"""VISIBLE, OCCLUDED, LOST and back; what was seen when; changes and events. In this process and in a server."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
from engines import MakeEngine
from small_tracker import add, box, click, object_score, rectangle, run, scene, small_model, stepped

from sam2_ros.inference import Backend
from sam2_ros.tracking import EventCode, ObjectState, PromptRequest, TrackerConfig

VISIBLE, OCCLUDED, LOST = ObjectState.VISIBLE, ObjectState.OCCLUDED, ObjectState.LOST
SECOND = 1_000_000_000


@pytest.fixture
def engine(make_engine: MakeEngine) -> Backend:
    return make_engine(TrackerConfig(max_objects=2, lost_after=3, search_every=1))


def test_visible_occluded_lost_and_back(engine: Backend) -> None:
    """Three frames without the object are an occlusion, with the fourth it is lost; it may still come back."""
    engine.step(scene(0), 10 * SECOND)
    (one,) = add(engine, box())
    seen = []
    for frame in range(1, 10):
        with object_score(small_model(), -2.0 if 3 <= frame <= 7 else 2.0):
            found = engine.step(scene(frame), (10 + frame) * SECOND).object(one)
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


def test_state_changes_come_with_the_frame(engine: Backend) -> None:
    """Each once, with the states before and after."""
    (one,) = stepped(engine, [box()])
    engine.take_changes()
    changes = {}
    for frame in range(1, 9):
        with object_score(small_model(), -2.0 if 2 <= frame <= 6 else 2.0):
            changes[frame] = [
                (change.event, change.object_id, change.previous_state, change.state, change.reason)
                for change in engine.step(scene(frame), frame).changes
            ]
    assert {frame: found for frame, found in changes.items() if found} == {
        2: [(EventCode.STATE_CHANGED, one, VISIBLE, OCCLUDED, "VISIBLE became OCCLUDED")],
        5: [(EventCode.STATE_CHANGED, one, OCCLUDED, LOST, "OCCLUDED became LOST")],
        7: [(EventCode.STATE_CHANGED, one, LOST, VISIBLE, "LOST became VISIBLE")],
    }
    assert engine.take_changes() == []  # a frame's result carries them, and nothing else does


def test_an_object_that_was_never_seen(engine: Backend) -> None:
    """Its absence is counted from the frame on which it was added."""
    engine.step(scene(0), SECOND)
    with object_score(small_model(), -2.0):
        (one,) = add(engine, box())
        results = [engine.step(scene(frame), frame * SECOND).object(one) for frame in range(1, 6)]
    assert [result.state for result in results] == [OCCLUDED, OCCLUDED, OCCLUDED, LOST, LOST]
    assert [result.frames_since_seen for result in results] == [1, 2, 3, 4, 5]
    assert (results[-1].first_seen, results[-1].last_seen) == (0, 0)
    found = engine.step(scene(6), 6 * SECOND).object(one)
    assert (found.state, found.first_seen, found.last_seen, found.frames_since_seen) == (
        VISIBLE, 6 * SECOND, 6 * SECOND, 0,
    )  # fmt: skip


def test_events_of_commands(engine: Backend) -> None:
    """Added, corrected, removed: with what is known then, in their order, and once."""
    engine.step(scene(0), 5)
    with object_score(small_model(), 2.0):
        engine.add([PromptRequest(box(), name="ball", label="toy"), PromptRequest(click())])
    first, second = engine.take_changes()
    assert (first.event, first.object_id, first.name, first.label) == (EventCode.ADDED, 1, "ball", "toy")
    assert (first.previous_state, first.state, first.last_seen) == (None, VISIBLE, 5)
    assert first.object_score == pytest.approx(2.0) and 0.8 < first.visibility < 0.9
    assert (second.event, second.object_id) == (EventCode.ADDED, 2)
    assert engine.take_changes() == []

    with object_score(small_model(), -2.0):
        engine.step(scene(1), 6)
    engine.refine(PromptRequest(click(60, 60), 1))
    corrected, changed = engine.take_changes()
    assert (corrected.event, corrected.previous_state, corrected.state) == (EventCode.CORRECTED, OCCLUDED, VISIBLE)
    assert (changed.event, changed.previous_state, changed.state) == (EventCode.STATE_CHANGED, OCCLUDED, VISIBLE)

    engine.remove(1)
    engine.reset()
    events = [(change.event, change.object_id, change.state, change.reason) for change in engine.take_changes()]
    assert events == [
        (EventCode.REMOVED, 1, None, "removed by request"),
        (EventCode.REMOVED, 2, None, "removed by request"),
    ]


def test_refused_prompts_and_failed_removals_are_no_events(engine: Backend) -> None:
    stepped(engine, [box()])
    engine.take_changes()
    engine.add([PromptRequest(click(-5, 0))])
    engine.refine(PromptRequest(click(), 9))
    engine.remove(9)
    assert engine.take_changes() == []


def test_prompted_marks_the_frame_of_the_prompt_only(engine: Backend) -> None:
    (one,) = stepped(engine, [box()])
    newest = engine.objects()
    assert newest is not None and newest.object(one).prompted
    assert not run(engine, 1, 1)[0].object(one).prompted
    answer = engine.refine(PromptRequest(click(60, 60), one))
    assert answer.result is not None and answer.result.prompted


def test_visibility_is_the_calibrated_probability_of_the_score(engine: Backend) -> None:
    (one,) = stepped(engine, [box()])
    for score, visibility in ((0.0, 0.5), (4.0, 0.982), (-4.0, 0.018)):
        with object_score(small_model(), score):
            found = engine.step(scene(1), 1).object(one)
        assert found.object_score == pytest.approx(score)
        assert found.visibility == pytest.approx(visibility, abs=1e-3)


def test_a_model_may_take_a_low_predicted_iou_for_absence(make_engine: MakeEngine) -> None:
    """The object score says that it is there; the predicted IoU of its mask decides."""
    seen = []
    for threshold in (0.0, 1.01):
        model = copy.copy(small_model())
        model.config = replace(model.config, present_iou=threshold)
        engine = make_engine(TrackerConfig(max_objects=1), model)
        engine.step(scene(0), 0)
        engine.add([PromptRequest(box())])
        seen.append(engine.step(scene(1), 1).objects[0])
    there, gone = seen
    assert there.object_score > 0 and there.state is ObjectState.VISIBLE and there.visibility > 0.5
    assert gone.object_score == pytest.approx(there.object_score, abs=1e-5)
    assert gone.state is ObjectState.OCCLUDED and gone.mask.area == 0 and gone.visibility < 0.5


def test_an_object_that_is_lost_for_too_long_is_dropped(make_engine: MakeEngine) -> None:
    """With an event; its id is not used again, and its place is free."""
    engine = make_engine(TrackerConfig(max_objects=1, lost_after=2, search_every=2, drop_after=6))
    (one,) = stepped(engine, [box()])
    engine.take_changes()
    with object_score(small_model(), -2.0):
        results = run(engine, 1, 8)
    assert [len(result.objects) for result in results] == [1] * 6 + [0, 0]
    (change,) = results[6].changes
    assert (change.event, change.object_id, change.previous_state, change.state) == (EventCode.DROPPED, one, LOST, None)
    assert change.reason == "not seen for 7 frames (tracker.drop_after)"
    assert engine.take_changes() == [] and not results[7].changes
    assert add(engine, box()) == [one + 1]


def test_by_default_nothing_is_dropped(make_engine: MakeEngine) -> None:
    engine = make_engine(TrackerConfig(max_objects=1, lost_after=2, search_every=100))
    stepped(engine, [box()])
    with object_score(small_model(), -2.0):
        assert run(engine, 1, 60)[-1].objects[0].state is LOST


def test_a_mask_that_is_drawn_in_spite_of_the_score_is_shown_for_a_while(make_engine: MakeEngine) -> None:
    engine = make_engine(TrackerConfig(max_objects=1, occluded_after=3))
    stepped(engine, [click()])
    run(engine, 1, 3)
    with object_score(small_model(), -0.5):
        results = [result.objects[0] for result in run(engine, 4, 7)]
    assert [one.state for one in results] == [VISIBLE, VISIBLE, OCCLUDED, OCCLUDED]
    assert [one.mask.area > 0 for one in results] == [True, True, False, False]
    assert all(one.object_score == pytest.approx(-0.5) and one.visibility < 0.5 for one in results)


def test_an_object_whose_mask_others_cover_is_not_visible(make_engine: MakeEngine) -> None:
    """VISIBLE means that there is a mask, with non-overlap too."""
    engine = make_engine(TrackerConfig(max_objects=2, non_overlap=True))
    stepped(engine, [rectangle(20, 20, 100, 100), rectangle(20, 20, 100, 100)])
    for result in run(engine, 1, 4):
        for one in result.objects:
            assert (one.state is VISIBLE) == (one.mask.area > 0)
