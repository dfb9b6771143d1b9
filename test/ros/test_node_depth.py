"""Positions over DDS: depth images and camera_info that fit, that do not, that come late or never."""

from __future__ import annotations

import importlib.util
from array import array
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from depth_rig import BOX, CY, FOCAL, Rig, depth_image, expected, place, plane
from geometry_msgs.msg import Point, TransformStamped, Vector3
from lifecycle_msgs.msg import Transition
from node_harness import HEIGHT, WIDTH, Peer, box_prompt, running
from sensor_msgs.msg import CompressedImage
from visualization_msgs.msg import Marker

from sam2_ros.msg import TrackedObject, TrackedObjectArray


@pytest.fixture(scope="module")
def rig(folder: Path) -> Iterator[Rig]:
    """One node for the module, with an object, and calibrated."""
    file = folder / "depth.yaml"
    file.write_text(
        "/**:\n  ros__parameters:\n    model.name: 'null'\n    diagnostics.period: 0.1\n"
        "    depth: {enabled: true, wait: 1.0, slop: 0.2, queue: 5}\n"
    )
    with running(folder, namespace="/depth", params_file=str(file)) as node:
        node.wait_for_state("active")
        node.wait_for_reliable()
        rig = Rig(node, "/depth")
        assert node.launched is not None
        node.launched.wait_for_text("subscribed to /depth/depth/image, reliable")
        node.track()
        assert node.add(box_prompt(*BOX, name="cup", label="dish")).success
        without = rig.track_object(plane())
        assert without.depth_status == TrackedObject.DEPTH_REFUSED
        assert without.depth_reason == "no camera_info has arrived on /depth/camera_info"
        rig.calibrate()
        yield rig


def test_millimetres_and_metres_both_byte_orders_and_padding(rig: Rig) -> None:
    u2, f4 = np.full((HEIGHT, WIDTH), 1500), np.full((HEIGHT, WIDTH), 1.5)
    u2[30:40, 40:80], f4[30:34, 40:80], f4[34:37, 40:80], f4[37:40, 40:80] = 0, 0, np.nan, np.inf
    images = [
        depth_image(u2.astype("<u2"), "16UC1"),
        depth_image(u2.astype(">u2"), "16UC1", padding=6),
        depth_image(f4.astype("<f4"), "32FC1", padding=4),
        depth_image(f4.astype(">f4"), "32FC1"),
    ]
    for image in images:
        known = rig.track_object(image)
        assert (known.depth_status, known.depth_reason) == (TrackedObject.DEPTH_OK, "")
        assert known.depth_points == 40 * 20
        assert known.position_frame == "camera_optical_frame"
        # the upper third has no depth, so the middle is that of the rows 40 to 59
        np.testing.assert_allclose(place(known.position), [expected(1.5)[0], (49.5 - CY) / FOCAL * 1.5, 1.5], atol=1e-4)
        # from the first column's centre to the last one's: one of 40 is more than the 2 % that are left out
        np.testing.assert_allclose(place(known.extent), [39 / FOCAL * 1.5, 19 / FOCAL * 1.5, 0], atol=1e-4)


def test_detections_3d_hold_the_same(rig: Rig) -> None:
    tracks = rig.track(plane(800))

    def found() -> Any:
        return next((each for each in reversed(rig.detections) if each.header == tracks.header), None)

    array = rig.node.wait_until(found, "detections_3d of the frame")
    (detection,), (known,) = array.detections, tracks.objects
    (result,) = detection.results
    assert (detection.id, result.hypothesis.class_id) == (str(known.id), "dish")
    assert result.hypothesis.score == pytest.approx(known.visibility)
    assert result.pose.pose.position == known.position
    assert detection.bbox.size == known.extent
    np.testing.assert_allclose(place(detection.bbox.center.position), expected(0.8), atol=1e-4)


