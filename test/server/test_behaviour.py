"""The engine behaves the same in this process and behind a socket."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from served import connected, serving
from small_tracker import box, click, object_score, rectangle, scene, small_model

from sam2_ros.inference.backend import Backend
from sam2_ros.inference.local import LocalBackend
from sam2_ros.tracking import AddRequest, FrameResult, ObjectState, Prompt, PromptCode, PromptError, TrackerConfig
from sam2_ros.tracking.sharing import SharedModel

CONFIG = TrackerConfig(max_objects=3, lost_after=2)
ADDED, STATE_CHANGED, CORRECTED, REMOVED = 1, 2, 3, 4


def local(config: TrackerConfig) -> Backend:
    return LocalBackend(config=config, shared=SharedModel(small_model()))


@pytest.fixture(params=["local", "raw", "shm"])
def engine(request: pytest.FixtureRequest) -> Iterator[Backend]:
    if request.param == "local":
        yield local(CONFIG)
        return
    with serving(local) as server, connected(server, CONFIG, pixels=request.param) as client:
        yield client


def masks(result: FrameResult | None) -> list[bytes]:
    assert result is not None
    return [known.mask.full().tobytes() for known in result.objects]


def story(engine: Backend) -> list[object]:
    """Everything that an engine says in the course of a short life, but for times."""
    told: list[object] = []

    def note(result: FrameResult | None) -> None:
        assert result is not None
        told.append((result.frame_index, result.stamp, result.width, result.height, result.changes))
        told.extend((known.object_id, known.state, known.object_score, known.name, known.first_seen, known.last_seen,
                     known.frames_tracked, known.frames_since_seen, known.prompted, known.predicted_iou, known.mask.box)
                    for known in result.objects)  # fmt: skip
        told.extend(masks(result))

    note(engine.step(scene(0), 0))
    answers = engine.add([AddRequest(box(), name="cup", label="thing", label_score=0.5), AddRequest(click(90, 60))])
    told.extend((each.code, each.message, each.object_id, each.name, each.applied_stamp, len(each.candidates))
                for each in answers)  # fmt: skip
    note(engine.objects())
    for frame in range(1, 4):
        note(engine.step(scene(frame), frame * 1_000_000_000))
    late = engine.add([AddRequest(rectangle(20, 60, 50, 100))], stamp=2_000_000_000)[0]
    told.append((late.code, late.applied_stamp, late.frames_caught_up, late.prompt_age))
    told.append(engine.refine(AddRequest(click(25, 70, 0), 1)).message)
    note(engine.step(scene(4), 4_000_000_000))
    told.extend((engine.remove(2), engine.remove(2), engine.take_changes()))
    note(engine.step(scene(5), 5_000_000_000))
    told.extend((engine.next_id, engine.reset(), engine.take_changes(), engine.next_id))
    return told


def test_the_whole_story_is_the_same(engine: Backend) -> None:
    assert story(engine) == story(local(CONFIG))


def test_ids_go_on_from_what_was_set(engine: Backend) -> None:
    engine.next_id = 8
    engine.step(scene(0), 0)
    assert [each.object_id for each in engine.add([AddRequest(box()), AddRequest(click())])] == [8, 9]
    assert engine.next_id == 10
    engine.reset()
    assert engine.add([AddRequest(box())])[0].object_id == 10


def test_there_are_no_objects_before_the_first_frame(engine: Backend) -> None:
    assert engine.objects() is None
    answer = engine.add([AddRequest(box())])[0]
    assert answer.code is PromptCode.NO_FRAME and answer.message


@pytest.mark.parametrize(
    "prompt",
    [
        Prompt(),
        Prompt(box=np.array([1, 2, 3], np.float32)),
        Prompt(box=np.array([5, 5, 5, 9], np.float32)),
        Prompt(points=np.array([[np.nan, 1]], np.float32), labels=np.array([1], np.int32)),
        Prompt(points=np.array([[1, 1]], np.float32), labels=np.array([7], np.int32)),
        Prompt(points=np.array([[1000, 1]], np.float32), labels=np.array([1], np.int32)),
        Prompt(mask=np.ones((3, 3), np.bool_)),
        Prompt(mask=np.ones((120, 160), np.uint8)),
        Prompt(candidate=9),
    ],
)
def test_a_wrong_prompt_is_refused_with_the_same_words(engine: Backend, prompt: Prompt) -> None:
    other = local(CONFIG)
    for each in (engine, other):
        each.step(scene(0), 0)
    answer = engine.add([AddRequest(prompt), AddRequest(box())])
    expected = other.add([AddRequest(prompt), AddRequest(box())])
    assert [(each.code, each.message) for each in answer] == [(each.code, each.message) for each in expected]
    assert answer[0].code is PromptCode.INVALID_PROMPT and answer[1].success


def test_names_ids_and_room_are_kept_to(engine: Backend) -> None:
    engine.step(scene(0), 0)
    answers = engine.add([AddRequest(box(), name="cup"), AddRequest(click(), name="cup"), AddRequest(click())])
    assert [each.code for each in answers] == [PromptCode.OK, PromptCode.DUPLICATE_NAME, PromptCode.OK]
    with pytest.raises(PromptError, match="already named 'cup'") as caught:
        engine.rename(2, "cup", "")
    assert caught.value.code is PromptCode.DUPLICATE_NAME
    engine.rename(2, "dish", "plate")
    newest = engine.objects()
    assert newest is not None and [known.name for known in newest.objects] == ["cup", "dish"]
    full = engine.add([AddRequest(click()), AddRequest(click())])
    assert [each.code for each in full] == [PromptCode.OK, PromptCode.FULL]
    assert engine.refine(AddRequest(click(), 77)).code is PromptCode.UNKNOWN_OBJECT
    assert engine.refine(AddRequest(click())).code is PromptCode.UNKNOWN_OBJECT


def test_states_and_changes_come_through(engine: Backend) -> None:
    engine.step(scene(0), 0)
    engine.add([AddRequest(box())])
    assert [change.event for change in engine.take_changes()] == [ADDED]
    with object_score(small_model(), -5.0):
        states = [engine.step(scene(frame), frame) for frame in range(1, 6)]
    assert [result.objects[0].state for result in states][:2] == [ObjectState.OCCLUDED] * 2
    assert states[-1].objects[0].state is ObjectState.LOST
    assert [change.event for result in states for change in result.changes] == [STATE_CHANGED] * 2
    assert not states[0].objects[0].mask.area


def test_a_wrong_frame_is_refused_and_the_next_one_tracked(engine: Backend) -> None:
    with pytest.raises(ValueError, match="uint8 of shape"):
        engine.step(np.zeros((3, 3), np.uint8), 0)
    engine.step(scene(0), 0)
    engine.add([AddRequest(box())])
    assert [known.object_id for known in engine.step(scene(1), 1).objects] == [1]
    wide = np.ascontiguousarray(np.pad(scene(2), ((0, 0), (0, 40), (0, 0))))
    result = engine.step(wide, 2)
    assert (result.width, result.height) == (200, 120)
