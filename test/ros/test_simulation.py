"""The simulated camera and the tracker over DDS: the launch file, positions against the truth, and the verb."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from node_harness import running
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, Image
from vision_msgs.msg import Detection3DArray, LabelInfo

pytest.importorskip("mujoco", reason="renders the scene: pip install mujoco")

from sam2_ros.media.errors import UserError
from sam2_ros.msg import ObjectPrompt, TrackedObject
from sam2_ros.ros.messages import to_stamp
from sam2_ros.simulation.camera import SimulatedCamera
from sam2_ros.simulation.camera_node import DEFAULTS, check
from sam2_ros.simulation.score import visible_surface_center

WIDTH, HEIGHT = 160, 120


def test_positions_agree_with_the_truth(folder: Path) -> None:
    """With the true masks as prompts for an engine that keeps them, what is left is depth and geometry."""
    file = folder / "simulation.yaml"
    file.write_text("/**:\n  ros__parameters:\n    model.name: 'null'\n    depth.wait: 1.0\n")
    arguments = {"params_file": str(file), "width": str(WIDTH), "height": str(HEIGHT), "seed": "4", "stamps": "frame"}
    arguments |= {"frames": "3", "rate": "1.0", "subscribers": "2"}
    truth: dict[str, dict[int, Any]] = {"label_image": {}, "detections_3d": {}, "camera_info": {}}
    names: list[LabelInfo] = []

    def keep(kind: str) -> Any:
        return lambda message: truth[kind].update({to_stamp(message.header.stamp): message})

    with running(folder, "sim.launch.py", namespace="/sim", **arguments) as node:
        qos, latched = QoSProfile(depth=10), QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        node.node.create_subscription(Image, "/sim/truth/label_image", keep("label_image"), qos)
        node.node.create_subscription(Detection3DArray, "/sim/truth/detections_3d", keep("detections_3d"), qos)
        node.node.create_subscription(CameraInfo, "/sim/camera_info", keep("camera_info"), qos)
        node.node.create_subscription(LabelInfo, "/sim/truth/label_info", names.append, latched)
        node.node.create_subscription(Image, "/sim/image", lambda _: None, qos)  # the second that the camera waits for
        assert node.launched is not None
        node.launched.wait_for_text("the scene has ended after 3 frames")
        stamp = 3_000_000_000  # the scene begins at 1 s
        node.wait_until(
            lambda: (
                node.tracks
                and to_stamp(node.tracks[-1].header.stamp) == stamp
                and all(stamp in k for k in truth.values())
            ),
            "the last frame and its truth",
        )
        camera = SimulatedCamera(4, WIDTH, HEIGHT, 1.0)
        frame = camera.frame(2)  # seed and index tell what is on the topics
        labels = np.frombuffer(truth["label_image"][stamp].data, "<u2").reshape(HEIGHT, WIDTH)
        np.testing.assert_array_equal(labels, frame.labels)
        np.testing.assert_allclose(truth["camera_info"][stamp].k, camera.matrix)
        node.wait_until(lambda: names, "the names")
        assert [each.class_name for each in names[-1].class_map] == [known.name for known in frame.objects]
        for known, body in zip(frame.objects, truth["detections_3d"][stamp].detections, strict=True):
            place = body.bbox.center.position
            np.testing.assert_allclose([place.x, place.y, place.z], known.position)
            assert body.results[0].hypothesis.score == known.seen

        prompts = []
        for known in frame.objects:
            mask = Image(height=HEIGHT, width=WIDTH, encoding="mono8", step=WIDTH)
            mask.data = ((labels == known.object_id) * 255).astype(np.uint8).tobytes()
            prompts.append(ObjectPrompt(name=known.name, mask=mask))
        assert node.add(*prompts).success
        results = node.wait_until(lambda: node.tracks[-1].objects, "the objects")
        for known, result in zip(frame.objects, results, strict=True):
            assert result.depth_status == TrackedObject.DEPTH_OK, result.depth_reason
            center, size = visible_surface_center(labels == known.object_id, frame.true_depth, camera.matrix)
            found = np.array([result.position.x, result.position.y, result.position.z])
            extent = np.array([result.extent.x, result.extent.y, result.extent.z])
            assert np.linalg.norm(found - center) < 0.005, known.name
            assert np.abs(extent - size).max() < 0.03, known.name  # pixels of 4 mm, and no depth at edges
            assert np.linalg.norm(found - known.position) < max(known.size)


def test_the_verb_tracks_with_the_embedded_model_and_reports(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("sam2_ros")), "simulate", "--out", str(tmp_path), "--quiet"]
    command += ["--frames", "12", "--rate", "2", "--size", "320", "240", "--seed", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=400)
    log = tmp_path / "simulation.log"
    assert done.returncode == 0, done.stderr + (log.read_text() if log.exists() else "")
    report = json.loads((tmp_path / "report.json").read_text())
    everything = report["objects"]["all"]
    assert report["tracked"] > 1 and everything["in sight"] > 2, "on a busy machine the tracker drops most frames"
    assert everything["in sight, found"] > 0.7 and everything["IoU"] > 0.7
    assert everything["position error p50 [mm]"] < 15
    picture = (tmp_path / "simulation.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and "whole: mm p50" in done.stdout


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"depth_encoding": "32SC1"}, "depth_encoding is '32SC1'; accepted: 16UC1, 32FC1"),
        ({"rate": -1.0}, "rate is -1.0; accepted: 0.01 to 1000.0"),
        ({"render_ahead": True}, "render_ahead needs frames"),
        ({"noise": -0.5}, "frames and noise are negative"),
    ],
)
def test_wrong_parameters_are_refused_with_a_reason(changes: dict[str, Any], reason: str) -> None:
    check(DEFAULTS)
    with pytest.raises(UserError, match=reason):
        check(DEFAULTS | changes)


def test_the_camera_ends_with_the_reason() -> None:
    command = [sys.executable, "-m", "sam2_ros.simulation.camera_node", "--ros-args", "-p", "stamps:=now"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2 and done.stderr == "camera: stamps is 'now'; accepted: clock, frame\n"
