"""Turns the detections of an upstream detector into prompts for one camera, while they are for its images."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import asdict

from rclpy.node import Node
from rclpy.serialization import deserialize_message
from vision_msgs.msg import Detection2DArray

from sam2_ros.inference.backend import Backend
from sam2_ros.inference.detections import MAX_DETECTIONS, DetectionFeeder
from sam2_ros.inference.frames import Processed
from sam2_ros.inference.worker import Worker
from sam2_ros.ros.detection_message import from_message
from sam2_ros.ros.interface import DETECTIONS
from sam2_ros.ros.messages import to_stamp
from sam2_ros.ros.node_parameters import NodeParameters
from sam2_ros.ros.parameters import detection_settings
from sam2_ros.ros.subscription import FollowingSubscription
from sam2_ros.text import printable
from sam2_ros.tracking.prompt_checks import check_count
from sam2_ros.tracking.types import PromptCode, PromptError, PromptResult

MAX_BYTES = 1 << 20  # of a message; a box has about 430 with one hypothesis, and rclpy takes 0.3 ms to read it


class DetectionInput:
    """Subscribes to ``detections`` from :meth:`start` to :meth:`stop`."""

    def __init__(self, node: Node, parameters: NodeParameters, worker: Worker, camera: str = "") -> None:
        self._node = node
        self._parameters = parameters
        self._worker = worker
        self._topic = DETECTIONS.for_camera(camera)
        self._subscription: FollowingSubscription | None = None
        self._last_refusal = ""
        self._frame_id = ""  # of the newest processed image
        self._feeder = DetectionFeeder(int(parameters.number("tracker.history")))

    def start(self) -> None:
        self._subscription = FollowingSubscription(
            self._node, Detection2DArray, self._topic, self._on_message, lambda: "auto", DETECTIONS.depth, raw=True
        )

    def stop(self) -> None:
        if self._subscription is not None:
            self._subscription.destroy()
            self._subscription = None

    def note(self, processed: Processed) -> None:
        """Learns where the objects of a frame are; called in the inference thread."""
        self._frame_id = processed.frame.source.frame_id
        self._feeder.note(processed.result)

    def forget(self) -> None:
        """Forgets the frames before a restart; called in the inference thread."""
        self._feeder.forget()

    def values(self) -> Mapping[str, object]:
        """For ``/diagnostics``."""
        counts = {f"detections {name.replace('_', ' ')}": count for name, count in asdict(self._feeder.counts).items()}
        return {**counts, "last refused detections": self._last_refusal}

    def _on_message(self, serialized: bytes) -> None:
        if len(serialized) <= MAX_BYTES:
            return self._on_detections(deserialize_message(serialized, Detection2DArray))
        self._worker.call(lambda backend: self._feeder.refuse(1))
        size = f"a message has {len(serialized)} bytes; accepted: up to {MAX_BYTES}"
        self._tell(f"{size}; send fewer boxes, or fewer hypotheses of each")

    def _on_detections(self, message: Detection2DArray) -> None:
        count, stamp, frame_id = len(message.detections), to_stamp(message.header.stamp), message.header.frame_id
        detections = [from_message(detection) for detection in message.detections[:MAX_DETECTIONS]]
        settings = detection_settings(self._parameters.values)  # as they are now: they may be set at any time
        tolerance = self._parameters.number("tracker.history_tolerance")

        def apply(backend: Backend) -> list[PromptResult]:
            try:
                check_count("detections", count, MAX_DETECTIONS)
                self._check_frame(frame_id)
            except PromptError:
                self._feeder.refuse(count)
                raise
            return self._feeder.apply(backend, detections, stamp, settings, tolerance)

        wait = self._parameters.number("prompts.wait")
        self._worker.call_on_frame(apply, stamp, wait).add_done_callback(self._report)

    def _check_frame(self, frame_id: str) -> None:
        """Refuses detections of another camera; an empty frame may be any."""
        if frame_id and frame_id != self._frame_id:
            raise PromptError(
                PromptCode.INVALID_PROMPT,
                f"the detections are in the frame '{printable(frame_id)}', the images in '{self._frame_id}'; let the "
                f"detector copy the image's header, or remap '{self._topic}' to the detector of this camera",
            )

    def _report(self, done: Future[list[PromptResult]]) -> None:
        error = done.exception()
        refused = [error] if error else [result.message for result in done.result() if not result.success]
        if refused:
            self._tell(printable(refused[0], 500))

    def _tell(self, refusal: str) -> None:
        self._last_refusal = refusal
        self._node.get_logger().warning(
            f"{self._topic}: {refusal} (logged every 5 s at most)", throttle_duration_sec=5.0
        )