def test_markers_are_drawn_where_the_object_is(rig: Rig) -> None:
    tracks = rig.track(plane(800))

    def drawn(tracks: TrackedObjectArray) -> list[Marker]:
        def found() -> Any:
            arrays = (each.markers for each in reversed(rig.markers) if each.markers[0].header == tracks.header)
            return next(arrays, None)

        return list(rig.node.wait_until(found, "markers of the frame"))

    (known,) = tracks.objects
    erase, box, name = drawn(tracks)
    assert (erase.action, box.action, box.type, name.type) == (
        Marker.DELETEALL, Marker.ADD, Marker.CUBE, Marker.TEXT_VIEW_FACING,
    )  # fmt: skip
    assert [(each.ns, each.id) for each in (box, name)] == [("boxes", known.id), ("names", known.id)]
    np.testing.assert_allclose(place(box.pose.position), expected(0.8), atol=1e-4)
    np.testing.assert_allclose(place(box.scale)[:2], place(known.extent)[:2])
    assert box.scale.z > 0 and 0 < box.color.a < 1, "a surface without depth is drawn all the same"
    assert name.text == "cup" and name.pose.position.y < box.pose.position.y - box.scale.y / 2
    assert [each.action for each in drawn(rig.track(depth_image(np.zeros((HEIGHT, WIDTH), "<u2"), "16UC1")))] == [
        Marker.DELETEALL
    ]


def test_depth_that_does_not_fit_is_refused_with_a_reason(rig: Rig) -> None:
    cases = {
        "the depth image has 80 x 60 pixels, the image 160 x 120": depth_image(np.ones((60, 80), "<u2"), "16UC1"),
        "the depth image is in the frame 'depth_frame', the image in 'camera": plane(frame_id="depth_frame"),
        "depth encoding 'mono8' is not supported; accepted: 16UC1, 32FC1": depth_image(
            np.ones((HEIGHT, WIDTH), np.uint8), "mono8"
        ),
        "data has": plane(),
    }
    cases["data has"].data = cases["data has"].data[:-100]
    for reason, image in cases.items():
        known = rig.track_object(image)
        assert known.depth_status == TrackedObject.DEPTH_REFUSED
        assert reason in known.depth_reason
        assert known.position == Point() and known.extent == Vector3() and known.position_frame == ""
        rig.wait_for_problem(reason)
    assert rig.track_object(plane()).depth_status == TrackedObject.DEPTH_OK
    rig.wait_for_problem("")


def test_a_calibration_of_another_image_is_refused(rig: Rig) -> None:
    rig.calibrate(width=80)
    assert "camera_info has 80 x 120 pixels" in rig.track_object(plane()).depth_reason
    rig.calibrate(k=[0.0] * 9)
    assert "the camera isn't calibrated" in rig.track_object(plane()).depth_reason
    rig.calibrate()


def test_an_odd_calibration_costs_the_positions_and_never_the_tracks(rig: Rig) -> None:
    """Finite numbers that OpenCV can't use, and rays that are no numbers."""
    for distortion, model, reason in (
        ([0.1] * 5, "equidistant", "'equidistant' came with 5 coefficients; accepted: 4"),
        ([5.0, 0.0], "plumb_bob", "'plumb_bob' came with 2 coefficients"),
        ([float("nan")] * 5, "plumb_bob", "the distortion holds nan"),
        ([0.0, 0.0, 1e300, 1e300, 0.0], "plumb_bob", "the position is no finite number"),
    ):
        rig.calibrate(d=distortion, distortion_model=model)
        known = rig.track_object(plane())
        assert known.depth_status == TrackedObject.DEPTH_REFUSED and reason in known.depth_reason
        rig.calibrate()


def test_without_slop_the_stamps_must_be_equal_and_the_reason_says_so(rig: Rig) -> None:
    assert rig.node.set_parameter("depth.slop", 0.0).successful
    try:
        known = rig.track_object(plane(700))
        assert (known.depth_status, known.position.z) == (TrackedObject.DEPTH_OK, pytest.approx(0.7))
        known = rig.track_object(None)
        assert known.depth_status == TrackedObject.DEPTH_NONE
        assert "exactly the image's stamp" in known.depth_reason and "set depth.slop to" in known.depth_reason
    finally:
        assert rig.node.set_parameter("depth.slop", 0.2).successful


