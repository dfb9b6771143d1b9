"""What a client believes of an answer, up to which value; and what it refuses, from the next one on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sam2_ros.inference.backend import BackendInfo
from sam2_ros.remote import answers
from sam2_ros.remote.codec import to_wire
from sam2_ros.remote.protocol import ProtocolError
from sam2_ros.tracking import PromptCode, PromptResult
from sam2_ros.tracking.types import CroppedMask, EventCode, FrameResult, MaskCandidate, ObjectChange, ObjectResult
from sam2_ros.tracking.types import ObjectState as State

LATEST = 2**31 * 10**9  # ns
MASK = CroppedMask(np.ones((3, 4), np.bool_), 2, 1, 8, 6)
OBJECT = ObjectResult(1, MASK, State.VISIBLE, 1.0, 0.5, 0.5, False, "cup", "dish", 0.5, 1, 2, 3, 4)
FRAME = FrameResult(0, 5, 8, 6, (OBJECT,), (), {"encode": 1.0}, ("size",))
CHANGE = ObjectChange(EventCode.STATE_CHANGED, 1, "cup", "dish", State.VISIBLE, State.LOST, 1.0, 0.5, 3, "it is gone")
RESULT = PromptResult(PromptCode.OK, "done", 1, "cup", 5, result=OBJECT, candidates=(MaskCandidate(1, MASK, 0.5, 0.5),))
INFO = BackendInfo("null", "cpu", "float32", 64, 5, 4)
NAN, INF = math.nan, math.inf


def frame(**fields: Any) -> None:
    answers.frame_result(to_wire(replace(FRAME, **fields)), 2, 48)


def an_object(**fields: Any) -> None:
    frame(objects=(replace(OBJECT, **fields),))


def a_mask(x: int, y: int) -> None:
    an_object(mask=replace(MASK, x=x, y=y))


def change(**fields: Any) -> None:
    frame(changes=(replace(CHANGE, **fields),))
    answers.changes(to_wire([replace(CHANGE, **fields)]), 2)


def prompt(**fields: Any) -> None:
    answers.prompt_result(to_wire(replace(RESULT, **fields)), 48)


def candidate(**fields: Any) -> None:
    prompt(candidates=(replace(RESULT.candidates[0], **fields),))


def info(**fields: Any) -> None:
    answers.backend_info({"info": to_wire(replace(INFO, **fields))})


@pytest.mark.parametrize(
    ("told", "field", "believed", "refused"),
    [
        (frame, "stamp", (-LATEST, LATEST), (-LATEST - 1, LATEST + 1)),
        (frame, "frame_index", (0, 2**62), (-1, 2**62 + 1)),
        (frame, "timings_ms", ({str(n): 1.0 for n in range(100)},), ({str(n): 1.0 for n in range(101)}, {"a": INF})),
        (frame, "load_shedding", (("a",) * 100, ("a\nb",), ("a" * 1000,)), (("a",) * 101, ("a\0",), ("a" * 1001,))),
        (frame, "changes", ((CHANGE,) * 80,), ((CHANGE,) * 81,)),
        (frame, "objects", ((), (OBJECT, replace(OBJECT, object_id=2))), ((OBJECT, OBJECT),)),
        (an_object, "object_id", (1, 2**32 - 1), (0, 2**32)),
        (an_object, "name", ("", "a" * 256), ("a" * 257, "a\n")),
        (an_object, "label", ("", "a" * 256), ("a" * 257, "a\n")),
        (an_object, "object_score", (-1e300,), (NAN, INF)),
        (an_object, "visibility", (0.0,), (NAN, -INF)),
        (an_object, "predicted_iou", (0.0,), (NAN,)),
        (an_object, "label_score", (0.0,), (NAN,)),
        (an_object, "first_seen", (-LATEST, LATEST), (-LATEST - 1, LATEST + 1)),
        (an_object, "last_seen", (-LATEST, LATEST), (-LATEST - 1, LATEST + 1)),
        (an_object, "frames_since_seen", (0, 2**31), (-1, 2**31 + 1)),
        (an_object, "frames_tracked", (0, 2**31), (-1, 2**31 + 1)),
        (an_object, "window", ((), (0, 0, 8, 6), (7, 5, 8, 6)), (
            (0,), (0, 0, 8), (0, 0, 8, 6, 6), (-1, 0, 8, 6), (0, -1, 8, 6), (0, 0, 9, 6), (0, 0, 8, 7), (3, 0, 3, 6),
            (0, 3, 8, 3),
        )),
        (change, "object_id", (0, 2**32 - 1), (-1, 2**32)),
        (change, "name", ("",), ("a\n",)),
        (change, "label", ("",), ("a" * 257,)),
        (change, "reason", ("", "a" * 1000), ("a" * 1001, "\x1b[31m")),
        (change, "object_score", (0.0,), (NAN,)),
        (change, "visibility", (0.0,), (INF,)),
        (change, "last_seen", (-LATEST, LATEST), (-LATEST - 1, LATEST + 1)),
        (prompt, "message", ("", "a" * 1000), ("a" * 1001, "\x07")),
        (prompt, "object_id", (0, 2**32 - 1), (-1, 2**32)),
        (prompt, "applied_stamp", (-LATEST, LATEST), (-LATEST - 1, LATEST + 1)),
        (prompt, "frames_caught_up", (0, 2**31), (-1, 2**31 + 1)),
        (prompt, "prompt_age", (-1.0,), (NAN,)),
        (prompt, "stamp_difference", (0.0,), (INF,)),
        (prompt, "stability", (0.0,), (NAN,)),
        (prompt, "candidates", ((), RESULT.candidates * 4), (RESULT.candidates * 5,)),
        (prompt, "result", (None,), (replace(OBJECT, object_id=0),)),
        (prompt, "name", ("", "a" * 256), ("a" * 257,)),
        (candidate, "index", (1, 4), (0, 5)),
        (candidate, "predicted_iou", (0.0,), (NAN,)),
        (candidate, "stability", (0.0,), (NAN,)),
        (candidate, "mask", (MASK,), (replace(MASK, x=5),)),
        (info, "model", ("a" * 1000,), ("a" * 1001, "\x1b")),
        (info, "device", ("",), ("\x1b",)),
        (info, "dtype", ("",), ("\x1b",)),
        *((info, size, (0, 2**62), (-1, 2**62 + 1)) for size in (
            "image_size", "bank_bytes", "max_objects", "history_bytes", "cache_bytes",
        )),
    ],
)  # fmt: skip
def test_each_value_has_its_limits(
    told: Callable[..., None], field: str, believed: tuple[Any, ...], refused: tuple[Any, ...]
) -> None:
    for value in believed:
        told(**{field: value})
    for value in refused:
        with pytest.raises(ProtocolError):
            told(**{field: value})


def test_a_mask_lies_within_its_image() -> None:
    for x, y in ((0, 0), (4, 0), (0, 3), (4, 3)):
        a_mask(x, y)
    for x, y in ((-1, 0), (0, -1), (5, 0), (0, 4)):
        with pytest.raises(ProtocolError, match="outside its image"):
            a_mask(x, y)
    crops: list[Any] = [np.ones((3, 4), np.uint8), np.ones((3, 4, 1), np.bool_)]
    for crop in crops:
        with pytest.raises(ProtocolError, match="a mask is"):
            an_object(mask=replace(MASK, crop=crop))
    with pytest.raises(ProtocolError, match="of another size than its frame"):
        an_object(mask=replace(MASK, width=7))


def test_a_result_is_of_the_frame_that_was_sent() -> None:
    wire = to_wire(FRAME)
    assert answers.step_result(wire, 2, 8, 6, 5).stamp == 5
    for width, height, stamp in ((6, 8, 5), (8, 6, 4), (8, 7, 5), (9, 6, 5)):
        with pytest.raises(ProtocolError, match="of another frame"):
            answers.step_result(wire, 2, width, height, stamp)
    for sizes in ({"width": 0}, {"height": 0}, {"width": 9}, {"width": -8, "height": -6}):
        with pytest.raises(ProtocolError, match="no frame was larger"):
            frame(objects=(), **sizes)
    with pytest.raises(ProtocolError, match="there are 2 objects; accepted: up to 1"):
        answers.frame_result(to_wire(replace(FRAME, objects=(OBJECT, replace(OBJECT, object_id=2)))), 1, 48)


def test_masks_have_no_more_pixels_than_frames_have() -> None:
    """Of an object more than there may be, because one can have gone."""
    full = CroppedMask(np.ones((6, 8), np.bool_), 0, 0, 8, 6)
    many = [replace(OBJECT, object_id=number, mask=full) for number in range(1, 4)]
    with pytest.raises(ProtocolError, match="there are 3 objects"):
        answers.frame_result(to_wire(replace(FRAME, objects=tuple(many))), 2, 48)
    with pytest.raises(ProtocolError, match="larger than what was asked for"):
        answers.frame_result(to_wire(replace(FRAME, objects=tuple(many))), 1, 48)


def test_there_are_as_many_results_as_prompts() -> None:
    for count in (1, 3):
        assert len(answers.prompt_results([to_wire(RESULT)] * count, count, 48)) == count
        wrong: list[Any] = [[to_wire(RESULT)] * (count + 1), [to_wire(RESULT)] * (count - 1), None, {}]
        for told in wrong:
            with pytest.raises(ProtocolError, match=f"there are not {count} results"):
                answers.prompt_results(told, count, 48)


def test_a_name_that_was_refused_comes_back_empty() -> None:
    refused = replace(RESULT, code=PromptCode.INVALID_PROMPT, name="a\nb", result=None)
    assert answers.prompt_result(to_wire(refused), 48).name == ""
    assert answers.prompt_result(to_wire(replace(refused, name="cup")), 48).name == "cup"


def test_ids_never_go_back() -> None:
    assert [answers.next_id({"next_id": number}, 7) for number in (7, 2**32)] == [7, 2**32]
    for number in (6, 2**32 + 1, "7", None):
        with pytest.raises(ProtocolError):
            answers.next_id({"next_id": number}, 7)


def test_a_greeting_may_say_how_large_a_frame_may_be() -> None:
    greeting = {"info": to_wire(INFO)}
    assert answers.backend_info(greeting) == INFO == answers.backend_info({**greeting, "max_bytes": 1})
    for wrong in (0, -1, "1", 2**62 + 1):
        with pytest.raises(ProtocolError):
            answers.backend_info({**greeting, "max_bytes": wrong})


def test_health_is_a_flag_and_two_numbers() -> None:
    health = {"ready": False, "streams": 0, "streams_at_most": 2**62}
    assert answers.health({"health": health}) == health
    for wrong in ({"ready": 1}, {"streams": -1}, {"streams_at_most": 2**62 + 1}, {"streams": None}):
        with pytest.raises(ProtocolError):
            answers.health({"health": {**health, **wrong}})
    with pytest.raises(ProtocolError, match="no map with 'ready'"):
        answers.health({"health": None})
