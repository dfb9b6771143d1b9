"""Clouds of objects, and depth without them, against a simulated scene of which everything is known."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

pytest.importorskip("mujoco", reason="renders the scene: pip install mujoco")

from sam2_ros.ros.clouds import MARGIN, POINT, CloudLimits, cloud, depth_without_objects
from sam2_ros.ros.depth_input import DepthView
from sam2_ros.ros.depth_surface import Calibration, PixelRays
from sam2_ros.simulation.camera import SimulatedCamera, SimulatedFrame
from sam2_ros.tracking.types import CroppedMask, FrameResult, ObjectResult, ObjectState

WIDTH, HEIGHT = 320, 240
ALL = CloudLimits(points=1_000_000, voxel=0.0)
HEADER = Header(frame_id="camera_optical_frame")


@pytest.fixture(scope="module")
def camera() -> SimulatedCamera:
    return SimulatedCamera(seed=2, width=WIDTH, height=HEIGHT)


@pytest.fixture(scope="module")
def frame(camera: SimulatedCamera) -> SimulatedFrame:
    return camera.frame(30)


@pytest.fixture(scope="module")
def view(camera: SimulatedCamera, frame: SimulatedFrame) -> DepthView:
    """The noisy depth, in millimetres as a camera sends it."""
    rays = PixelRays.of(Calibration(WIDTH, HEIGHT, tuple(camera.matrix)))
    millimetres = np.nan_to_num(1000 * frame.depth).round().astype("<u2")
    return DepthView(millimetres, 0.001, rays, (None, None), HEADER.frame_id)


def objects(frame: SimulatedFrame, grown: int = 0) -> list[ObjectResult]:
    """The scene's objects in sight, with masks that are ``grown`` pixels too large."""
    found = []
    for number in sorted(set(np.unique(frame.labels).tolist()) - {0}):
        mask = cv2.dilate((frame.labels == number).astype(np.uint8), np.ones((2 * grown + 1, 2 * grown + 1))) > 0
        found.append(ObjectResult(number, CroppedMask.from_full(mask), ObjectState.VISIBLE, 1.0, 0.9, 0.9, False))
    return found


def read(message: PointCloud2) -> NDArray[np.void]:
    """As a reader of PointCloud2 finds them: by name, offset and type of each field."""
    codes = {PointField.FLOAT32: "<f4", PointField.UINT32: "<u4"}
    assert [field.offset for field in message.fields] == list(range(0, message.point_step, 4))
    assert message.height == 1 and message.row_step == message.width * message.point_step == len(message.data)
    points = np.frombuffer(bytes(message.data), [(field.name, codes[field.datatype]) for field in message.fields])
    return np.asarray(points, np.dtype(points.dtype))