def test_too_few_points_are_no_position(rig: Rig) -> None:
    values = np.zeros((HEIGHT, WIDTH), "<u2")
    values[:30] = values[60:] = 900  # only beside the object
    values[40, 40:69] = 900
    known = rig.track_object(depth_image(values, "16UC1"))
    assert (known.depth_status, known.depth_points, known.position) == (TrackedObject.DEPTH_TOO_FEW, 29, Point())
    assert known.depth_reason == "29 of the mask's 1200 pixels have a valid depth; depth.min_points is 30"
    values[40, 69] = 900
    known = rig.track_object(depth_image(values, "16UC1"))
    assert (known.depth_status, known.depth_points) == (TrackedObject.DEPTH_OK, 30)


def test_the_nearest_depth_image_is_taken_and_none_beyond_the_slop(rig: Rig) -> None:
    """Images are a second apart here; depth images 0.1 s before, 0.15 s after and 0.3 s after one."""
    stamp = rig.node.image().header.stamp
    before, after, far = plane(1000), plane(2000), plane(3000)
    before.header.stamp.sec, before.header.stamp.nanosec = stamp.sec + 1, 23_456_789
    after.header.stamp.sec, after.header.stamp.nanosec = stamp.sec + 1, 273_456_789
    far.header.stamp.sec, far.header.stamp.nanosec = stamp.sec + 2, 423_456_789
    rig.depth.publish(before)
    known = rig.track_object(after)
    assert known.position.z == pytest.approx(1.0)
    known = rig.track_object(far)
    assert known.depth_status == TrackedObject.DEPTH_NONE
    assert known.depth_reason == "no depth image within 0.2 s of the image has arrived"


def test_late_depth_is_waited_for_only_if_asked(rig: Rig) -> None:
    """With depth.wait, a depth image that comes after its image is still its own; without, the image goes at once."""
    assert rig.track_object(plane(700), late=True).position.z == pytest.approx(0.7)
    assert rig.node.set_parameter("depth.wait", 0.0).successful
    sent = [rig.node.send() for _ in range(3)]
    tracks = rig.node.wait_until(lambda: rig.node.tracks_of(sent[-1]), "tracks")
    assert tracks.objects[0].depth_status == TrackedObject.DEPTH_NONE
    # Depth images of the past still serve a prompt's second message.
    late = plane(600)
    late.header.stamp = deepcopy(sent[-1].header.stamp)
    rig.depth.publish(late)
    rig.node.wait_until(lambda: float(rig.node.status()["depth age [s]"]) < 0.3, "the depth image")
    assert rig.node.add(box_prompt(100, 10, 120, 20)).success
    both = rig.node.wait_until(lambda: (t := rig.node.tracks_of(sent[-1])) and len(t.objects) == 2 and t, "both")
    assert [known.depth_status for known in both.objects] == [TrackedObject.DEPTH_OK] * 2
    assert both.objects[1].position.z == pytest.approx(0.6)


def test_without_depth_nothing_is_subscribed_and_nothing_said(folder: Path, parameters_file: Path) -> None:
    with running(folder, namespace="/flat", params_file=str(parameters_file)) as node:
        node.wait_for_state("active")
        node.wait_for_reliable()
        node.track()
        node.add(box_prompt(*BOX))
        known = node.wait_until(lambda: node.tracks[-1].objects, "the object")[0]
        assert (known.depth_status, known.depth_reason) == (TrackedObject.DEPTH_NONE, "")
        assert node.node.count_subscribers("/flat/depth/image") == 0
        assert "depth age [s]" not in node.status()


