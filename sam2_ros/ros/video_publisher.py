"""The node ``camera``: plays a video file, a folder of images or a camera as ``image`` and ``camera_info``.

    python -m sam2_ros.ros.video_publisher --ros-args -p source:=cup.mp4 -p loop:=true

Parameters, all read at start: ``source``; ``rate`` in frames a second (0 = the source's own); ``loop``;
``reliability`` (reliable or best_effort); ``wait_for_subscriber`` (hold the first frame back until somebody listens);
``frame_id``. At the end of the source the process waits until reliable subscribers have everything, says how much it
published, and ends.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence

import rclpy
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from sam2_ros.ros.messages import rgb_image
from sam2_ros.tools.errors import UserError
from sam2_ros.tools.sources import Frame, Source, open_source

_RELIABILITY = {"reliable": ReliabilityPolicy.RELIABLE, "best_effort": ReliabilityPolicy.BEST_EFFORT}
_LAST_WORDS = Duration(seconds=5)  # for subscribers to acknowledge the last frames


class VideoPublisher(Node):
    """Publishes frames at an even rate, stamped with the node's clock when they are sent."""

    def __init__(self) -> None:
        super().__init__("camera")
        reliability = self._text("reliability", "reliable")
        if reliability not in _RELIABILITY:
            raise UserError(f"reliability is '{reliability}'; accepted: {', '.join(_RELIABILITY)}")
        qos = QoSProfile(depth=10, reliability=_RELIABILITY[reliability])
        self._images = self.create_publisher(Image, "image", qos)
        self._infos = self.create_publisher(CameraInfo, "camera_info", qos)
        self._frame_id = self._text("frame_id", "camera_optical_frame")
        self._loop = bool(self.declare_parameter("loop", False).value)
        self._wait_for_subscriber = bool(self.declare_parameter("wait_for_subscriber", False).value)
        rate = float(self.declare_parameter("rate", 0.0).value)
        any_type = ParameterDescriptor(dynamic_typing=True)  # a camera's index comes as a number
        source = str(self.declare_parameter("source", "", any_type).value)
        self._source: Source = open_source(source, rate or None)
        self._period = 1 / (rate or self._source.fps)

    def play(self) -> int:
        """Publishes until the end of the source or of the process; returns the number of frames."""
        published = 0
        while self._wait_for_subscriber and rclpy.ok() and not self._images.get_subscription_count():
            rclpy.spin_once(self, timeout_sec=0.05)
        due = time.monotonic()
        for frame in self._frames():
            while rclpy.ok() and time.monotonic() < due:
                rclpy.spin_once(self, timeout_sec=max(0.0, due - time.monotonic()))
            if not rclpy.ok():
                break
            self._publish(frame)
            published += 1
            due = max(due + self._period, time.monotonic())
        if rclpy.ok():
            self._images.wait_for_all_acked(_LAST_WORDS)
        return published

    def _frames(self) -> Iterator[Frame]:
        yield from self._source
        while self._loop:
            yield from self._source

    def _publish(self, frame: Frame) -> None:
        header = Header(stamp=self.get_clock().now().to_msg(), frame_id=self._frame_id)
        self._infos.publish(CameraInfo(header=header, height=frame.rgb.shape[0], width=frame.rgb.shape[1]))
        self._images.publish(rgb_image(frame.rgb, header))

    def _text(self, name: str, default: str) -> str:
        return str(self.declare_parameter(name, default).value)


def _run(args: Sequence[str] | None) -> int:
    rclpy.init(args=list(args) if args is not None else None)
    try:
        node = VideoPublisher()
        published = node.play()
        if rclpy.ok():
            node.get_logger().info(f"the source has ended after {published} frames")
    except UserError as error:
        print(f"camera: {error}", file=sys.stderr)
        return 2
    except ExternalShutdownException:
        pass
    finally:
        rclpy.try_shutdown()
    return 0


def main(args: Sequence[str] | None = None) -> int:
    """Runs the node; returns the process' exit code, 2 where the parameters are at fault."""
    try:
        return _run(args)
    except KeyboardInterrupt:  # may come at any time before rclpy's handlers are there and after they are gone
        return 0


if __name__ == "__main__":
    raise SystemExit(main())
