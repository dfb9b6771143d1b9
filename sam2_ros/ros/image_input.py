"""Subscribes to raw or compressed images with the publisher's reliability, and finds out why none arrive."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.qos import ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from sam2_ros.inference.frames import Frame
from sam2_ros.ros.dds_environment import profile_file, profile_variable
from sam2_ros.ros.image_conversion import decode_compressed, to_rgb
from sam2_ros.ros.interface import COMPRESSED_IMAGE, IMAGE
from sam2_ros.ros.messages import to_stamp
from sam2_ros.ros.node_parameters import NodeParameters
from sam2_ros.ros.subscription import FollowingSubscription

_TRANSPORTS = {"raw": IMAGE, "compressed": COMPRESSED_IMAGE}  # by input.transport


class ImageInput:
    """Passes every image to ``on_frame`` as a :class:`Frame` whose source is the message's header."""

    def __init__(
        self, node: Node, parameters: NodeParameters, on_frame: Callable[[Frame], None], camera: str = ""
    ) -> None:
        self._node = node
        self._parameters = parameters
        self._on_frame = on_frame
        self._camera = camera
        self._subscription: FollowingSubscription | None = None
        self._last_arrival = 0  # ns, steady; at first the time of the start

    def start(self) -> None:
        self._last_arrival = time.monotonic_ns()
        topic = _TRANSPORTS[self._parameters.text("input.transport")]
        depth = int(self._parameters.number("input.queue")) if self._parameters["input.every_frame"] else topic.depth
        on_message = self._on_image if topic is IMAGE else self._on_compressed
        self._subscription = FollowingSubscription(
            self._node, topic.ros_type, topic.for_camera(self._camera), on_message,
            lambda: self._parameters.text("input.reliability"), depth,
        )  # fmt: skip

    def stop(self) -> None:
        if self._subscription is not None:
            self._subscription.destroy()
            self._subscription = None

    def age(self) -> float:
        """Seconds since the last image, or since :meth:`start` if there was none."""
        return (time.monotonic_ns() - self._last_arrival) / 1e9

    def complaint(self) -> str:
        """Why no image has arrived for ``input.timeout`` and what to do; empty while images arrive."""
        if self._subscription is None or self.age() < self._parameters.number("input.timeout"):
            return ""
        topic = self._subscription.topic
        publishers = self._node.get_publishers_info_by_topic(topic)
        silent = f"no image on {topic} for {self.age():.1f} s: "
        if not publishers:
            name = IMAGE.for_camera(self._camera)
            raw = topic.removesuffix("/compressed")
            for transport, other in (("raw", raw), ("compressed", f"{raw}/compressed")):
                if other != topic and self._node.get_publishers_info_by_topic(other):
                    return silent + f"nobody publishes it, but {other}; set input.transport to {transport}"
            return silent + f"nobody publishes it; remap '{name}' to the camera's topic or start the camera"
        type_name = _TRANSPORTS[self._parameters.text("input.transport")].type.replace("/", "/msg/")
        if other_types := {info.topic_type for info in publishers} - {type_name}:
            return silent + f"it carries {', '.join(sorted(other_types))} instead of {type_name}; check input.transport"
        offered = {info.qos_profile.reliability for info in publishers}
        asks_reliable = self._subscription.reliability == ReliabilityPolicy.RELIABLE
        if asks_reliable and offered != {ReliabilityPolicy.RELIABLE}:
            return silent + (
                "QoS is incompatible, the publisher offers best effort and input.reliability asks for reliable; "
                "set input.reliability to auto or best_effort"
            )
        cure = f"start the publisher with {profile_variable()}={profile_file()} in its environment"
        if asks_reliable:
            return f"{silent}a reliable publisher exists but nothing arrives; is the camera paused? If not, {cure}"
        return silent + (
            "a publisher exists, but Fast DDS's default transport loses best-effort images larger than a datagram; "
            f"{cure}, or let the publisher offer reliable"
        )

    def _on_image(self, message: Image) -> None:
        self._hand_over(message, message.encoding, lambda: to_rgb(message))

    def _on_compressed(self, message: CompressedImage) -> None:
        self._hand_over(message, message.format, lambda: decode_compressed(message.data, message.format))

    def _hand_over(self, message: Any, encoding: str, decode: Callable[[], Any]) -> None:
        self._last_arrival = time.monotonic_ns()
        self._on_frame(Frame(to_stamp(message.header.stamp), decode, self._last_arrival, message.header, encoding))
