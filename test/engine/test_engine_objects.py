"""Ids, names, room, results: of the engine in this process, and of the one in a server."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from engines import MakeEngine
from small_tracker import add, box, click, object_score, run, scene, small_model, stepped

from sam2_ros.inference import Backend
from sam2_ros.tracking import ObjectResult, PromptCode, PromptError, PromptRequest, TrackerConfig


@pytest.fixture
def engine(make_engine: MakeEngine) -> Backend:
    return make_engine(TrackerConfig(max_objects=4))


def test_ids_count_up_and_are_never_used_again(engine: Backend) -> None:
    assert stepped(engine, [box(), click()]) == [1, 2]
    assert engine.remove(2)
    assert add(engine, click()) == [3]
    assert engine.reset() == 2
    assert engine.objects() is not None and engine.objects().objects == ()  # type: ignore[union-attr]
    run(engine, 1, 1)
    assert add(engine, box(), click()) == [4, 5]
    assert [one.object_id for one in engine.step(scene(2), 2).objects] == [4, 5]


def test_ids_may_go_on_from_an_earlier_tracker(engine: Backend) -> None:
    engine.next_id = 8
    assert stepped(engine, [box(), click()]) == [8, 9]


def test_a_removed_object_is_unknown(engine: Backend) -> None:
    (one,) = stepped(engine, [box()])
    assert engine.remove(one)
    assert not engine.remove(one)
    answer = engine.refine(PromptRequest(click(), one))
    assert answer.code is PromptCode.UNKNOWN_OBJECT
    assert answer.message == f"there is no object {one}; living objects: none"
    with pytest.raises(PromptError, match="there is no object 1"):
        engine.rename(one, "cup", "")


def test_names_are_unique_among_living_objects(engine: Backend) -> None:
    engine.step(scene(0), 0)
    first, second, third = engine.add(
        [PromptRequest(box(), name="cup"), PromptRequest(click(), name="cup"), PromptRequest(click(), name="dish")]
    )
    assert first.success and third.success
    assert second.code is PromptCode.DUPLICATE_NAME
    assert second.message == "object 1 is already named 'cup'; choose another name"
    with pytest.raises(PromptError, match="already named 'cup'"):
        engine.rename(third.object_id, "cup", "plate")
    refused = engine.refine(PromptRequest(click(), third.object_id, name="cup", label="plate"))
    assert refused.code is PromptCode.DUPLICATE_NAME
    assert [(one.name, one.label) for one in run(engine, 1, 1)[0].objects] == [("cup", ""), ("dish", "")]
    engine.remove(first.object_id)
    engine.rename(third.object_id, "cup", "plate")  # free again
    assert [(one.name, one.label) for one in run(engine, 2, 2)[0].objects] == [("cup", "plate")]


def test_objects_without_a_name_do_not_collide(engine: Backend) -> None:
    assert stepped(engine, [box(), click(), click(60, 30)]) == [1, 2, 3]
    engine.rename(2, "", "")
    assert [(one.object_id, one.name) for one in run(engine, 1, 1)[0].objects] == [(1, ""), (2, ""), (3, "")]


def test_a_full_tracker_refuses_with_the_reason(engine: Backend) -> None:
    stepped(engine, [box()] * 4)
    (answer,) = engine.add([PromptRequest(click())])
    assert answer.code is PromptCode.FULL and not answer.success
    assert answer.message == "4 objects tracked already (tracker.max_objects); remove one first"
    engine.remove(2)
    assert add(engine, click()) == [5]  # the refusal used up no id


def test_results_are_complete(engine: Backend) -> None:
    engine.step(scene(0), 1000)
    engine.add([PromptRequest(box(), name="ball", label="toy", label_score=0.75)])
    result = engine.step(scene(1), 2000)
    assert (result.frame_index, result.stamp, result.width, result.height) == (1, 2000, 160, 120)
    (one,) = result.objects
    assert (one.name, one.label, one.label_score, one.prompted) == ("ball", "toy", 0.75, False)
    assert (one.first_seen, one.last_seen, one.frames_since_seen, one.frames_tracked) == (1000, 2000, 0, 1)
    assert one.object_score > 0 and one.visibility == pytest.approx(1 / (1 + np.exp(-one.object_score)))
    assert 0 <= one.predicted_iou <= 1
    assert one.mask.full().shape == (120, 160) and 0 < one.mask.area < 120 * 160
    assert result.object(1) is one
    with pytest.raises(KeyError, match="object 2 is not in frame 1"):
        result.object(2)
    assert set(result.timings_ms) == {"resize", "encode", "memory_attention", "decode", "memory_encode", "masks"}


def test_a_failing_prompt_leaves_no_object_behind(engine: Backend) -> None:
    """An error inside the network reaches the caller; what was tracked before goes on."""
    (one,) = stepped(engine, [box()])
    with (
        mock.patch.object(small_model(), "encode_memory", side_effect=RuntimeError("out of memory")),
        pytest.raises(RuntimeError, match="out of memory"),
    ):
        engine.add([PromptRequest(click())])
    (found,) = run(engine, 1, 1)[0].objects
    assert found.object_id == one
    assert add(engine, click()) == [3]


def test_results_on_the_frame_of_the_prompt(engine: Backend) -> None:
    """The answer and :meth:`objects` agree; there is nothing before the first frame."""
    assert engine.objects() is None
    engine.step(scene(0), 7)
    with object_score(small_model(), 2.0):
        (answer,) = engine.add([PromptRequest(box())])
    newest = engine.objects()
    assert newest is not None and answer.result is not None
    found: ObjectResult = newest.object(1)
    assert found.mask.area == answer.result.mask.area > 0
    assert found.prompted and found.object_score == answer.result.object_score == pytest.approx(2.0)
    assert answer.applied_stamp == 7
    assert 0 <= answer.stability <= 1
