"""The camera of ``sam2_ros bench --node``: publishes a rendered sequence at an even rate.

    python -m sam2_ros.bench.node_camera --ros-args -p width:=640 -p height:=480 -p rate:=30.0 -p objects:=1

It makes all messages before it sends the first, and stamps each right before it publishes it.
"""

from __future__ import annotations

import time
from itertools import cycle

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from sam2_ros.bench.moving_scene import moving_scene
from sam2_ros.ros import frame_player
from sam2_ros.ros.messages import image_message, to_time
from sam2_ros.ros.shutdown import shut_down


def main(args: list[str] | None = None) -> int:
    """Publishes until the process is stopped."""
    rclpy.init(args=args)
    try:
        node = rclpy.create_node("camera")
        width, height, objects = (
            int(node.declare_parameter(name, default).value or default)
            for name, default in (("width", 640), ("height", 480), ("objects", 1))
        )
        rate = float(node.declare_parameter("rate", 30.0).value or 30.0)
        scene = moving_scene(objects, width, height)
        images = [image_message(frame, Header(frame_id="camera_optical_frame")) for frame in scene.frames]
        qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
        publisher = node.create_publisher(Image, "image", qos)

        def publish(image: Image) -> None:
            image.header.stamp = to_time(time.time_ns())
            publisher.publish(image)

        frame_player.play(node, publisher, cycle(images), 1 / rate, publish, subscribers=0)
    except (ExternalShutdownException, KeyboardInterrupt):
        pass
    finally:
        shut_down()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
