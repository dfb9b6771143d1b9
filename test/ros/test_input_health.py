"""What the health of a camera's images says, and how often; the age of the last image over a restart."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import rclpy
from node_harness import wait_until
from sensor_msgs.msg import CompressedImage

from sam2_ros.ros import image_input, input_health
from sam2_ros.ros.image_input import ImageInput
from sam2_ros.ros.input_health import InputHealth
from sam2_ros.ros.node_parameters import NodeParameters

SECOND = 10**9


def test_an_equal_stamp_does_not_increase_and_a_row_of_them_is_told_once() -> None:
    told: list[str] = []
    health = InputHealth(told.append)
    for stamp in (5, 5, 5, 4, 6, 7, 7):
        health.arrived(stamp * SECOND, "camera", "rgb8")
    assert health.values()["stamps not increasing"] == 4
    assert told == [
        "stamps do not increase: 5.000000000 s came after 5.000000000 s",
        "stamps do not increase: 7.000000000 s came after 7.000000000 s",
    ]


def test_a_camera_that_changes_with_every_image_does_not_flood_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(input_health, "time", SimpleNamespace(monotonic=lambda: now[0]))
    told: list[str] = []
    health = InputHealth(told.append)
    for stamp in range(1000):
        now[0] += 0.01
        health.arrived(stamp, f"camera{stamp}", "rgb8")
    assert health.values()["frame id changes"] == 999
    assert len(told) == 10 + 1, "ten at once, then one in five seconds, of ten"
    assert health.warning().endswith("from 'camera998' to 'camera999'")


def test_a_warning_is_shown_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(input_health, "time", SimpleNamespace(monotonic=lambda: now[0]))
    told: list[str] = []
    health = InputHealth(told.append)
    assert health.warning() == ""
    health.processed(640, 480)
    health.processed(640, 480)
    assert not told and health.warning() == ""
    health.processed(320, 480)
    assert told == ["the images' resolution changed from '640x480' to '320x480'"] == [health.warning()]
    now[0] += 4.9
    assert health.warning() == told[0]
    now[0] += 0.2
    assert health.warning() == ""
    health.restarted("time jumped back")
    assert health.warning() == told[1] == "time jumped back: every object is forgotten"
    health.arrived(5, "camera", "rgb8")
    health.arrived(6, "camera", "bgr8")
    assert health.values() == {
        "resolution": "320x480", "encoding": "bgr8", "frame id": "camera", "stamps not increasing": 0,
        "frame id changes": 0, "encoding changes": 1, "resolution changes": 1, "restarts": 1,
    }  # fmt: skip
    health.clear()
    assert health.warning() == "" and health.values()["restarts"] == 0
    health.arrived(1, "other", "mono8")
    assert len(told) == 3, "the first image of a new start differs from nothing"


def test_after_some_seconds_a_change_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(input_health, "time", SimpleNamespace(monotonic=lambda: now[0]))
    told: list[str] = []
    health = InputHealth(told.append)
    for index in range(12):
        health.arrived(index, "camera", f"encoding {index}")
    assert len(told) == 10
    for seconds, count in ((4.9, 10), (0.1, 11), (4.9, 11), (0.1, 12)):
        now[0] += seconds
        health.arrived(index := index + 1, "camera", f"encoding {index}")
        assert len(told) == count
    health.arrived(index + 1, "other", f"encoding {index}")
    assert len(told) == 13, "another kind is told on its own"


def test_names_from_a_camera_are_cut_and_made_printable() -> None:
    told: list[str] = []
    health = InputHealth(told.append)
    health.arrived(1, "camera", "rgb8")
    health.arrived(2, "\x1b[31m\n[ERROR] " + "f" * 1_000_000, "e" * 1_000_000)
    assert health.values()["frame id changes"] == health.values()["encoding changes"] == 1
    for shown in (*told, health.warning(), *map(str, health.values().values())):
        assert len(shown) < 300 and shown.isprintable()


def test_an_input_that_starts_again_counts_from_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not from an image of before, or a node that was paused for a minute reports a silent camera at once."""
    now = [1000 * SECOND]
    monkeypatch.setattr(image_input, "time", SimpleNamespace(monotonic_ns=lambda: now[0]))
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("input_age", context=context)
    try:
        images = ImageInput(node, NodeParameters(node), lambda frame: None)
        images.start()
        assert images.age() == 0 and not images.complaint()
        now[0] += 60 * SECOND
        assert images.age() == 60 and "nobody publishes it" in images.complaint()
        node.create_publisher(CompressedImage, "/image/compressed", 1)
        wanted = "nobody publishes it, but /image/compressed; set input.transport to compressed"
        wait_until(lambda: wanted in images.complaint(), "the other topic")
        images.stop()
        images.start()
        assert images.age() == 0 and not images.complaint()
        images.stop()
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)
