"""What the engine's dataclasses are on the wire: the same after the way there and back, and nothing else is taken."""

from __future__ import annotations

from typing import Any

import msgpack
import numpy as np
import pytest

from sam2_ros.remote.codec import from_wire, to_wire
from sam2_ros.remote.protocol import ProtocolError
from sam2_ros.tracking import Prompt, PromptRequest
from sam2_ros.tracking.types import CroppedMask, FrameResult, ObjectResult, ObjectState


def sent(value: Any) -> Any:
    """As the other side gets it."""
    return msgpack.unpackb(msgpack.packb(to_wire(value)))


def test_a_result_comes_as_it_was_sent() -> None:
    rng = np.random.default_rng(0)
    for shape in ((0, 0), (1, 1), (3, 5), (8, 8), (7, 33)):
        mask = CroppedMask(rng.integers(0, 2, shape).astype(np.bool_), 2, 3, 64, 48)
        obj = ObjectResult(7, mask, ObjectState.OCCLUDED, -1.5, 0.25, 0.75, True, "cup", "mug", 0.5, 10**18, 5, 6, 7)
        result = FrameResult(3, 1_800_000_000_123_456_789, 64, 48, (obj,), (), {"encode": 1.5}, ("live",))
        back = from_wire(FrameResult, sent(result))
        (found,) = back.objects
        assert np.array_equal(found.mask.crop, mask.crop) and found.mask.crop.dtype == np.bool_
        assert to_wire(back) == to_wire(result)
        assert found.state is ObjectState.OCCLUDED and back.timings_ms == {"encode": 1.5}


def test_a_prompt_comes_as_it_was_sent() -> None:
    points, labels = np.array([[1.5, 2], [3, 4]], np.float32), np.array([1, 0], np.int32)
    back = from_wire(PromptRequest, sent(PromptRequest(Prompt(points, labels, candidate=2), name="cup")))
    assert back.prompt.points is not None and back.prompt.labels is not None
    assert np.array_equal(back.prompt.points, points) and np.array_equal(back.prompt.labels, labels)
    assert (back.prompt.box, back.prompt.candidate, back.object_id, back.name) == (None, 2, None, "cup")
    back.prompt.points[0] = 0  # arrays are the receiver's own
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    back = from_wire(PromptRequest, sent(PromptRequest(Prompt(like=picture))))
    assert back.prompt.like is not None and np.array_equal(back.prompt.like, picture)


def test_all_arrays_together_have_as_many_elements_as_were_asked_for() -> None:
    prompt = sent(Prompt(np.zeros((4, 2), np.float32), np.zeros(4, np.int32), mask=np.zeros((3, 5), np.bool_)))
    from_wire(Prompt, prompt, max_elements=8 + 4 + 15)
    with pytest.raises(ProtocolError, match=r"Prompt\.mask is larger than what was asked for"):
        from_wire(Prompt, prompt, max_elements=8 + 4 + 15 - 1)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (["float16", [1], bytes(2)], "no array; accepted"),
        (["float32", [1]], "no array; accepted"),
        (["float32", [1], bytes(4), 0], "no array; accepted"),
        (["float32", "1", bytes(4)], "no array; accepted"),
        ([1, [1], bytes(4)], "no array; accepted"),
        (b"1234", "no array; accepted"),
        (["float32", [], bytes(4)], "wrong shape"),
        (["float32", [1] * 5, bytes(4)], "wrong shape"),
        (["float32", [-1], b""], "wrong shape"),
        (["float32", [1.0], bytes(4)], "wrong shape"),
        (["float32", [2**28 + 1], b""], "wrong shape"),
        (["float32", [2**28, 2**28, 0, 0], bytes(4)], "without its 0 bytes"),
        (["float32", [2**15, 2**15], b""], "without its 4294967296 bytes"),
        (["float32", [2], bytes(7)], "without its 8 bytes"),
        (["float32", [2], bytes(9)], "without its 8 bytes"),
        (["float32", [1], "1234"], "without its 4 bytes"),
        (["bool", [9], bytes(1)], "without its 2 bytes"),
        (["bool", [8], bytes(2)], "without its 1 bytes"),
    ],
)
def test_what_is_no_array_is_refused(array: Any, reason: str) -> None:
    with pytest.raises(ProtocolError, match=rf"^Prompt\.box is .*{reason}"):
        from_wire(Prompt, {"box": array})


@pytest.mark.parametrize("shape", [[1], [1, 1, 1, 1], [0], [2, 3]])
def test_arrays_have_one_to_four_dimensions(shape: list[int]) -> None:
    size = int(np.prod(shape))
    back = from_wire(Prompt, {"box": ["float32", shape, bytes(4 * size)]})
    assert back.box is not None and back.box.shape == tuple(shape)


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [
        (Prompt, [], "Prompt is list; accepted: dict"),
        (Prompt, {"boxes": None}, "Prompt is a map with the unknown field 'boxes'; accepted: points, "),
        (Prompt, {"replace": 1}, r"Prompt\.replace is int; accepted: bool"),
        (Prompt, {"candidate": True}, r"Prompt\.candidate is bool; accepted: int"),
        (PromptRequest, {}, "PromptRequest is incomplete"),
        (PromptRequest, {"prompt": None}, r"PromptRequest\.prompt is NoneType; accepted: dict"),
        (PromptRequest, {"prompt": {}, "label_score": "1"}, r"label_score is str; accepted: a number"),
        (PromptRequest, {"prompt": {}, "label_score": 10**400}, "a whole number that is too large"),
        (ObjectState, 4, r"4; accepted: \[1, 2, 3\]"),
        (ObjectState, True, r"True; accepted: \[1, 2, 3\]"),
    ],
)
def test_values_of_another_type_are_refused(kind: Any, value: Any, reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason):
        from_wire(kind, value)


def test_what_has_no_form_on_the_wire_is_an_error_of_the_caller() -> None:
    with pytest.raises(TypeError, match="set can't be sent"):
        to_wire({1})
