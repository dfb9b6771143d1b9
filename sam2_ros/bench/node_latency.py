"""Latency from the stamp of an image to its masks in another process: three processes over DDS.

A camera (:mod:`sam2_ros.bench.node_camera`), the tracker through its launch file, and this process, which receives
``~/tracks``, and in turns ``~/tracks_live``, too. All run on one machine, so that their clocks agree.
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
from sam2_ros.media.child_process import ChildProcess
from sam2_ros.media.errors import UserError
from sam2_ros.media.signals import signals_unwind
from sam2_ros.msg import ObjectPrompt, TrackedObjectArray
from sam2_ros.ros.client_node import client_node, tracker_client, wait_until_active
from sam2_ros.ros.dds_environment import environment
from sam2_ros.ros.messages import bounding_box, to_stamp
from sam2_ros.srv import AddObjects

NAMESPACE = "sam2_ros_bench"
TRACKER = f"/{NAMESPACE}/tracker"
PATIENCE = 120.0  # timeout for the node to load, and for a frame to arrive, seconds
SETTLE = 30  # frames before measuring
TURNS = 4  # without live masks, and as many with them
TURN = 40  # processed frames of a turn that are measured
UNMEASURED = 8  # frames at the start of a turn, while the subscription is made or ends
PARTS = ("to the node", "waiting and decoding", "engine", "to the client")


@dataclass(frozen=True)
class NodeRun:
    """One measurement: ``model`` "null" shows the latency of the node itself."""

    model: str
    width: int  # pixels of the camera's image
    height: int
    objects: int
    frames: int
    rate: float = 30.0  # Hz
    transport: str = "shared_memory"


def measure(run: NodeRun, tell: Callable[[str], None]) -> dict[str, Any]:
    """Runs the three processes and returns the entry of ``--json``.

    Raises:
        UserError: the node did not start, refused the objects, or sent nothing.
    """
    os.environ.update(environment(run.transport))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    receiver_node = client_node("receiver", namespace=NAMESPACE)
    with signals_unwind(), tempfile.TemporaryDirectory() as folder, receiver_node as node:
        arguments = (f"namespace:={NAMESPACE}", f"model:={run.model}", f"transport:={run.transport}")
        command = ["ros2", "launch", "sam2_ros", "tracker.launch.py", *arguments]
        with ChildProcess(command, Path(folder, "node.log")) as tracker:
            tell(f"{run.model}, {run.width}x{run.height}: starting the node")
            wait_until_active(node, TRACKER, tracker, PATIENCE)
            command = camera_command(NAMESPACE, run.width, run.height, run.rate, run.objects)
            with ChildProcess(command, Path(folder, "camera.log")) as camera:
                receiver = _Receiver(node, camera)
                receiver.add_objects(moving_scene(run.objects, run.width, run.height))
                tell(f"{run.model}, {run.width}x{run.height}: measuring {run.frames} frames")
                receiver.collect(SETTLE)
                before = receiver.counters
                receiver.collect(run.frames)
                rows, after = np.array(receiver.rows) / 1e6, receiver.counters
                tell(f"{run.model}, {run.width}x{run.height}: measuring live masks")
                live = _measure_live(receiver)
    return _summary(run, rows, before, after) | {"live": live}


def _measure_live(receiver: _Receiver) -> dict[str, Any]:
    """Live masks beside the engine, and the engine's rate with and without them, in turns."""
    periods: dict[bool, list[float]] = {False: [], True: []}  # of the engine, ms
    ages: list[float] = []
    images = 0
    for live in (False, True) * TURNS:
        receiver.follow_live(live)
        receiver.collect(UNMEASURED)
        receiver.live.clear()
        before = receiver.counters[0]
        receiver.collect(TURN)
        ends = [row[-1] for row in receiver.rows]
        periods[live].append((ends[-1] - ends[0]) / (TURN - 1) / 1e6)
        if live:
            images += receiver.counters[0] - before
            ages += [age / 1e6 for age, objects in receiver.live if objects]
    receiver.follow_live(False)
    if not ages:
        raise UserError(f"{TRACKER}/tracks_live brought no masks; see /diagnostics for the reason")
    with_live, without = np.array(periods[True]), np.array(periods[False])
    return {
        "images": images,
        "share": round(len(ages) / images, 4),  # of the images that the node received
        "ms": percentiles(ages),  # camera to live mask
        "engine_rate": {
            name: round(1e3 / float(np.mean(each)), 2) for name, each in (("without", without), ("with", with_live))
        },
        "engine_slower": round(float(np.median(with_live / without)) - 1, 3),
    }


