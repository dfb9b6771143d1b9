"""The node ``camera``: plays a SOURCE, as ``sam2_ros track`` takes it, as ``image`` and ``camera_info``.

    python -m sam2_ros.ros.video_publisher --ros-args -p source:=cup.mp4 -p loop:=true

Parameters, all read at start: ``source``; ``rate`` in frames a second (0 = the source's own); ``loop``;
``reliability`` (reliable or best_effort); ``wait_for_subscriber`` (before the first frame); ``frame_id``. At the end of
the source the process waits until reliable subscribers have everything, logs the number of frames, and ends.
"""

from __future__ import annotations

from collections.abc import Iterator

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from sam2_ros.media.errors import UserError
from sam2_ros.media.frame_sources import Frame, Source, open_source
from sam2_ros.ros import frame_player
from sam2_ros.ros.messages import image_message
from sam2_ros.ros.subscription import RELIABILITY


class VideoPublisher(Node):
    """Publishes frames at an even rate, with the time of sending as their stamp."""

    def __init__(self) -> None:
        super().__init__("camera")
        reliability = str(self.declare_parameter("reliability", "reliable").value)
        if reliability not in RELIABILITY:
            raise UserError(f"reliability is '{reliability}'; accepted: {', '.join(RELIABILITY)}")
        qos = QoSProfile(depth=10, reliability=RELIABILITY[reliability])
        self._images = self.create_publisher(Image, "image", qos)
        self._infos = self.create_publisher(CameraInfo, "camera_info", qos)
        self._frame_id = str(self.declare_parameter("frame_id", "camera_optical_frame").value)
        self._loop = bool(self.declare_parameter("loop", False).value)
        self._wait_for_subscriber = bool(self.declare_parameter("wait_for_subscriber", False).value)
        rate = float(self.declare_parameter("rate", 0.0).value)
        any_type = ParameterDescriptor(dynamic_typing=True)  # a camera's index is a number
        source = str(self.declare_parameter("source", "", any_type).value)
        self._source: Source = open_source(source, rate or None)
        self._period = 1 / (rate or self._source.fps)

    def play(self) -> int:
        """Publishes until the end of the source or of the process; returns the number of frames."""
        waited_for = int(self._wait_for_subscriber)
        return frame_player.play(self, self._images, self._frames(), self._period, self._publish, waited_for)

    def _frames(self) -> Iterator[Frame]:
        yield from self._source
        while self._loop:
            yield from self._source

    def _publish(self, frame: Frame) -> None:
        header = Header(stamp=self.get_clock().now().to_msg(), frame_id=self._frame_id)
        self._infos.publish(CameraInfo(header=header, height=frame.rgb.shape[0], width=frame.rgb.shape[1]))
        self._images.publish(image_message(frame.rgb, header))


def main() -> int:
    """Runs the node; returns the exit code of the process, 2 for wrong parameters."""
    return frame_player.run(VideoPublisher, VideoPublisher.play, "source", (UserError,))


if __name__ == "__main__":
    raise SystemExit(main())
