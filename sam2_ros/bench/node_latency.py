"""Latency from the stamp of an image to its masks in another process: three processes over DDS.

A camera (:mod:`sam2_ros.bench.node_camera`), the tracker through its launch file, and this process, which receives
``~/tracks``. All run on one machine, so that their clocks agree.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy

from sam2_ros.bench.measure import percentiles
from sam2_ros.bench.moving_scene import MovingScene, moving_scene
from sam2_ros.media.child_process import ChildProcess, signals_unwind
from sam2_ros.media.errors import UserError
from sam2_ros.msg import ObjectPrompt, TrackedObjectArray
from sam2_ros.ros.client_node import client_node, tracker_client, wait_until_active
from sam2_ros.ros.dds_environment import environment
from sam2_ros.ros.messages import bounding_box, to_stamp
from sam2_ros.srv import AddObjects

NAMESPACE = "sam2_ros_bench"
TRACKER = f"/{NAMESPACE}/tracker"
PATIENCE = 120.0  # timeout for the node to load, and for a frame to arrive, seconds
SETTLE = 30  # frames before measuring
PARTS = ("to the node", "waiting and decoding", "engine", "to the client")


@dataclass(frozen=True)
class NodeRun:
    """One measurement: ``model`` "null" shows the latency of the node itself."""

    model: str
    width: int  # pixels of the camera's image
    height: int
    objects: int = 1
    rate: float = 30.0  # Hz
    frames: int = 300
    transport: str = "shared_memory"


def measure(run: NodeRun, tell: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Runs the three processes and returns the entry of ``--json``.

    Raises:
        UserError: the node did not start, refused the objects, or sent nothing.
    """
    os.environ.update(environment(run.transport))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    with (
        signals_unwind(),
        tempfile.TemporaryDirectory() as folder,
        client_node("receiver", namespace=NAMESPACE) as node,
    ):
        receiver = _Receiver(node)
        with ChildProcess(_tracker_command(run), Path(folder, "node.log")) as tracker:
            tell(f"{run.model}, {run.width}x{run.height}: starting the node")
            wait_until_active(node, TRACKER, tracker, PATIENCE)
            command = camera_command(NAMESPACE, run.width, run.height, run.rate, run.objects)
            with ChildProcess(command, Path(folder, "camera.log")) as camera:
                receiver.add_objects(run, camera)
                tell(f"{run.model}, {run.width}x{run.height}: measuring {run.frames} frames")
                receiver.collect(SETTLE, camera)
                receiver.rows.clear()
                before = receiver.counters
                receiver.collect(run.frames, camera)
    return _summary(run, np.array(receiver.rows) / 1e6, before, receiver.counters)


def _summary(run: NodeRun, rows: Any, before: tuple[int, int, int], after: tuple[int, int, int]) -> dict[str, Any]:
    """``rows`` ``[frames, 5]``: camera to mask in ms, then :data:`PARTS`."""
    received, processed, dropped = (b - a for a, b in zip(before, after, strict=True))
    overhead = rows[:, 0] - rows[:, 2] - rows[:, 3]
    columns = {"camera to mask": rows[:, 0], "overhead": overhead}
    columns |= {name: rows[:, 1 + index] for index, name in enumerate(PARTS)}
    return {
        "model": run.model,
        "image": [run.width, run.height],
        "objects": run.objects,
        "rate": run.rate,
        "transport": run.transport,
        "qos": "images and tracks reliable; keep last 1 at the camera and the node",
        "frames": len(rows),
        "received": received,
        "processed": processed,
        "dropped": dropped,
        "ms": {name: percentiles(values) for name, values in columns.items()},
    }


def prompt_scene(node: Node, tracker: str, scene: MovingScene, spin: Callable[[Callable[[], bool]], None]) -> None:
    """Adds every object of the scene by its box; ``spin`` spins ``node`` until its argument returns true.

    Raises:
        UserError: the tracker refused them, or does not run.
    """
    client = tracker_client(node, AddObjects, tracker, "add_objects", PATIENCE)
    prompts = [ObjectPrompt(box=[bounding_box((x0, y0, x1, y1))]) for x0, y0, x1, y1 in scene.boxes.tolist()]
    answer = client.call_async(AddObjects.Request(prompts=prompts))
    spin(answer.done)
    if not answer.result().success:
        raise UserError(f"the tracker refused the objects: {answer.result().message}")


class _Receiver:
    """The client of the node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.rows: list[tuple[int, ...]] = []  # ns, see _summary
        self.counters = (0, 0, 0)
        self._objects = 0
        qos = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
        node.create_subscription(TrackedObjectArray, f"{TRACKER}/tracks", self._on_tracks, qos)

    def _on_tracks(self, tracks: TrackedObjectArray) -> None:
        now, steady = time.time_ns(), time.monotonic_ns()
        offset = now - steady  # from the node's steady clock to the camera's
        stamp = to_stamp(tracks.header.stamp)
        self.counters = (tracks.frames_received, tracks.frames_processed, tracks.frames_dropped)
        if len(tracks.objects) < self._objects or not self._objects:
            return
        self.rows.append(
            (
                now - stamp,
                tracks.receive_time_ns + offset - stamp,
                tracks.start_time_ns - tracks.receive_time_ns,
                tracks.end_time_ns - tracks.start_time_ns,
                steady - tracks.end_time_ns,
            )
        )

    def add_objects(self, run: NodeRun, camera: ChildProcess) -> None:
        self._spin(lambda: self.counters[1] > 0, camera)  # a prompt waits only briefly for a frame
        prompt_scene(
            self._node, TRACKER, moving_scene(run.objects, run.width, run.height),
            lambda until: self._spin(until, camera),
        )  # fmt: skip
        self._objects = run.objects

    def collect(self, frames: int, camera: ChildProcess) -> None:
        wanted = len(self.rows) + frames
        self._spin(lambda: len(self.rows) >= wanted, camera)

    def _spin(self, until: Callable[[], bool], camera: ChildProcess) -> None:
        newest, deadline = len(self.rows), time.monotonic() + PATIENCE
        while not until():
            rclpy.spin_once(self._node, timeout_sec=0.1)
            camera.check()
            if len(self.rows) != newest:
                newest, deadline = len(self.rows), time.monotonic() + PATIENCE
            if time.monotonic() > deadline:
                raise UserError(f"no tracks for {PATIENCE:.0f} s; run sam2_ros track to see whether the tracker works")


def _tracker_command(run: NodeRun) -> list[str]:
    arguments = {"namespace": NAMESPACE, "model": run.model, "transport": run.transport}
    return ["ros2", "launch", "sam2_ros", "tracker.launch.py", *(f"{k}:={v}" for k, v in arguments.items())]


def camera_command(namespace: str, width: int, height: int, rate: float, objects: int) -> list[str]:
    """Starts the camera of the moving scene."""
    options = {"width": width, "height": height, "rate": float(rate), "objects": objects}
    parameters = [word for name, value in options.items() for word in ("-p", f"{name}:={value}")]
    module = "sam2_ros.bench.node_camera"
    return [sys.executable, "-m", module, "--ros-args", "-r", f"__ns:=/{namespace}", *parameters]
