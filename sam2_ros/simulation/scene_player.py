"""The simulated scene over ROS 2: camera and tracker by their launch file, and a recorder of both."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, Image
from vision_msgs.msg import Detection3DArray

from sam2_ros.media.child_process import ChildProcess
from sam2_ros.media.errors import UserError
from sam2_ros.media.progress import bar
from sam2_ros.media.signals import signals_unwind
from sam2_ros.msg import ObjectPrompt, TrackedObject, TrackedObjectArray
from sam2_ros.ros.client_node import client_node, tracker_client
from sam2_ros.ros.dds_environment import environment
from sam2_ros.ros.image_conversion import depth_rows, to_rgb
from sam2_ros.ros.messages import bounding_box, full_mask, to_stamp
from sam2_ros.simulation.score import Sample, sample
from sam2_ros.srv import AddObjects
from sam2_ros.tracking.types import CroppedMask

NAMESPACE = "sam2_ros_simulation"
TRACKER = f"/{NAMESPACE}/tracker"
START_TIMEOUT_S = 180.0  # without output from the processes or a message
IDLE_S = 3.0  # without a new result after the last frame, all frames are processed
# The image last: the camera waits for its subscribers, and by then it knows the others.
TRUTH = {
    "camera_info": CameraInfo, "truth/label_image": Image, "truth/depth/image": Image,
    "truth/detections_3d": Detection3DArray, "image": Image,
}  # fmt: skip


@dataclass(frozen=True)
class Moment:
    """A tracked frame and its truth."""

    stamp: int  # ns
    rgb: NDArray[np.uint8]
    truth: Detection3DArray
    tracks: TrackedObjectArray
    samples: tuple[Sample, ...]


@dataclass
class Played:
    """The result of a run."""

    moments: list[Moment] = field(default_factory=list)
    matrix: tuple[float, ...] = ()  # the camera's K, row by row
    dropped: int = 0


def play(args: argparse.Namespace, played: Played) -> None:
    """Plays the scene once into ``played``, which holds what came also when this raises.

    All processes that it starts have ended when it returns or raises.

    Raises:
        UserError: a process has died, or the tracker refuses the prompts.
    """
    os.environ.update(environment())  # the transport of the launch files, for the recorder too
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    with (
        signals_unwind(),
        tempfile.TemporaryDirectory() as folder,
        client_node("recorder", namespace=NAMESPACE) as node,
        ChildProcess(_command(args, Path(folder)), args.out / "simulation.log") as processes,
        bar(args.frames, "frame", args.quiet, "simulation") as progress,
    ):
        recorder = Recorder(node, played)

        def check(deadline: float) -> None:
            processes.check()
            recorder.heard(processes.log)
            if problem := processes.error():
                raise UserError(f"{problem} (see {processes.log})")
            if time.monotonic() > deadline:
                raise UserError(f"no message for {START_TIMEOUT_S:.0f} s; see {processes.log}")
            progress.n = recorder.received
            progress.set_postfix_str(f"{len(played.moments)} tracked")

        recorder.add_objects(check)
        recorder.record(args.frames, check)


class Recorder:
    """Joins tracks and truth with equal stamps as soon as both are there."""

    def __init__(self, node: Node, played: Played) -> None:
        self.played = played
        self.received = 0  # frames of the camera
        self._node = node
        self._parts: dict[int, dict[str, Any]] = {}  # by stamp, the received messages of a frame
        self._tracks: dict[int, TrackedObjectArray] = {}
        self._processed: set[int] = set()  # stamps that the tracker knows
        self._names: dict[str, int] = {}  # true ids by name
        self._last_time = time.monotonic()
        self._log_size = 0  # bytes
        qos = QoSProfile(depth=20)
        for topic, message_type in TRUTH.items():
            node.create_subscription(message_type, f"/{NAMESPACE}/{topic}", partial(self._on_part, topic), qos)
        node.create_subscription(TrackedObjectArray, f"{TRACKER}/tracks", self._on_tracks, qos)

    def add_objects(self, check: Callable[[float], None]) -> None:
        """Prompts each object by its true box, on the first frame that the tracker has processed.

        Raises:
            UserError: the tracker refuses.
        """

        def ready() -> dict[str, Any] | None:
            whole = (stamp for stamp in sorted(self._processed) if len(self._parts.get(stamp, ())) == len(TRUTH))
            return next((self._parts[stamp] for stamp in whole), None)

        first = self._wait(ready, check)
        labels = _values(first["truth/label_image"])
        bodies = first["truth/detections_3d"].detections
        self._names = {body.results[0].hypothesis.class_id: int(body.id) for body in bodies}
        self.played.matrix = tuple(first["camera_info"].k)
        prompts = [
            ObjectPrompt(name=name, box=[bounding_box(CroppedMask.from_full(labels == number).box)])
            for name, number in self._names.items()
            if (labels == number).any()
        ]
        client = tracker_client(
            self._node, AddObjects, TRACKER, "add_objects", START_TIMEOUT_S, lambda: self._turn(check)
        )
        answer = client.call_async(AddObjects.Request(request_header=first["image"].header, prompts=prompts))
        self._wait(answer.done, check)
        if not answer.result().success:
            reasons = "; ".join(result.message for result in answer.result().results if not result.success)
            raise UserError(f"the tracker refused the objects: {reasons}")

    def heard(self, log: Path) -> None:
        """Counts output in ``log`` as a sign of life: the camera logs the progress of its rendering."""
        size = log.stat().st_size
        if size != self._log_size and not self.received:
            self._log_size, self._last_time = size, time.monotonic()

    def record(self, frames: int, check: Callable[[float], None]) -> None:
        """Records until the tracker has processed the camera's last frame."""
        self._wait(lambda: self.received >= frames and time.monotonic() - self._last_time > IDLE_S, check)
        if not self.played.moments:
            raise UserError("no frame was tracked")

    def _wait(self, condition: Callable[[], Any], check: Callable[[float], None]) -> Any:
        while not (value := condition()):
            self._turn(check)
        return value

    def _turn(self, check: Callable[[float], None]) -> None:
        rclpy.spin_once(self._node, timeout_sec=0.1)
        check(self._last_time + START_TIMEOUT_S)

    def _on_part(self, topic: str, message: Any) -> None:
        stamp = to_stamp(message.header.stamp)
        self._parts.setdefault(stamp, {})[topic] = message
        self.received += topic == "image"
        self._last_time = time.monotonic()
        self._join(stamp)

    def _on_tracks(self, tracks: TrackedObjectArray) -> None:
        self._last_time = time.monotonic()
        self.played.dropped = int(tracks.frames_dropped)
        stamp = to_stamp(tracks.header.stamp)
        self._processed.add(stamp)
        if tracks.objects:
            self._tracks[stamp] = tracks
            self._join(stamp)

    def _join(self, stamp: int) -> None:
        parts, tracks = self._parts.get(stamp, {}), self._tracks.get(stamp)
        if tracks is None or len(parts) < len(TRUTH):
            return
        self._parts = {later: kept for later, kept in self._parts.items() if later > stamp}
        del self._tracks[stamp]
        labels, (depth, _) = _values(parts["truth/label_image"]), depth_rows(parts["truth/depth/image"])
        truth = parts["truth/detections_3d"]
        depth = np.nan_to_num(depth)
        samples = tuple(self._sample(obj, truth, labels, depth) for obj in tracks.objects if not obj.prompted)
        self.played.moments.append(Moment(stamp, to_rgb(parts["image"]), truth, tracks, samples))

    def _sample(
        self, obj: TrackedObject, truth: Detection3DArray, labels: NDArray[np.uint16], depth: NDArray[np.float32]
    ) -> Sample:
        number = self._names[obj.name]
        body = next(detection for detection in truth.detections if int(detection.id) == number)
        ok = obj.depth_status == TrackedObject.DEPTH_OK
        visible = obj.state == TrackedObject.STATE_VISIBLE
        return sample(
            obj.name, number, body.results[0].hypothesis.score, vector(body.bbox.center.position), labels, depth,
            self.played.matrix, full_mask(obj.mask) if visible else None,
            vector(obj.position) if ok else None, vector(obj.extent) if ok else None,
        )  # fmt: skip


def vector(message: Any) -> NDArray[np.float64]:
    """A ``Point`` or ``Vector3`` as an array."""
    return np.array([message.x, message.y, message.z])


def _values(image: Image) -> NDArray[np.uint16]:
    return np.frombuffer(image.data, "<u2").reshape(image.height, image.width)


def _command(args: argparse.Namespace, folder: Path) -> list[str]:
    parameters = folder / "simulation.yaml"
    model = f"model: {{dtype: {args.dtype}, threads: {args.threads}}}"
    parameters.write_text(f"/**:\n  ros__parameters:\n    {model}\n", encoding="utf-8")
    arguments = {
        "namespace": NAMESPACE, "params_file": parameters, "model": args.model, "device": args.device,
        "seed": args.seed, "frames": args.frames, "rate": args.rate, "speed": args.speed,
        "width": args.size[0], "height": args.size[1],
        "noise": args.noise, "depth_encoding": args.depth_encoding, "render_ahead": "true", "stamps": "frame",
        "subscribers": 2,  # tracker and recorder
    }  # fmt: skip
    if args.models:
        arguments["models"] = args.models.absolute()
    return ["ros2", "launch", "sam2_ros", "sim.launch.py", *(f"{name}:={value}" for name, value in arguments.items())]
