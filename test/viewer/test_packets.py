"""What the browser gets: the exact mask as outlines, the picture in a format that it decodes."""

from __future__ import annotations

import json
from array import array

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="messages of ROS 2")

from sensor_msgs.msg import CompressedImage, Image, RegionOfInterest

from sam2_ros.msg import TrackedObject, TrackedObjectArray
from sam2_ros.ros.messages import object_mask
from sam2_ros.tracking.types import CroppedMask
from sam2_ros.viewer.track_packets import contours, packet


def filled(outlines: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """The pixels whose centre lies inside the outlines by the even-odd rule, or on them."""
    mask = np.zeros((height, width), bool)
    for y in range(height):
        for x in range(width):
            places = [cv2.pointPolygonTest(outline.astype(np.float32), (x, y), False) for outline in outlines]
            mask[y, x] = any(place == 0 for place in places) or sum(place > 0 for place in places) % 2 == 1
    return mask


@pytest.mark.parametrize("encoding", ["mono8", "rle"])
def test_outlines_hold_the_very_mask(encoding: str) -> None:
    generator = np.random.default_rng(5)
    smooth = cv2.GaussianBlur(generator.random((40, 56)).astype(np.float32), (0, 0), 2.5)
    mask = smooth > np.median(smooth)  # several pieces, with holes
    mask[0, :] = mask[:, 0] = False
    mask[3, 50] = True  # a single pixel
    outlines = contours(object_mask(CroppedMask.from_full(mask), encoding))
    assert len(outlines) > 3
    assert np.array_equal(filled(outlines, *mask.shape), mask)


def split(data: bytes) -> tuple[dict, bytes]:
    length = int.from_bytes(data[:4], "little")
    return json.loads(data[4 : 4 + length]), data[4 + length :]


def decoded(picture: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


def tracks_of(mask: np.ndarray) -> TrackedObjectArray:
    known = TrackedObject(id=7, name="cup", state=TrackedObject.STATE_VISIBLE, visibility=0.75, area=int(mask.sum()))
    known.mask = object_mask(CroppedMask.from_full(mask), "mono8")
    known.window = RegionOfInterest(x_offset=20, y_offset=5, width=32, height=24)
    hidden = TrackedObject(id=8, state=TrackedObject.STATE_OCCLUDED)
    times = {"receive_time_ns": 5_000_000_000, "start_time_ns": 5_003_000_000, "end_time_ns": 5_010_500_000}
    return TrackedObjectArray(objects=[known, hidden], frames_dropped=3, **times)


def test_a_message_is_read_back() -> None:
    rgb = np.zeros((48, 64, 3), np.uint8)
    rgb[:, :, 0] = 200
    image = Image(height=48, width=64, step=192, encoding="rgb8", data=array("B", rgb.tobytes()))
    image.header.stamp.sec, image.header.stamp.nanosec = 1_800_000_000, 123_456_789
    mask = np.zeros((48, 64), bool)
    mask[10:20, 30:40] = True
    header, rest = split(packet(image, tracks_of(mask), 1280, {"number": 4}))
    assert header["stamp"] == "1800000000123456789"
    assert (header["width"], header["height"], header["number"]) == (64, 48, 4)
    assert (header["tracks"]["waited_ms"], header["tracks"]["engine_ms"]) == (3.0, 7.5)
    known, hidden = header["tracks"]["objects"]
    assert (known["id"], known["name"], known["state"], known["visibility"]) == (7, "cup", "visible", 0.75)
    assert hidden["state"] == "occluded" and hidden["contours"] == []
    assert known["window"] == [20, 5, 52, 29] and "window" not in hidden
    count = sum(known["contours"])
    points = np.frombuffer(rest[: 4 * count], "<i2").reshape(-1, 2)
    assert points.min(0).tolist() == [30, 10] and points.max(0).tolist() == [39, 19]
    picture = decoded(rest[4 * count :])
    assert picture.shape == (48, 64, 3) and abs(int(picture[5, 5, 2]) - 200) <= 3 and picture[5, 5, 0] <= 3


def test_numbers_that_json_has_not_are_sent_as_zero() -> None:
    tracks = tracks_of(np.ones((4, 4), bool))
    for obj in tracks.objects:
        obj.visibility = obj.predicted_iou = obj.object_score = float("nan")
        obj.bbox.size_x = obj.bbox.center.position.y = float("inf")
    image = Image(height=4, width=4, step=12, encoding="rgb8", data=array("B", bytes(48)))
    header, _ = split(packet(image, tracks, 1280, {}))
    assert {header["tracks"]["objects"][0][key] for key in ("visibility", "predicted_iou", "object_score")} == {0.0}


def test_large_pictures_shrink_and_small_jpegs_pass_untouched() -> None:
    image = Image(height=480, width=640, step=1920, encoding="rgb8", data=array("B", bytes(480 * 1920)))
    header, rest = split(packet(image, None, 320, {}))
    assert (header["width"], header["height"], header["tracks"]) == (640, 480, None)
    assert decoded(rest).shape == (240, 320, 3)
    jpeg = rest
    compressed = CompressedImage(format="jpeg", data=array("B", jpeg))
    assert split(packet(compressed, None, 320, {}))[1] == jpeg
    turned = jpeg[:2] + b"\xff\xe1\x00\x0aExif\0\0\0\0" + jpeg[2:]  # a browser would obey an orientation tag
    assert b"Exif" not in split(packet(CompressedImage(format="jpeg", data=array("B", turned)), None, 320, {}))[1]
    with pytest.raises(ValueError, match="can't be decoded"):
        packet(CompressedImage(format="jpeg", data=array("B", b"no picture")), None, 320, {})
