"""What the node publishes while it is active."""

from __future__ import annotations

from typing import Any

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import Image

from sam2_ros.inference.backend import BackendInfo
from sam2_ros.inference.worker import Processed
from sam2_ros.media.overlay import draw_overlay
from sam2_ros.msg import ObjectEvent, TrackedObjectArray
from sam2_ros.ros import messages
from sam2_ros.ros.depth import DepthInput
from sam2_ros.ros.node_parameters import NodeParameters
from sam2_ros.ros.views import Views

_NEW_MASK = (ObjectEvent.ADDED, ObjectEvent.CORRECTED)


class Outputs:
    """Publishers of ``~/tracks``, ``~/events``, ``~/overlay`` and the standard views; silent unless active."""

    def __init__(
        self,
        node: LifecycleNode,
        parameters: NodeParameters,
        info: BackendInfo,
        depth: DepthInput | None = None,
        camera: str = "",
    ) -> None:
        """With ``depth``, objects get their positions in space. ``camera`` stands in the names of the topics."""
        self._node = node
        self._parameters = parameters
        self._info = info
        self._depth = depth
        self._camera = camera
        prefix = f"~/{camera}/" if camera else "~/"
        self._tracks = self._create(TrackedObjectArray, f"{prefix}tracks")
        # A reset, or a camera that turns away, makes an event of every object at once.
        self._events = self._create(ObjectEvent, f"{prefix}events", max(100, 2 * info.max_objects))
        self._overlay = self._create(Image, f"{prefix}overlay")
        self._views = Views(self._create, prefix)

    def destroy(self) -> None:
        for publisher in (self._tracks, self._events, self._overlay, *self._views.publishers):
            self._node.destroy_lifecycle_publisher(publisher)

    def publish_results(self, processed: Processed) -> None:
        self._publish_objects(processed)
        self._publish_events(processed)

    def publish_changes(self, processed: Processed) -> None:
        """What a command changed: the frame once more where its masks are new, and the events."""
        if any(change.event in _NEW_MASK for change in processed.result.changes):
            self._publish_objects(processed)
        self._publish_events(processed)

    def _publish_objects(self, processed: Processed) -> None:
        encoding = self._parameters.text("output.mask_encoding")
        positions = self._depth.measure(processed) if self._depth else {}
        tracks = messages.processed_tracks(processed, self._info, encoding, positions)
        tracks.camera = self._camera
        self._tracks.publish(tracks)
        self._views.publish(processed, positions)
        if self._overlay.get_subscription_count():
            drawn = draw_overlay(processed.image, processed.result)
            self._overlay.publish(messages.rgb_image(drawn, processed.frame.source))

    def _publish_events(self, processed: Processed) -> None:
        for change in processed.result.changes:
            event = messages.object_event(change, processed.frame.source)
            event.camera = self._camera
            self._events.publish(event)

    def _create(
        self,
        message_type: type,
        topic: str,
        depth: int = 10,
        durability: DurabilityPolicy = DurabilityPolicy.VOLATILE,
    ) -> Any:
        return self._node.create_lifecycle_publisher(
            message_type,
            topic,
            QoSProfile(depth=depth, reliability=ReliabilityPolicy.RELIABLE, durability=durability),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )
