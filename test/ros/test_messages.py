"""Between the engine's types and messages: nothing is lost, and what makes no sense is refused with a reason."""

from __future__ import annotations

from array import array
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from vision_msgs.msg import BoundingBox2D, Point2D

from sam2_ros.inference.backend import BackendInfo
from sam2_ros.inference.frames import Counters, Frame, Processed
from sam2_ros.inference.live_masks import LiveImage
from sam2_ros.msg import ObjectEvent, ObjectMask, ObjectPrompt, TrackedObject
from sam2_ros.msg import PromptResult as PromptResultMessage
from sam2_ros.ros import messages, prompt_messages
from sam2_ros.ros.motion_filter import Motion
from sam2_ros.srv import AddObjects
from sam2_ros.tracking.carrier import Carried
from sam2_ros.tracking.types import (
    CroppedMask,
    EventCode,
    FrameResult,
    MaskCandidate,
    ObjectChange,
    ObjectResult,
    ObjectState,
    PromptCode,
    PromptError,
    PromptRequest,
    PromptResult,
)

RNG = np.random.default_rng(1)
INFO = BackendInfo("null", "none", "none", 0, 4096, 16)


def masks() -> list[np.ndarray]:
    """Masks that begin with object, begin with background, are full, are a single pixel, and are random."""
    full, pixel, column, late = (np.zeros((7, 9), np.bool_) for _ in range(4))
    full[:] = True
    pixel[3, 4] = True
    column[:, 2] = True
    late[2:5, 3:8] = True
    late[2, 3] = False
    return [full, pixel, column, late, RNG.random((7, 9)) > 0.5]


def object_result(mask: np.ndarray, **changes: Any) -> ObjectResult:
    result = ObjectResult(
        object_id=3, mask=CroppedMask.from_full(mask), state=ObjectState.VISIBLE, object_score=2.5, visibility=0.75,
        predicted_iou=0.5, prompted=True, name="cup", label="dish", label_score=0.25, first_seen=1_500_000_000,
        last_seen=2_000_000_001, frames_since_seen=4, frames_tracked=9,
    )  # fmt: skip
    return replace(result, **changes)


@pytest.mark.parametrize("encoding", ["mono8", "rle"])
@pytest.mark.parametrize("mask", masks())
def test_a_mask_survives_both_encodings(mask: np.ndarray, encoding: str) -> None:
    message = messages.object_mask(CroppedMask.from_full(mask), encoding)
    np.testing.assert_array_equal(messages.full_mask(message), mask)
    assert (message.image_width, message.image_height) == (9, 7)
    assert (len(message.data) == 0) == (encoding == "rle")
    if encoding == "rle":
        assert sum(message.counts) == message.width * message.height
    else:
        assert set(message.data) <= {0, 255}


def test_run_lengths_go_row_by_row_and_begin_with_background() -> None:
    assert messages.run_lengths(np.array([[1, 1, 0], [0, 1, 0]], np.bool_)).tolist() == [0, 2, 2, 1, 1]
    assert messages.run_lengths(np.array([[0, 1], [1, 0]], np.bool_)).tolist() == [1, 2, 1]


@pytest.mark.parametrize("encoding", ["mono8", "rle"])
def test_an_empty_mask_is_empty(encoding: str) -> None:
    message = messages.object_mask(CroppedMask.empty(9, 7), encoding)
    assert (message.width, message.height, len(message.data), len(message.counts)) == (0, 0, 0, 0)
    assert not messages.full_mask(message).any()


def test_byte_fields_are_filled_without_a_copy_per_element() -> None:
    data = messages.byte_array(np.arange(6, dtype=np.uint8).reshape(2, 3)[:, ::-1])
    assert isinstance(data, array) and data.typecode == "B"
    assert data.tolist() == [2, 1, 0, 5, 4, 3]


