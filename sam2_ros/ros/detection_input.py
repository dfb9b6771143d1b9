"""Turns the detections of an upstream detector into prompts for one camera."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import asdict

from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.subscription import Subscription
from vision_msgs.msg import Detection2D, Detection2DArray

from sam2_ros.inference.detections import Detection, DetectionFeeder
from sam2_ros.inference.frames import Processed
from sam2_ros.inference.worker import Worker
from sam2_ros.ros.interface import DETECTIONS
from sam2_ros.ros.messages import box_edges, to_stamp
from sam2_ros.ros.node_parameters import NodeParameters
from sam2_ros.ros.parameters import detection_settings
from sam2_ros.tracking.types import PromptResult


class DetectionInput:
    """Subscribes to ``detections`` from :meth:`start` to :meth:`stop`."""

    def __init__(self, node: Node, parameters: NodeParameters, worker: Worker, camera: str = "") -> None:
        self._node = node
        self._parameters = parameters
        self._worker = worker
        self._topic = DETECTIONS.for_camera(camera)
        self._subscription: Subscription | None = None
        self._last_refusal = ""
        self._feeder = DetectionFeeder(int(parameters.number("tracker.history")))

    def start(self) -> None:
        self._subscription = self._node.create_subscription(
            Detection2DArray, self._topic, self._on_detections, QoSProfile(depth=DETECTIONS.depth)
        )

    def stop(self) -> None:
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None

    def note(self, processed: Processed) -> None:
        """Learns where the objects of a frame are; called in the inference thread."""
        self._feeder.note(processed.result)

    def forget(self) -> None:
        """Forgets the frames before a restart; called in the inference thread."""
        self._feeder.forget()

    def values(self) -> Mapping[str, object]:
        """For ``/diagnostics``."""
        counts = {f"detections {name.replace('_', ' ')}": count for name, count in asdict(self._feeder.counts).items()}
        return {**counts, "last refused detections": self._last_refusal}

    def _on_detections(self, message: Detection2DArray) -> None:
        detections = [from_message(detection) for detection in message.detections]
        stamp = to_stamp(message.header.stamp)
        settings = detection_settings(self._parameters.values)  # as they are now: they may be set at any time
        tolerance = self._parameters.number("tracker.history_tolerance")
        future = self._worker.call_on_frame(
            lambda backend: self._feeder.apply(backend, detections, stamp, settings, tolerance),
            stamp,
            self._parameters.number("prompts.wait"),
        )
        future.add_done_callback(self._report)

    def _report(self, done: Future[list[PromptResult]]) -> None:
        error = done.exception()
        refused = [str(error)] if error else [result.message for result in done.result() if not result.success]
        if refused:
            self._last_refusal = refused[0]
            self._node.get_logger().warning(
                f"{self._topic}: {refused[0]} (logged every 5 s at most)", throttle_duration_sec=5.0
            )


def from_message(message: Detection2D) -> Detection:
    """The hypothesis with the highest score; without any the label is empty and the score 1."""
    edges = box_edges(message.bbox)
    hypotheses = [result.hypothesis for result in message.results]
    best = max(hypotheses, key=lambda hypothesis: hypothesis.score, default=None)
    return Detection(edges, best.class_id, best.score) if best is not None else Detection(edges)
