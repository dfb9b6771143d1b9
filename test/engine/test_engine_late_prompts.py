"""Prompts for stored frames: which frame is meant, and which events follow. In this process and in a server."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
from engines import MakeEngine
from small_tracker import add, box, click, object_score, rectangle, scene, small_model

from sam2_ros.inference import Backend
from sam2_ros.model import Sam2Model
from sam2_ros.tracking import EventCode, ObjectState, Prompt, PromptCode, PromptRequest, TrackerConfig

K = 8  # stored frames before the newest
SECOND = 1_000_000_000
NOW = 12  # the newest frame when the late prompt comes


def engine_of(make_engine: MakeEngine, model: Sam2Model | None = None, **options: object) -> Backend:
    settings = {"max_objects": 4, "history": K, "history_tolerance": 0.0, **options}
    return make_engine(TrackerConfig(**settings), model)  # type: ignore[arg-type]


def play(engine: Backend, first: int, last: int) -> None:
    """Frames stamped with their number in seconds, from 1 s on."""
    for frame in range(first, last + 1):
        engine.step(scene(frame), stamp(frame))


def stamp(frame: int) -> int:
    return (frame + 1) * SECOND


def test_the_banks_rule_lets_a_correction_go_and_says_so(make_engine: MakeEngine) -> None:
    engine = engine_of(make_engine, prompted_slots=2)
    play(engine, 0, 1)
    add(engine, box())
    play(engine, 2, 8)
    engine.refine(PromptRequest(click(60, 60), 1))
    play(engine, 9, NOW)
    engine.take_changes()
    answer = engine.refine(PromptRequest(click(60, 60), 1), stamp(10))
    assert "its prompt of frame 8 was released" in answer.message
    assert [change.event for change in engine.take_changes()] == [EventCode.CORRECTED, EventCode.PROMPT_RELEASED]


def test_what_a_late_prompt_changes_is_told_as_of_now(make_engine: MakeEngine) -> None:
    """The object was taken for hidden until now; the correction says where it was three frames ago."""
    model = copy.copy(small_model())
    engine = engine_of(make_engine, model)
    play(engine, 0, 1)
    engine.add([PromptRequest(box())])
    model.config = replace(model.config, present_iou=1.01)
    play(engine, 2, 6)
    model.config = replace(model.config, present_iou=0.0)
    engine.take_changes()
    answer = engine.refine(PromptRequest(box(), 1), stamp(3))
    assert answer.message == "object 1 corrected on frame 3, 3.000 s old; caught up through 3 frames"
    assert answer.result is not None and (answer.result.prompted, answer.result.frames_tracked) == (True, 2)
    corrected, changed = engine.take_changes()
    assert (corrected.event, corrected.previous_state, corrected.state) == (
        EventCode.CORRECTED, ObjectState.OCCLUDED, ObjectState.VISIBLE,
    )  # fmt: skip
    assert (changed.event, changed.last_seen) == (EventCode.STATE_CHANGED, stamp(6))
    newest = engine.objects()
    assert newest is not None and newest.stamp == stamp(6)
    assert not newest.object(1).prompted and newest.object(1).frames_tracked == 5
    engine.add([PromptRequest(click(), name="cup")], stamp(4))
    (added,) = engine.take_changes()
    assert (added.event, added.previous_state, added.last_seen, added.name) == (EventCode.ADDED, None, stamp(6), "cup")


def test_overlap_is_settled_on_the_newest_frame_alone(make_engine: MakeEngine) -> None:
    engine = engine_of(make_engine, non_overlap=True)
    play(engine, 0, 1)
    add(engine, rectangle(20, 20, 100, 100))
    play(engine, 2, NOW)
    before = engine.objects()
    engine.add([PromptRequest(rectangle(20, 20, 100, 100))], stamp(NOW - 3))
    newest = engine.objects()
    assert newest is not None
    first, second = (one.mask.full() for one in newest.objects)
    assert not (first & second).any() and second.any()
    assert before is not None and np.array_equal(first, before.objects[0].mask.full() & ~second) and first.any()


def test_a_late_prompt_where_nothing_is_seen_any_more(make_engine: MakeEngine) -> None:
    engine = engine_of(make_engine, non_overlap=True, lost_after=1, search_every=100)
    play(engine, 0, 1)
    add(engine, box())
    nothing = Prompt(mask=np.zeros(scene(0).shape[:2], np.bool_))
    with object_score(small_model(), -2.0):
        play(engine, 2, NOW)
        answer = engine.refine(PromptRequest(nothing, 1), stamp(NOW - 3))
    newest = engine.objects()
    assert answer.success and newest is not None
    assert (newest.object(1).state, newest.object(1).mask.area) == (ObjectState.LOST, 0)


@pytest.mark.parametrize(
    ("asked", "frame", "off"),
    [(8.0, 7, 0.0), (8.2, 7, 0.2), (7.7, 7, 0.3), (8.6, 8, 0.4), (13.3, NOW, 0.3), (4.75, 4, 0.25)],
)
def test_a_dropped_frames_stamp_means_the_nearest_stored_one(
    make_engine: MakeEngine, asked: float, frame: int, off: float
) -> None:
    engine = engine_of(make_engine, history_tolerance=0.45)
    play(engine, 0, NOW)
    (answer,) = engine.add([PromptRequest(box())], round(asked * SECOND))
    assert answer.success and answer.applied_stamp == stamp(frame)
    assert answer.stamp_difference == pytest.approx(off)
    assert f"the stored frame nearest to the stamp, {off:.3f} s from it" in answer.message or not off


@pytest.mark.parametrize(
    ("asked", "code", "words"),
    [
        (3.9, PromptCode.TOO_OLD, "the frame stamped 3.900000000 is gone; accepted: 5.000000000 to 13.000000000, give"),
        (7.5, PromptCode.NO_FRAME, "the nearest stored one is 0.500 s from it; accepted: at most 0.2 s"),
        (13.5, PromptCode.NO_FRAME, "no frame stamped 13.500000000 was processed; accepted: 5.000000000 to 13"),
    ],
)
def test_a_stamp_of_no_stored_frame_is_refused(
    make_engine: MakeEngine, asked: float, code: PromptCode, words: str
) -> None:
    engine = engine_of(make_engine, history_tolerance=0.2)
    play(engine, 0, NOW)
    answers = engine.add([PromptRequest(box()), PromptRequest(box(), 5)], round(asked * SECOND))
    assert [answer.code for answer in answers] == [code, code]
    assert words in answers[0].message
    assert engine.next_id == 1


def test_without_a_history_only_the_newest_frame_can_be_prompted(make_engine: MakeEngine) -> None:
    engine = engine_of(make_engine, history=0)
    play(engine, 0, 3)
    (answer,) = engine.add([PromptRequest(box())], stamp(2))
    assert answer.code is PromptCode.TOO_OLD
    assert answer.message.endswith("is gone; accepted: 4.000000000, the newest, or 0, which means the newest")
    assert engine.add([PromptRequest(box())], stamp(3))[0].success


def test_of_equal_stamps_the_newer_frame_is_meant(make_engine: MakeEngine) -> None:
    """A bag that starts again."""
    engine = engine_of(make_engine)
    play(engine, 0, 3)
    play(engine, 1, 2)
    (answer,) = engine.add([PromptRequest(box())], stamp(2))
    assert answer.message == "object 1 added on frame 5"


def test_an_object_can_not_be_corrected_before_it_was_added(make_engine: MakeEngine) -> None:
    engine = engine_of(make_engine)
    play(engine, 0, 6)
    add(engine, box())
    play(engine, 7, 9)
    answer = engine.refine(PromptRequest(click(60, 60), 1), stamp(5))
    assert answer.code is PromptCode.TOO_OLD and "was added after the frame stamped 6.000000000" in answer.message
    assert engine.refine(PromptRequest(click(60, 60), 1), stamp(6)).success  # on the very frame it may be


def test_a_late_prompt_is_checked_against_its_own_image(make_engine: MakeEngine) -> None:
    """The camera's resolution changed in between."""
    engine = engine_of(make_engine)
    engine.step(np.repeat(np.repeat(scene(0), 2, axis=0), 2, axis=1), stamp(0))
    engine.step(scene(1), stamp(1))
    request = PromptRequest(box(170, 130, 250, 200))
    assert engine.add([request])[0].code is PromptCode.INVALID_PROMPT
    (answer,) = engine.add([request], stamp(0))
    assert answer.result is not None and (answer.result.mask.width, answer.result.mask.height) == (320, 240)
    newest = engine.objects()
    assert newest is not None and newest.object(1).mask.full().shape == (120, 160)


def test_the_reference_policy_knows_no_late_prompts(make_engine: MakeEngine) -> None:
    engine = engine_of(make_engine, reference_policy=True)
    play(engine, 0, 4)
    (answer,) = engine.add([PromptRequest(box())], stamp(2))
    assert answer.code is PromptCode.UNSUPPORTED and "tracker.reference_policy" in answer.message