def test_tracked_object() -> None:
    mask = np.zeros((30, 40), np.bool_)
    mask[5:9, 10:20] = True
    message = messages.tracked_object(object_result(mask), "mono8")
    assert (message.id, message.name, message.label, message.label_score) == (3, "cup", "dish", 0.25)
    assert (message.state, message.object_score, message.visibility) == (TrackedObject.STATE_VISIBLE, 2.5, 0.75)
    assert (message.predicted_iou, message.prompted, message.area) == (0.5, True, 40)
    box = message.bbox
    assert (box.center.position.x, box.center.position.y, box.size_x, box.size_y) == (15, 7, 10, 4)
    assert (message.first_seen.sec, message.first_seen.nanosec) == (1, 500_000_000)
    assert messages.to_stamp(message.last_seen) == 2_000_000_001
    assert (message.frames_since_seen, message.frames_tracked) == (4, 9)
    assert message.depth_status == TrackedObject.DEPTH_NONE
    for window, region in (((8, 3, 28, 18), (8, 3, 20, 15)), ((0, 0, 40, 30), (0, 0, 0, 0)), ((), (0, 0, 0, 0))):
        told = messages.tracked_object(object_result(mask, window=window), "mono8").window
        assert (told.x_offset, told.y_offset, told.width, told.height) == region
    assert messages.tracked_object(object_result(mask), "mono8", with_mask=False).mask == ObjectMask()


def test_an_object_without_a_name_goes_by_its_id() -> None:
    named, other = (replace(object_result(masks()[0]), object_id=key, name=name) for key, name in ((3, "cup"), (5, "")))
    assert messages.ids_and_indices([named, other]) == (["cup", "5"], [3, 5])


def test_tracks() -> None:
    header = Header(frame_id="camera", stamp=messages.to_time(7))
    result = FrameResult(4, 7, 40, 30, (object_result(np.ones((30, 40), np.bool_)),))
    frame = Frame(7, lambda: np.zeros((30, 40, 3), np.uint8), 100, header)
    processed = Processed(frame, frame.decode(), result, 200, 300, Counters(9, 5, 3, 1))
    message = messages.processed_tracks(processed, INFO, "rle")
    assert message.header is header
    assert (messages.to_stamp(message.network_stamp), message.frames_carried) == (7, 0)
    assert message.objects[0].carry_confidence == 1
    assert message.instance == messages.INSTANCE > 0
    assert (message.image_width, message.image_height, len(message.objects)) == (40, 30, 1)
    assert (message.receive_time_ns, message.start_time_ns, message.end_time_ns) == (100, 200, 300)
    counters = (message.frames_received, message.frames_processed, message.frames_dropped, message.frames_failed)
    assert counters == (9, 5, 3, 1)
    assert (message.bank_bytes, message.max_objects) == (4096, 16)


def test_prompt_result_and_event() -> None:
    mask = np.zeros((30, 40), np.bool_)
    mask[1:3, 1:4] = True
    candidate = MaskCandidate(2, CroppedMask.from_full(mask), 0.25, 0.75)
    result = PromptResult(PromptCode.OK, "done", 3, "cup", 5, 0.5, 2, 0.125, object_result(mask), 0.875, (candidate,))
    message = messages.prompt_result(result, "mono8")
    assert (message.code, message.success, message.message) == (PromptResultMessage.OK, True, "done")
    assert (message.object_id, message.name, messages.to_stamp(message.applied_stamp)) == (3, "cup", 5)
    assert (message.prompt_age, message.frames_caught_up, message.stamp_difference) == (0.5, 2, 0.125)
    assert (message.object_score, message.predicted_iou, message.stability, message.area) == (2.5, 0.5, 0.875, 6)
    (offered,) = message.candidates
    assert (offered.index, offered.predicted_iou, offered.stability, offered.area) == (2, 0.25, 0.75, 6)
    refused = messages.prompt_result(PromptResult(PromptCode.FULL, "no room"), "mono8")
    assert (refused.code, refused.success, refused.object_id) == (PromptResultMessage.FULL, False, 0)

    change = ObjectChange(
        EventCode.STATE_CHANGED, 3, "cup", "dish", ObjectState.VISIBLE, ObjectState.LOST, -1.5, 0.25, 5, "gone"
    )
    event = messages.object_event(change, Header(frame_id="camera"))
    assert (event.event, event.id, event.name, event.label) == (ObjectEvent.STATE_CHANGED, 3, "cup", "dish")
    assert (event.previous_state, event.state) == (TrackedObject.STATE_VISIBLE, TrackedObject.STATE_LOST)
    assert (event.object_score, event.visibility, event.reason) == (-1.5, 0.25, "gone")
    assert event.header.frame_id == "camera" and messages.to_stamp(event.last_seen) == 5


