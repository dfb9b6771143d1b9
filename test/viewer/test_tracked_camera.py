"""Which picture of a camera the page shows, and with which tracks."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator

import pytest

pytest.importorskip("rclpy", reason="the viewer is a ROS 2 client")

import rclpy
from sensor_msgs.msg import Image

from sam2_ros.msg import TrackedObject, TrackedObjectArray
from sam2_ros.viewer import tracked_camera
from sam2_ros.viewer.discovery import Source
from sam2_ros.viewer.tracked_camera import Camera, Shot

SOURCE = Source("/paused", "/paused", "/paused/image")


@pytest.fixture
def camera() -> Iterator[Camera]:
    """Watched; its messages come from the test."""
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("viewer", context=context)
    camera = Camera(node, SOURCE, 1280, lambda: None)
    camera.follow(SOURCE, watched=True)
    yield camera
    camera.close()
    node.destroy_node()
    context.try_shutdown()


def image(second: int) -> Image:
    message = Image(height=4, width=4, step=12, encoding="rgb8", data=array("B", bytes(48)))
    message.header.stamp.sec = second
    return message


def tracks(second: int, *ids: int) -> TrackedObjectArray:
    return TrackedObjectArray(header=image(second).header, objects=[TrackedObject(id=each) for each in ids])


def shown(shot: Shot | None) -> tuple[int, list[int] | None]:
    """Second of the image, and the ids that are drawn on it."""
    assert shot is not None
    packet = shot.packet("paused")
    header = json.loads(packet[4 : 4 + int.from_bytes(packet[:4], "little")])
    drawn = header["tracks"]
    return int(header["stamp"]) // 10**9, None if drawn is None else [each["id"] for each in drawn["objects"]]


@pytest.mark.parametrize("tracks_first", [False, True])
def test_a_paused_cameras_last_picture_keeps_its_tracks(
    camera: Camera, tracks_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A browser that is slow, or comes later, sees the same as others; of the image after it nothing is known yet."""
    camera._on_image(image(1))
    camera._on_tracks(tracks(1, 7))
    monkeypatch.setattr(tracked_camera, "LONGEST_SILENCE_S", 0.0)  # the tracker has been silent for long
    assert shown(camera.shot(live=False)) == (1, [7])
    for receive in (camera._on_tracks, camera._on_image)[:: 1 if tracks_first else -1]:
        receive(tracks(2, 7, 8) if receive == camera._on_tracks else image(2))
    assert shown(camera.shot(live=False)) == (2, [7, 8])
    camera._on_tracks(tracks(2, 8))  # after a removal
    assert shown(camera.shot(live=False)) == (2, [8])
    camera._on_image(image(3))
    assert shown(camera.shot(live=False)) == (3, None)