def _summary(run: NodeRun, rows: Any, before: tuple[int, int, int], after: tuple[int, int, int]) -> dict[str, Any]:
    """``rows`` ``[frames, 6]``: camera to mask in ms, then :data:`PARTS`, then when it came."""
    received, processed, dropped = (b - a for a, b in zip(before, after, strict=True))
    columns = {"camera to mask": rows[:, 0], "overhead": rows[:, 0] - rows[:, 2] - rows[:, 3]}
    columns |= dict(zip(PARTS, rows.T[1:-1], strict=True))
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

    def __init__(self, node: Node, camera: ChildProcess) -> None:
        self._node, self._camera = node, camera
        self.rows: list[tuple[int, ...]] = []  # ns: camera to mask, then PARTS, then when it came
        self.live: list[tuple[int, int]] = []  # ns from camera to live mask, number of objects
        self.counters = (0, 0, 0)  # frames received, processed, dropped
        self._objects = 0  # added
        self._live: Any = None  # subscription
        self._qos = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
        node.create_subscription(TrackedObjectArray, f"{TRACKER}/tracks", self._on_tracks, self._qos)

    def follow_live(self, live: bool) -> None:
        """Subscribes to live masks, or no longer: the node makes them while somebody does."""
        if live and self._live is None:
            topic = f"{TRACKER}/tracks_live"
            self._live = self._node.create_subscription(TrackedObjectArray, topic, self._on_live, self._qos)
        elif not live and self._live is not None:
            self._node.destroy_subscription(self._live)
            self._live = None

    def _on_live(self, tracks: TrackedObjectArray) -> None:
        self.live.append((time.time_ns() - to_stamp(tracks.header.stamp), len(tracks.objects)))

    def _on_tracks(self, tracks: TrackedObjectArray) -> None:
        now, steady = time.time_ns(), time.monotonic_ns()
        self.counters = (tracks.frames_received, tracks.frames_processed, tracks.frames_dropped)
        if len(tracks.objects) < self._objects or not self._objects:
            return
        # The camera stamps with the system's clock, the node's times are of the steady one.
        times = [to_stamp(tracks.header.stamp) + steady - now]
        times += [tracks.receive_time_ns, tracks.start_time_ns, tracks.end_time_ns, steady]
        self.rows.append((times[-1] - times[0], *np.diff(times).tolist(), steady))

    def add_objects(self, scene: MovingScene) -> None:
        self._spin(lambda: self.counters[1] > 0)  # a prompt waits only briefly for a frame
        prompt_scene(self._node, TRACKER, scene, self._spin)
        self._objects = len(scene.boxes)

    def collect(self, frames: int) -> None:
        """Replaces the rows by those of the next ``frames`` frames."""
        self.rows.clear()
        self._spin(lambda: len(self.rows) >= frames)

    def _spin(self, until: Callable[[], bool]) -> None:
        newest, deadline = len(self.rows), time.monotonic() + PATIENCE
        while not until():
            rclpy.spin_once(self._node, timeout_sec=0.1)
            self._camera.check()
            if len(self.rows) != newest:
                newest, deadline = len(self.rows), time.monotonic() + PATIENCE
            if time.monotonic() > deadline:
                raise UserError(f"no tracks for {PATIENCE:.0f} s; run sam2_ros track to see whether the tracker works")


def camera_command(namespace: str, width: int, height: int, rate: float, objects: int) -> list[str]:
    """Starts the camera of the moving scene."""
    options = {"width": width, "height": height, "rate": float(rate), "objects": objects}
    parameters = [word for name, value in options.items() for word in ("-p", f"{name}:={value}")]
    command = [sys.executable, "-m", "sam2_ros.bench.node_camera"]
    return [*command, "--ros-args", "-r", f"__ns:=/{namespace}", *parameters]
