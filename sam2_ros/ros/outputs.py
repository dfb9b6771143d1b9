"""What the node publishes while it is active."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from sam2_ros.inference.backend import BackendInfo
from sam2_ros.inference.worker import Processed
from sam2_ros.msg import ObjectEvent, TrackedObjectArray
from sam2_ros.ros import messages
from sam2_ros.ros.node_parameters import NodeParameters
from sam2_ros.tools.overlay import draw_overlay
from sam2_ros.tracking.types import ObjectChange


class Outputs:
    """Publishers of ``~/tracks``, ``~/events`` and ``~/overlay``; silent unless the node is active."""

    def __init__(self, node: LifecycleNode, parameters: NodeParameters, info: BackendInfo) -> None:
        self._node = node
        self._parameters = parameters
        self._info = info
        self._tracks = self._create(TrackedObjectArray, "~/tracks")
        self._events = self._create(ObjectEvent, "~/events")
        self._overlay = self._create(Image, "~/overlay")

    def destroy(self) -> None:
        for publisher in (self._tracks, self._events, self._overlay):
            self._node.destroy_lifecycle_publisher(publisher)

    def publish_results(self, processed: Processed) -> None:
        header = processed.frame.source
        encoding = self._parameters.text("output.mask_encoding")
        self._tracks.publish(messages.processed_tracks(processed, self._info, encoding))
        self.publish_changes(processed.result.changes, header)
        if self._overlay.get_subscription_count():
            drawn = draw_overlay(processed.image, processed.result)
            self._overlay.publish(messages.rgb_image(drawn, header))

    def publish_changes(self, changes: Iterable[ObjectChange], header: Header) -> None:
        for change in changes:
            self._events.publish(messages.object_event(change, header))

    def _create(self, message_type: type, topic: str) -> Any:
        return self._node.create_lifecycle_publisher(
            message_type,
            topic,
            QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )
