"""The node ``camera``: publishes the simulated camera's image, depth, calibration and ground truth.

    python -m sam2_ros.simulation.camera_node --ros-args -p seed:=3 -p rate:=5.0

Topics, all of a frame with one stamp: ``image`` (rgb8), ``depth/image`` (registered, with noise), ``camera_info``,
``truth/label_image`` (mono16, the visible pixels of each object), ``truth/label_info`` (latched), ``truth/depth/image``
(32FC1, exact), ``truth/detections_3d`` (body, full size; score = visible share of the object).

Parameters, all read at start: ``seed``, ``width``, ``height`` (pixels), ``rate`` (frames a second of the scene),
``speed`` (seconds of the scene in a second; below 1 is slow motion for a slow tracker), ``frames``
(0 = endless), ``render_ahead`` (render all frames before the first is published; needs ``frames``), ``noise`` (0 = a
perfect camera), ``depth_encoding`` (16UC1 or 32FC1), ``reliability`` (reliable or best_effort), ``subscribers`` (the
first frame waits for this many on ``image``), ``stamps`` (clock, or frame: the time since the start of the scene plus
one second, the same in every run), ``frame_id``, ``models`` (a folder of textured models; empty = plain shapes).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from numpy.typing import NDArray
from rclpy.exceptions import InvalidParameterTypeException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection3D, Detection3DArray, LabelInfo, ObjectHypothesisWithPose, VisionClass

from sam2_ros.media.errors import UserError
from sam2_ros.ros import frame_player
from sam2_ros.ros.messages import image_message, to_time
from sam2_ros.ros.subscription import RELIABILITY
from sam2_ros.simulation.camera import SimulatedCamera, SimulatedFrame, Truth


class SimulatedCameraNode(Node):
    """Publishes at an even rate, or as fast as it can render. The scene's time is that of its frames."""

    def __init__(self) -> None:
        """
        Raises:
            UserError: a parameter is wrong.
        """
        super().__init__("camera")
        value = {name: self.declare_parameter(name, default).value for name, default in DEFAULTS.items()}
        check(value)
        self._period, self._count = 1 / (value["rate"] * value["speed"]), int(value["frames"])
        self._ahead, self._subscribers = bool(value["render_ahead"]), int(value["subscribers"])
        self._encoding, self._frame_id, self._stamps = value["depth_encoding"], value["frame_id"], value["stamps"]
        self._camera = SimulatedCamera(
            int(value["seed"]),
            int(value["width"]),
            int(value["height"]),
            float(value["rate"]),
            float(value["noise"]),
            Path(value["models"]) if value["models"] else None,
        )
        qos = QoSProfile(depth=10, reliability=RELIABILITY[value["reliability"]])
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._depths = self.create_publisher(Image, "depth/image", qos)
        self._infos = self.create_publisher(CameraInfo, "camera_info", qos)
        self._labels = self.create_publisher(Image, "truth/label_image", qos)
        self._names = self.create_publisher(LabelInfo, "truth/label_info", latched)
        self._exact = self.create_publisher(Image, "truth/depth/image", qos)
        self._truth = self.create_publisher(Detection3DArray, "truth/detections_3d", qos)
        self._images = self.create_publisher(Image, "image", qos)

    def play(self) -> int:
        """Publishes until the last frame or the end of the process; returns the number of frames."""
        indices: Iterable[int] = range(self._count) if self._count else count()
        frames: Iterable[SimulatedFrame] = map(self._camera.frame, indices)
        if self._ahead:
            frames = self._render_all(frames)
        return frame_player.play(self, self._images, frames, self._period, self._publish, self._subscribers)

    def _render_all(self, frames: Iterable[SimulatedFrame]) -> list[SimulatedFrame]:
        rendered: list[SimulatedFrame] = []
        for frame in frames:
            if not rclpy.ok():
                break
            rendered.append(frame)
            self.get_logger().info(f"rendered {len(rendered)} of {self._count}", throttle_duration_sec=2.0)
        return rendered

    def _publish(self, frame: SimulatedFrame) -> None:
        in_scene = to_time(round((1 + frame.time) * 1e9))
        stamp: Time = in_scene if self._stamps == "frame" else self.get_clock().now().to_msg()
        header = Header(stamp=stamp, frame_id=self._frame_id)
        self._infos.publish(camera_info(self._camera, header))
        self._depths.publish(depth_image(frame.depth, self._encoding, header))
        if frame.index == 0:
            classes = [VisionClass(class_id=obj.object_id, class_name=obj.name) for obj in frame.objects]
            self._names.publish(LabelInfo(header=header, class_map=classes))
        self._labels.publish(image_message(frame.labels.astype("<u2"), header, "mono16"))
        if self._exact.get_subscription_count():
            self._exact.publish(depth_image(frame.true_depth, "32FC1", header))
        self._truth.publish(true_detections(frame.objects, header))
        # last, so that depth and truth are sent before a tracker gets the image
        self._images.publish(image_message(frame.rgb, header))


DEFAULTS: dict[str, bool | int | float | str] = {
    "seed": 0, "width": 640, "height": 480, "rate": 10.0, "speed": 1.0, "frames": 0, "render_ahead": False,
    "noise": 1.0, "depth_encoding": "16UC1", "reliability": "reliable", "subscribers": 0, "stamps": "clock",
    "frame_id": "camera_optical_frame", "models": "",
}  # fmt: skip


def check(value: Mapping[str, Any]) -> None:
    """
    Raises:
        UserError: a parameter is wrong; the message says what is accepted.
    """
    choices = {"depth_encoding": ("16UC1", "32FC1"), "reliability": RELIABILITY, "stamps": ("clock", "frame")}
    for name, accepted in choices.items():
        if value[name] not in accepted:
            raise UserError(f"{name} is '{value[name]}'; accepted: {', '.join(accepted)}")
    ranges = {
        "width": (16, 4096), "height": (16, 4096), "rate": (0.01, 1000.0), "speed": (0.001, 1000.0),
        "seed": (0, 2**31 - 1),
    }  # fmt: skip
    for name, (low, high) in ranges.items():
        if not low <= value[name] <= high:
            raise UserError(f"{name} is {value[name]}; accepted: {low} to {high}")
    if value["frames"] < 0 or value["noise"] < 0:
        raise UserError("frames and noise are negative; accepted: 0 and more")
    if value["render_ahead"] and not value["frames"]:
        raise UserError("render_ahead needs frames: the number of frames to render")


def camera_info(camera: SimulatedCamera, header: Header) -> CameraInfo:
    k = camera.matrix
    return CameraInfo(
        header=header, width=camera.width, height=camera.height, distortion_model="plumb_bob", d=[0.0] * 5,
        k=list(k), r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        p=[k[0], 0.0, k[2], 0.0, 0.0, k[4], k[5], 0.0, 0.0, 0.0, 1.0, 0.0],
    )  # fmt: skip


def depth_image(depth: NDArray[np.float32], encoding: str, header: Header) -> Image:
    """``depth`` in metres, 0 = not measured; by REP-118 that is NaN in 32FC1 and 0 in 16UC1."""
    if encoding == "32FC1":
        return image_message(np.where(depth > 0, depth, np.nan).astype("<f4"), header, encoding)
    return image_message(np.rint(1000 * depth).astype("<u2"), header, encoding)


def true_detections(objects: Sequence[Truth], header: Header) -> Detection3DArray:
    array = Detection3DArray(header=header)
    for obj in objects:
        detection = Detection3D(header=header, id=str(obj.object_id), results=[ObjectHypothesisWithPose()])
        (result,) = detection.results
        result.hypothesis.class_id, result.hypothesis.score = obj.name, obj.seen
        center = detection.bbox.center
        center.position.x, center.position.y, center.position.z = (float(value) for value in obj.position)
        turn = center.orientation
        turn.x, turn.y, turn.z, turn.w = (float(value) for value in Rotation.from_matrix(obj.axes).as_quat())
        result.pose.pose = center
        detection.bbox.size.x, detection.bbox.size.y, detection.bbox.size.z = obj.size
        array.detections.append(detection)
    return array


def main() -> int:
    """Runs the node; returns the process' exit code, 2 if a parameter is wrong."""
    wrong = (UserError, InvalidParameterTypeException)
    return frame_player.run(SimulatedCameraNode, SimulatedCameraNode.play, "scene", wrong)


if __name__ == "__main__":
    raise SystemExit(main())