def pixels_of(points: NDArray[np.void], camera: SimulatedCamera) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns that points are seen in."""
    k = camera.matrix
    columns = np.rint(points["x"] / points["z"] * k[0] + k[2]).astype(np.intp)
    rows = np.rint(points["y"] / points["z"] * k[4] + k[5]).astype(np.intp)
    return rows, columns


def test_points_lie_on_the_true_surfaces(camera: SimulatedCamera, frame: SimulatedFrame, view: DepthView) -> None:
    """Also with masks that are three pixels too large: the table behind an object is left out."""
    for grown, right_from in ((0, 1.0), (3, 0.9)):
        message = cloud(objects(frame, grown), frame.rgb, view, ALL, HEADER)
        assert message.header.frame_id == HEADER.frame_id and message.is_dense
        points = read(message)
        rows, columns = pixels_of(points, camera)
        right = frame.labels[rows, columns] == points["object_id"]
        assert right.mean() >= right_from
        error = np.abs(points["z"] - frame.true_depth[rows, columns])[right]
        assert np.median(error) < 0.004 and np.percentile(error, 95) < 0.02  # metres; the camera's noise
        for obj in objects(frame):
            found = np.count_nonzero((points["object_id"] == obj.object_id) & right)
            assert found >= 0.8 * obj.mask.area, "of the object's pixels"


def test_colours_and_visibility_are_those_of_the_pixels(
    camera: SimulatedCamera, frame: SimulatedFrame, view: DepthView
) -> None:
    points = read(cloud(objects(frame), frame.rgb, view, ALL, HEADER))
    packed = np.ascontiguousarray(points["rgb"]).view(np.uint32)
    colours = np.stack([packed >> 16 & 255, packed >> 8 & 255, packed & 255], axis=1)
    np.testing.assert_array_equal(colours, frame.rgb[pixels_of(points, camera)])
    assert set(points["visibility"].tolist()) == {np.float32(0.9)}


def test_limits(frame: SimulatedFrame, view: DepthView) -> None:
    everything = read(cloud(objects(frame), frame.rgb, view, ALL, HEADER))
    few = read(cloud(objects(frame), frame.rgb, view, CloudLimits(50, 0.0), HEADER))
    assert all(0 < count <= 50 for count in np.unique(few["object_id"], return_counts=True)[1])
    coarse = read(cloud(objects(frame), frame.rgb, view, CloudLimits(1_000_000, 0.01), HEADER))
    assert len(coarse) < len(everything) / 2
    for number in np.unique(everything["object_id"]):
        own, all_cells = (cells(points[points["object_id"] == number], 0.01) for points in (coarse, everything))
        assert abs(len(set(own)) - len(own)) <= 1  # one point may lie on a border, within rounding
        assert len(set(all_cells) - set(own)) <= 1, "no cube is left out"
    tiny = read(cloud(objects(frame), frame.rgb, view, CloudLimits(1_000_000, 1e-6), HEADER))
    assert len(tiny) == len(everything), "cubes that are smaller than any distance leave out nothing"


def cells(points: NDArray[np.void], side: float) -> list[tuple[int, ...]]:
    """The cube of each point."""
    places = np.stack([points[axis] for axis in "xyz"], axis=1).astype(np.float64)
    return [tuple(cell) for cell in np.floor(places / side).astype(int).tolist()]


def test_points_follow_the_transform(frame: SimulatedFrame, view: DepthView) -> None:
    turn, move = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]), np.array([1.0, 2.0, 3.0])
    here = read(cloud(objects(frame), frame.rgb, view, ALL, HEADER))
    message = cloud(objects(frame), frame.rgb, replace(view, transform=(turn, move), frame="base"), ALL, HEADER)
    there = read(message)
    assert message.header.frame_id == "base"
    np.testing.assert_allclose(there["x"], here["z"] + 1, atol=1e-5)
    np.testing.assert_allclose(there["y"], 2 - here["x"], atol=1e-5)
    np.testing.assert_allclose(there["z"], 3 - here["y"], atol=1e-5)


def test_nothing_in_sight_is_an_empty_cloud(frame: SimulatedFrame, view: DepthView) -> None:
    hidden = [replace(obj, mask=CroppedMask.from_full(np.zeros((HEIGHT, WIDTH), bool))) for obj in objects(frame)]
    blind = replace(view, rows=np.zeros_like(view.rows))
    for message in (cloud(hidden, frame.rgb, view, ALL, HEADER), cloud(objects(frame), frame.rgb, blind, ALL, HEADER)):
        assert message.width == 0 and [field.name for field in message.fields] == list(POINT.names or ())


@pytest.mark.parametrize("encoding", ["16UC1", "32FC1"])
def test_depth_without_objects(frame: SimulatedFrame, view: DepthView, encoding: str) -> None:
    rows = view.rows if encoding == "16UC1" else frame.depth.astype(">f4")
    result = FrameResult(0, 0, WIDTH, HEIGHT, tuple(objects(frame)))
    before = rows.copy()
    message = depth_without_objects(result, replace(view, rows=rows), HEADER)
    np.testing.assert_array_equal(rows, before)  # the message that came in is not changed
    assert (message.encoding, message.is_bigendian) == (encoding, 0)
    sent = np.frombuffer(bytes(message.data), "<u2" if encoding == "16UC1" else "<f4").reshape(HEIGHT, WIDTH)
    side = 2 * MARGIN + 1
    blank = cv2.dilate((frame.labels > 0).astype(np.uint8), np.ones((side, side))) > 0
    assert not sent[blank].any()
    np.testing.assert_array_equal(sent[~blank], rows[~blank])