def test_the_codes_are_the_messages() -> None:
    assert {code.name: int(code) for code in PromptCode} == {
        code.name: getattr(PromptResultMessage, code.name) for code in PromptCode
    }
    assert {code.name: int(code) for code in EventCode} == {
        code.name: getattr(ObjectEvent, code.name) for code in EventCode
    }
    assert {f"STATE_{state.name}": int(state) for state in ObjectState} == {
        f"STATE_{state.name}": getattr(TrackedObject, f"STATE_{state.name}") for state in ObjectState
    }


def box(x: float, y: float, width: float, height: float, theta: float = 0.0) -> BoundingBox2D:
    message = BoundingBox2D(size_x=width, size_y=height)
    message.center.position.x, message.center.position.y, message.center.theta = x, y, theta
    return message


def prompt(**values: object) -> ObjectPrompt:
    return ObjectPrompt(**values)


def test_a_prompt_that_sets_only_what_it_means() -> None:
    """What a client leaves alone must mean "the best mask": fields of a message begin at zero in every language."""
    asked = prompt_messages.from_prompt(ObjectPrompt(box=[box(15, 7, 10, 4)]))
    assert isinstance(asked, PromptRequest) and asked.prompt.candidate is None and asked.object_id is None


def test_a_prompt_of_every_kind() -> None:
    asked = prompt_messages.from_prompt(
        prompt(
            object_id=4, name="cup", label="dish", label_score=0.5, box=[box(15, 7, 10, 4)],
            points=[Point2D(x=1.5, y=2.0), Point2D(x=3.0, y=4.0)], point_labels=[1, 0], replace=True,
        )
    )  # fmt: skip
    assert isinstance(asked, PromptRequest) and asked.prompt.box is not None
    assert (asked.object_id, asked.name, asked.label, asked.label_score) == (4, "cup", "dish", 0.5)
    assert asked.prompt.box.tolist() == [10, 5, 20, 9]
    assert asked.prompt.points is not None and asked.prompt.points.tolist() == [[1.5, 2], [3, 4]]
    assert asked.prompt.labels is not None and asked.prompt.labels.tolist() == [1, 0]
    assert asked.prompt.replace and asked.prompt.candidate is None and asked.prompt.mask is None

    pixels = np.array([[0, 9], [0, 0]], np.uint8)
    image = Image(height=2, width=2, step=2, encoding="mono8", data=messages.byte_array(pixels))
    masked = prompt_messages.from_prompt(prompt(mask=image))
    assert isinstance(masked, PromptRequest) and masked.prompt.mask is not None and masked.object_id is None
    assert masked.prompt.mask.tolist() == [[False, True], [False, False]]

    chosen = prompt_messages.from_prompt(ObjectPrompt(object_id=4, candidate=2))
    assert isinstance(chosen, PromptRequest) and chosen.prompt.candidate == 2


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (prompt(), "the prompt is empty; give points with labels, a box"),
        (prompt(box=[box(5, 5, 0, 3)]), "smaller than a pixel; accepted: x0 < x1 and y0 < y1"),
        (prompt(box=[box(5, 5, 2, 3, theta=0.5)]), "turned by 0.5 rad; accepted: theta 0"),
        (prompt(box=[box(float("nan"), 5, 2, 3)]), "a box is four finite numbers"),
        (prompt(points=[Point2D(x=1.0, y=1.0)]), "1 points came with 0 labels"),
        (prompt(point_labels=[1]), "labels came without points"),
        (prompt(points=[Point2D(x=1.0, y=1.0)], point_labels=[2]), r"point labels are \[2\]; accepted: 1"),
        (prompt(points=[Point2D(x=float("inf"), y=1.0)], point_labels=[1]), "a point is not finite"),
        (prompt(mask=Image(width=4, height=4, step=4, encoding="mono8")), "data has 0 bytes"),
        (prompt(mask=Image(width=4, height=4, step=12, encoding="rgb8")), "'rgb8' is not supported; accepted: mono8"),
        (
            prompt(
                mask=Image(width=1, height=1, step=1, encoding="mono8", data=array("B", [1])), box=[box(1, 1, 1, 1)]
            ),
            "a mask can't be combined with box",
        ),
    ],
)
def test_a_prompt_that_makes_no_sense(message: ObjectPrompt, complaint: str) -> None:
    asked = prompt_messages.from_prompt(message)
    assert isinstance(asked, PromptError) and asked.code is PromptCode.INVALID_PROMPT
    with pytest.raises(PromptError, match=complaint):
        raise asked


def test_flat_fields_make_one_object_of_each_name() -> None:
    request = AddObjects.Request(
        prompts=[prompt(box=[box(5, 5, 2, 2)], name="first")],
        bbox_object_ids=["cup", "box"],
        bbox_coords=[box(15, 7, 10, 4), box(5, 5, 2, 2)],
        point_object_ids=["cup", "spoon", "cup"],
        point_coords=[Point2D(x=1.0, y=2.0), Point2D(x=3.0, y=4.0), Point2D(x=5.0, y=6.0)],
        point_labels=[1, 1, 0],
    )
    asked = prompt_messages.from_add_objects(request)
    understood = [each for each in asked if isinstance(each, PromptRequest)]
    assert [each.name for each in understood] == ["first", "cup", "box", "spoon"]
    cup = understood[1].prompt
    assert cup.box is not None and cup.box.tolist() == [10, 5, 20, 9]
    assert cup.points is not None and cup.points.tolist() == [[1, 2], [5, 6]]
    assert cup.labels is not None and cup.labels.tolist() == [1, 0]
    assert understood[3].prompt.box is None


@pytest.mark.parametrize(
    ("request_", "complaint"),
    [
        (AddObjects.Request(bbox_object_ids=["a"]), "bbox_object_ids and bbox_coords have 1 and 0 entries"),
        (AddObjects.Request(point_object_ids=["a"], point_coords=[Point2D()]), "point_labels have 1 and 0 entries"),
        (AddObjects.Request(bbox_object_ids=[""], bbox_coords=[box(5, 5, 2, 2)]), "an object id is empty"),
        (AddObjects.Request(bbox_object_ids=["a"] * 2, bbox_coords=[box(5, 5, 2, 2)] * 2), "'a' has more than one box"),
    ],
)
def test_flat_fields_that_make_no_sense(request_: AddObjects.Request, complaint: str) -> None:
    (asked,) = prompt_messages.from_add_objects(request_)
    assert isinstance(asked, PromptError)
    with pytest.raises(PromptError, match=complaint):
        raise asked


def test_what_is_known_of_an_object_in_space() -> None:
    """Of the other object nothing is known."""
    objects = [messages.tracked_object(object_result(masks()[0], object_id=key), "rle") for key in (3, 4)]
    place = messages.Position(2, "too few pixels", "camera", (1.0, 2.0, 3.0), (0.0, 0.0, 0.0), (0.1, 0.2, 0.3), 7)
    covariance = np.arange(36.0).reshape(6, 6)
    motion = Motion("odom", np.array([4.0, 5.0, 6.0]), np.array([0.4, 0.5, 0.6]), covariance)
    for obj in objects:
        messages.locate(obj, {3: place}, {})
    near, other = objects
    assert (near.depth_status, near.depth_reason, near.depth_points) == (2, "too few pixels", 7)
    assert (near.position.x, near.position.y, near.position.z) == (1, 2, 3) and near.position_frame == "camera"
    assert (near.extent.x, near.extent.y, near.extent.z) == (0.1, 0.2, 0.3) and not near.motion_valid
    for obj in objects:
        messages.locate(obj, {}, {3: motion})
    where, speed = near.filtered_position, near.velocity
    assert near.motion_valid and near.position_frame == "odom" and near.motion_covariance.tolist() == list(range(36))
    assert (where.x, where.y, where.z, speed.x, speed.y, speed.z) == (4, 5, 6, 0.4, 0.5, 0.6)
    assert other == messages.tracked_object(object_result(masks()[0], object_id=4), "rle")


