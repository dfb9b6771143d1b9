"""What the health of a camera's images says, and how often; the age of the last image over a restart."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import rclpy

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
        images.stop()
        images.start()
        assert images.age() == 0 and not images.complaint()
        images.stop()
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)
