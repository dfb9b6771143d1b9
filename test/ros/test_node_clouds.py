"""Clouds, masks of single objects, depth without objects, and velocities, over DDS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from depth_rig import BOX, CX, CY, FOCAL, Rig, depth_rig, expected, place, plane
from node_harness import HEIGHT, WIDTH
from rclpy.action import ActionClient
from sensor_msgs.msg import Image, PointCloud2

from sam2_ros.action import TrackObject
from sam2_ros.msg import ObjectPrompt, TrackedObject


@pytest.fixture(scope="module")
def rig(folder: Path) -> Iterator[Rig]:
    """One node for the module."""
    with depth_rig(folder, "/clouds", "output: {clouds: [cup, ghost], masks: [cup, ghost], cloud_points: 500}") as rig:
        yield rig


def test_clouds_masks_and_depth_without_objects(rig: Rig) -> None:
    """Of all objects, of one by its name, and of a name that nothing has."""
    received: dict[str, list[Any]] = {}
    kinds = {"clouds": PointCloud2, "cloud/cup": PointCloud2, "cloud/ghost": PointCloud2}
    kinds |= dict.fromkeys(("mask/cup", "mask/ghost", "depth_without_objects"), Image)
    for name, kind in kinds.items():
        received[name] = []
        rig.node.node.create_subscription(kind, f"{rig.node.node_name}/{name}", received[name].append, 10)

    def of(header: Any) -> dict[str, Any]:
        return {name: each for name, all_of in received.items() for each in all_of if each.header == header}

    def arrived() -> Any:
        found = of(rig.track(plane(800)).header)
        return len(found) == len(kinds) and found

    found = rig.node.wait_until(arrived, "all of them")
    x0, y0, x1, y1 = BOX
    for name in ("clouds", "cloud/cup"):
        assert found[name].width == 400  # every third of 1200 pixels: at most 500
        assert [field.name for field in found[name].fields] == ["x", "y", "z", "rgb", "object_id", "visibility"]
        points = np.frombuffer(bytes(found[name].data), "<f4").reshape(-1, 6)
        np.testing.assert_allclose(points[:, 2], 0.8, atol=1e-6)
        np.testing.assert_allclose(
            points[:, :2].max(0), [(x1 - 1 - CX) / FOCAL * 0.8, (y1 - 1 - CY) / FOCAL * 0.8], atol=0.03
        )
        assert set(points[:, 4].view(np.uint32).tolist()) == {1}
        assert {hex(each) for each in points[:, 3].view(np.uint32)} == {"0x636363"}  # the peer's grey
    assert found["cloud/ghost"].width == 0
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    assert not any(found["mask/ghost"].data)
    mask[y0:y1, x0:x1] = 255
    np.testing.assert_array_equal(np.array(found["mask/cup"].data, np.uint8).reshape(HEIGHT, WIDTH), mask)
    rest = np.frombuffer(bytes(found["depth_without_objects"].data), "<u2").reshape(HEIGHT, WIDTH)
    assert not rest[y0 - 2 : y1 + 2, x0 - 2 : x1 + 2].any() and np.count_nonzero(rest == 800) == rest.size - 44 * 34
    before = len(received["clouds"])
    assert rig.track(None).objects[0].depth_status == TrackedObject.DEPTH_NONE
    rig.track(plane(800))
    assert len(received["clouds"]) <= before + 1, "a frame without depth has no cloud"


def test_velocity_of_an_object_that_moves_away(rig: Rig) -> None:
    """Images are a second apart here: 0.1 m a second along the optical axis."""
    for millimetres in range(700, 1100, 100):
        known = rig.track_object(plane(millimetres))
    assert known.motion_valid and known.position_frame == "camera_optical_frame"
    assert known.velocity.z == pytest.approx(0.1, abs=0.02)
    assert known.filtered_position.z == pytest.approx(1.0, abs=0.01)
    covariance = np.array(known.motion_covariance).reshape(6, 6)
    assert (np.linalg.eigvalsh(covariance) > 0).all() and np.allclose(covariance, covariance.T)
    known = rig.track_object(None)
    assert known.depth_status == TrackedObject.DEPTH_NONE and known.motion_valid, "predicted"
    assert known.filtered_position.z == pytest.approx(1.1, abs=0.03)
    assert not rig.track_object(None).motion_valid, "for a second"


def test_a_goal_tells_where_its_object_is(rig: Rig) -> None:
    told: list[TrackedObject] = []
    client = ActionClient(rig.node.node, TrackObject, f"{rig.node.node_name}/track_object")
    rig.node.wait_until(client.server_is_ready, "the action")
    goal = TrackObject.Goal(prompt=ObjectPrompt(name="cup"), time_limit=2.0)
    tell = lambda message: told.append(message.feedback.object)  # noqa: E731
    sent = rig.node.in_executor(client.send_goal_async, goal, tell)
    rig.node.wait_until(sent.done, "the goal")
    result = rig.node.in_executor(sent.result().get_result_async)
    rig.node.wait_until(lambda: rig.track(plane(800)) and result.done(), "the goal's end")
    for known in (told[-1], result.result().result.object):
        assert known.depth_status == TrackedObject.DEPTH_OK and known.position_frame == "camera_optical_frame"
        np.testing.assert_allclose(place(known.position), expected(0.8), atol=0.01)
        assert known.motion_valid and known.depth_points == 1200