def test_each_camera_has_its_own_depth(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "two.yaml"
    file.write_text(
        "/**:\n  ros__parameters:\n    cameras: [left, right]\n    model.name: 'null'\n"
        "    depth: {enabled: true, wait: 1.0}\n    prompts.wait: 0.5\n"
    )
    with running(folder, namespace="/two", params_file=str(file)) as node:
        node.wait_for_state("active")
        peers = [Peer(f"/two/tracker/{name}", f"/two/{name}/image") for name in ("left", "right")]
        try:
            rigs = [Rig(peer, f"/two/{name}") for peer, name in zip(peers, ("left", "right"), strict=True)]
            for peer in peers:
                peer.launched = node.launched
                peer.wait_for_reliable()
                peer.track()
                assert peer.add(box_prompt(*BOX)).success

            def heights() -> list[float]:
                for rig in rigs:
                    rig.send_info()
                return [rig.track_object(plane(depth)).position.z for rig, depth in zip(rigs, (700, 1400), strict=True)]

            peers[0].wait_until(lambda: np.allclose(heights(), (0.7, 1.4), atol=1e-6), "a position from each camera")
            assert rigs[0].track_object(plane(900)).position.z == pytest.approx(0.9)
            assert rigs[1].track_object(None).depth_status == TrackedObject.DEPTH_NONE
        finally:
            for peer in peers:
                peer.close()


def target_frame_file(folder: Path) -> Path:
    file = folder / "target.yaml"
    file.write_text(
        "/**:\n  ros__parameters:\n    model.name: 'null'\n"
        "    depth: {enabled: true, wait: 1.0, target_frame: base_link}\n"
    )
    return file


def test_a_target_frame_without_tf2_is_refused_at_configure(folder: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("tf2_ros"):
        pytest.skip("tf2 is installed here")
    with running(folder, namespace="/target", params_file=str(target_frame_file(tmp_path))) as node:
        assert node.launched is not None
        node.launched.wait_for_text("depth.target_frame needs tf2, which is not installed")
        assert node.state() == "unconfigured"


def test_positions_in_a_target_frame(folder: Path, tmp_path: Path) -> None:
    """The camera looks along the robot's x axis from 1 m above its origin: z forward becomes x, x right -y."""
    tf2_ros = pytest.importorskip("tf2_ros", reason="tf2 is not installed (it is no wheel)")
    with running(folder, namespace="/target", params_file=str(target_frame_file(tmp_path))) as node:
        node.wait_for_state("active")
        node.wait_for_reliable()
        rig = Rig(node, "/target")
        node.track()
        assert node.add(box_prompt(*BOX)).success

        def status() -> int:
            rig.send_info()
            return int(rig.track_object(plane()).depth_status)

        node.wait_until(lambda: status() == TrackedObject.DEPTH_NO_TRANSFORM, "a missing transform")
        assert "no transform from 'camera_optical_frame' to 'base_link'" in rig.track_object(plane()).depth_reason
        transform = TransformStamped(child_frame_id="camera_optical_frame")
        transform.header.frame_id = "base_link"
        transform.transform.translation.z = 1.0
        turn = transform.transform.rotation
        turn.x, turn.y, turn.z, turn.w = -0.5, 0.5, -0.5, 0.5
        broadcaster = tf2_ros.StaticTransformBroadcaster(node.node)
        broadcaster.sendTransform(transform)
        node.wait_until(lambda: status() == TrackedObject.DEPTH_OK, "the transform")
        known = rig.track_object(plane(2000))
        x, y, z = expected(2.0)
        assert known.position_frame == "base_link"
        np.testing.assert_allclose(place(known.position), [z, -x, 1 - y], atol=1e-4)
        assert known.extent.x == pytest.approx(0, abs=1e-6) and known.extent.y > known.extent.z > 0
        node.wait_until(lambda: rig.detections and rig.detections[-1].header.frame_id == "base_link", "detections_3d")


def test_compressed_depth(rig: Rig) -> None:
    """The last of the module: it forgets the object and configures the node anew."""
    node = rig.node
    assert node.change_state(Transition.TRANSITION_DEACTIVATE) and node.change_state(Transition.TRANSITION_CLEANUP)
    assert node.set_parameter("depth.transport", "compressedDepth").successful
    assert node.change_state(Transition.TRANSITION_CONFIGURE) and node.change_state(Transition.TRANSITION_ACTIVATE)
    rig.depth = node.create_image_publisher(CompressedImage, "/depth/depth/image/compressedDepth")
    node.wait_for_reliable()
    node.track()
    assert node.add(box_prompt(*BOX, name="cup")).success
    png = cv2.imencode(".png", np.full((HEIGHT, WIDTH), 1500, np.uint16))[1].tobytes()

    def found() -> bool:
        """Depth and calibration have reached the node."""
        message = CompressedImage(format="16UC1; compressedDepth png", data=array("B", bytes(12) + png))
        message.header.frame_id = "camera_optical_frame"
        rig.send_info()
        known = rig.track_object(message)
        if known.depth_status != TrackedObject.DEPTH_OK:
            return False
        np.testing.assert_allclose(place(known.position), expected(1.5), atol=1e-4)
        return True

    node.wait_until(found, "a position")
