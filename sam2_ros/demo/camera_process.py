"""The demo's camera: the video publisher, which sends its first frame once tracker and recorder subscribe.

python -m sam2_ros.demo.camera_process SUBSCRIBERS --ros-args -p source:=cup.mp4
"""

from __future__ import annotations

import sys

import rclpy

from sam2_ros.ros.shutdown import shut_down
from sam2_ros.ros.video_publisher import VideoPublisher


def main() -> int:
    """Runs the node until the end of its source; returns the process' exit code."""
    wanted = int(sys.argv[1])
    rclpy.init()
    try:
        node = VideoPublisher()
        images = next(publisher for publisher in node.publishers if publisher.topic_name.endswith("/image"))
        while images.get_subscription_count() < wanted:
            rclpy.spin_once(node, timeout_sec=0.05)
        node.play()
    finally:
        shut_down()
    return 0


if __name__ == "__main__":
    sys.exit(main())