def test_live_tracks_say_how_far_masks_were_carried() -> None:
    header, image = Header(frame_id="camera", stamp=messages.to_time(9)), np.zeros((7, 9, 3), np.uint8)
    frame = Frame(9, lambda: image, 100, header)
    none = messages.live_tracks(LiveImage(frame, image, None, 200), Counters(9, 5, 3, 1), INFO, "rle")
    assert (none.image_width, none.image_height, none.objects, none.frames_carried) == (9, 7, [], 0)
    assert messages.to_stamp(none.network_stamp) == 0 and none.header is header and none.max_objects == 16
    result = FrameResult(4, 9, 9, 7, (object_result(masks()[3]),))
    carried = Carried(result, 5, 2, {3: 0.25})
    live = messages.live_tracks(LiveImage(frame, image, carried, 200), Counters(9, 5, 3, 1), INFO, "rle")
    assert (messages.to_stamp(live.network_stamp), live.frames_carried, live.frames_processed) == (5, 2, 5)
    assert [(obj.id, obj.carry_confidence) for obj in live.objects] == [(3, 0.25)]
    assert np.array_equal(messages.full_mask(live.objects[0].mask), masks()[3])
    assert (live.receive_time_ns, live.start_time_ns) == (100, 200) and live.end_time_ns > 200


@pytest.mark.parametrize("encoding", ["mono8", "rle"])
def test_a_message_comes_back_as_the_result_that_it_was_made_from(encoding: str) -> None:
    objects = [object_result(mask, object_id=key) for key, mask in enumerate(masks(), 1)]
    result = FrameResult(4, 7, 9, 7, (replace(objects[0], window=(2, 1, 9, 6)), *objects[1:]))
    header = Header(stamp=messages.to_time(7))
    back = messages.frame_result(messages.tracked_objects(result, header, Counters(processed=5), INFO, encoding))
    assert (back.frame_index, back.stamp, back.width, back.height) == (4, 7, 9, 7)
    for found, given in zip(back.objects, result.objects, strict=True):
        assert found.mask.box == given.mask.box and np.array_equal(found.mask.full(), given.mask.full())
        assert replace(found, mask=given.mask) == given


def test_a_prompts_result_holds_the_mask_and_an_object_that_is_gone_has_no_state() -> None:
    mask = masks()[3]
    message = messages.prompt_result(PromptResult(PromptCode.OK, "", 3, result=object_result(mask)), "rle")
    assert np.array_equal(messages.full_mask(message.mask), mask) and message.bbox == messages.bounding_box(
        (3, 2, 8, 5)
    )
    full = CroppedMask.from_full(masks()[0])
    offered = PromptResult(PromptCode.OK, "", 3, candidates=(MaskCandidate(1, full, 0.5, 0.5),))
    (candidate,) = messages.prompt_result(offered, "mono8").candidates
    assert candidate.mask.encoding == ObjectMask.MONO8 and messages.full_mask(candidate.mask).all()
    assert candidate.bbox == messages.bounding_box((0, 0, 9, 7))
    for before, after in ((ObjectState.VISIBLE, None), (None, ObjectState.VISIBLE)):
        change = ObjectChange(EventCode.REMOVED, 3, "", "", before, after, 0.0, 0.0, 5, "")
        event = messages.object_event(change, Header())
        assert (event.previous_state, event.state) == (int(before or 0), int(after or 0))
        assert event.instance == messages.INSTANCE


@pytest.mark.parametrize(
    ("dtype", "shape", "step"), [(np.uint8, (3, 5), 5), (np.uint16, (3, 5), 10), (np.uint8, (3, 5, 4), 20)]
)
def test_an_image_says_how_long_its_rows_are(dtype: type, shape: tuple[int, ...], step: int) -> None:
    pixels: NDArray[Any] = np.arange(np.prod(shape), dtype=dtype).reshape(shape)[:, ::-1]
    message = messages.image_message(pixels, Header(frame_id="camera"), "some")
    assert (message.height, message.width, message.step, message.encoding) == (3, 5, step, "some")
    assert np.array_equal(np.frombuffer(message.data, dtype).reshape(shape), pixels)
    assert message.header.frame_id == "camera"


@pytest.mark.parametrize("stamp", [0, 1, 10**9 - 1, 1_900_000_000_123_456_789, -1, -(10**9) - 1])
def test_a_stamp_is_the_same_to_the_nanosecond(stamp: int) -> None:
    time = messages.to_time(stamp)
    assert messages.to_stamp(time) == stamp and 0 <= time.nanosec < 10**9
