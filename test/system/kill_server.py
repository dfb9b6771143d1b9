#!/usr/bin/env python3
"""Kills the inference server of a launched node again and again, and measures the recovery.

    python test/system/kill_server.py --kills 20 --json kills.json --plot kills.png

A camera at 30 Hz, the node through its launch file, and `sam2_ros serve` are processes of their own. At a random
moment the server gets SIGKILL and is restarted, as a service manager would do. Recovery ends when the first
~/tracks arrives here with every object VISIBLE again. Exit code 0: the node survived and kept every id.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from matplotlib.figure import Figure
from rclpy.node import Node
from rclpy.qos import QoSProfile

from sam2_ros.bench.moving_scene import moving_scene
from sam2_ros.bench.node_latency import camera_command, prompt_scene
from sam2_ros.bench.servers import ServerProcess
from sam2_ros.evaluation.summary import machine
from sam2_ros.media.child_process import ChildProcess
from sam2_ros.media.progress import bar
from sam2_ros.media.signals import signals_unwind
from sam2_ros.msg import TrackedObject, TrackedObjectArray
from sam2_ros.ros.client_node import client_node, wait_until_active
from sam2_ros.ros.dds_environment import environment

NAMESPACE = "sam2_ros_kills"
TRACKER = f"/{NAMESPACE}/tracker"
WIDTH, HEIGHT = 640, 480
PATIENCE = 120.0  # s, timeout for the node to start, and for a recovery


@dataclass(frozen=True)
class Run:
    """Settings of a run."""

    kills: int = 20
    model: str = "null"
    objects: int = 3
    rate: float = 30.0  # Hz
    spread: float = 1.5  # s; a kill comes at a random moment within this time
    seed: int = 0


class Watcher:
    """Receives the node's tracks."""

    def __init__(self, node: Node, launched: ChildProcess) -> None:
        self._node = node
        self._launched = launched
        self.newest: TrackedObjectArray | None = None
        node.create_subscription(TrackedObjectArray, f"{TRACKER}/tracks", self._on_tracks, QoSProfile(depth=10))

    def _on_tracks(self, tracks: TrackedObjectArray) -> None:
        self.newest = tracks

    @property
    def ids(self) -> list[int]:
        return [obj.id for obj in self.newest.objects] if self.newest else []

    @property
    def dropped(self) -> int:
        return int(self.newest.frames_dropped) if self.newest else 0

    def seen_since(self, moment: int) -> bool:
        """Whether every object is visible on a frame tracked after ``moment`` (ns, time.monotonic_ns())."""
        newest = self.newest
        return (
            newest is not None
            and newest.end_time_ns > moment
            and bool(newest.objects)
            and all(obj.state == TrackedObject.STATE_VISIBLE for obj in newest.objects)
        )

    def spin(self, until: Callable[[], bool], what: str) -> None:
        """Spins until ``until()`` is true.

        Raises:
            TimeoutError: it stayed false; the message names ``what``.
            UserError: launch has ended.
        """
        deadline = time.monotonic() + PATIENCE
        while not until():
            rclpy.spin_once(self._node, timeout_sec=0.02)
            self._launched.check()
            if time.monotonic() > deadline:
                raise TimeoutError(f"timeout after {PATIENCE:g} s: {what}")

    def add(self, objects: int) -> None:
        self.spin(lambda: self.newest is not None, "the first image")
        scene = moving_scene(objects, WIDTH, HEIGHT)
        prompt_scene(self._node, TRACKER, scene, lambda until: self.spin(until, "an answer of add_objects"))
        self.spin(lambda: len(self.ids) == objects, "tracks of the objects")


def measure(run: Run, quiet: bool = False) -> dict[str, Any]:
    """Runs it; the result is what ``--json`` writes."""
    os.environ.update(environment())
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    chance, rows = random.Random(run.seed), []
    load = os.getloadavg()[0]
    with signals_unwind(), tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(1) as starter:
        folder, endpoint = Path(name), f"ipc://{name}/server"
        server = ServerProcess(endpoint, run.model)
        try:
            with (
                client_node("watcher", namespace=NAMESPACE) as node,
                ChildProcess(_tracker_command(folder, endpoint), folder / "node.log") as launched,
            ):
                watcher = Watcher(node, launched)
                wait_until_active(node, TRACKER, launched, PATIENCE)
                command = camera_command(NAMESPACE, WIDTH, HEIGHT, run.rate, run.objects)
                with (
                    ChildProcess(command, folder / "camera.log") as camera,
                    bar(run.kills, "kill", quiet) as progress,
                ):
                    watcher.add(run.objects)
                    for _ in range(run.kills):
                        server, row = _kill(watcher, server, endpoint, run, starter, chance)
                        rows.append(row)
                        progress.update()
                        camera.check()
                    launched.check()
            log = (folder / "node.log").read_text(encoding="utf-8", errors="replace")
        finally:
            server.end()
    return {"date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), "machine": machine(), "load_before": load,
            "model": run.model, "image": [WIDTH, HEIGHT], "rate_hz": run.rate, "objects": run.objects,
            "kills": rows, **_summary(rows, log)}  # fmt: skip


def _kill(
    watcher: Watcher, server: ServerProcess, endpoint: str, run: Run, starter: ThreadPoolExecutor, chance: random.Random
) -> tuple[ServerProcess, dict[str, Any]]:
    """Kills the server at a random moment of tracking; returns the new server and the measurement."""
    moment = time.monotonic() + chance.uniform(0.2, run.spread)
    watcher.spin(lambda: time.monotonic() > moment, "the moment")
    ids, dropped = watcher.ids, watcher.dropped
    server.kill()
    start = time.monotonic_ns()

    def begin() -> tuple[ServerProcess, int]:
        return ServerProcess(endpoint, run.model), time.monotonic_ns()

    starting = starter.submit(begin)
    try:
        watcher.spin(lambda: watcher.seen_since(start), "the objects to be seen again")
        end = time.monotonic_ns()
    finally:
        new, ready = starting.result()
    return new, {
        "recovery_s": round((end - start) / 1e9, 3),
        "of_which_start_s": round((ready - start) / 1e9, 3),
        "frames_dropped": watcher.dropped - dropped,
        "ids_kept": watcher.ids == ids,
    }


def _summary(rows: list[dict[str, Any]], log: str) -> dict[str, Any]:
    p50, p90 = np.percentile([row["recovery_s"] for row in rows], (50, 90)).round(2).tolist()
    return {
        "recovery_s": {"p50": p50, "p90": p90, "max": round(max(row["recovery_s"] for row in rows), 2)},
        "start_s_p50": round(float(np.median([row["of_which_start_s"] for row in rows])), 2),
        "frames_dropped": sum(row["frames_dropped"] for row in rows),
        "ids_kept": sum(row["ids_kept"] for row in rows),
        "node_starts": sum("[tracker-" in line and "process started" in line for line in log.splitlines()),
        "node_crashes": log.count("process has died") + log.count("Traceback"),
        "node_ended_cleanly": "process has finished cleanly" in log,
    }


def _tracker_command(folder: Path, endpoint: str) -> list[str]:
    file = folder / "parameters.yaml"
    file.write_text(f"/**:\n  ros__parameters:\n    inference.endpoint: '{endpoint}'\n", encoding="utf-8")
    arguments = (f"namespace:={NAMESPACE}", f"params_file:={file}")
    return ["ros2", "launch", "sam2_ros", "tracker.launch.py", *arguments]


def table(measured: dict[str, Any]) -> str:
    """A line for each death, and a summary."""
    lines = ["kill  recovery [s]  of which the server's start [s]  frames dropped  ids kept"]
    for number, row in enumerate(measured["kills"], 1):
        lines.append(f"{number:4}  {row['recovery_s']:12.2f}  {row['of_which_start_s']:31.2f}  "
                     f"{row['frames_dropped']:14}  {'yes' if row['ids_kept'] else 'NO'}")  # fmt: skip
    recovery = measured["recovery_s"]
    lines.append(
        f"{len(measured['kills'])} kills: recovery p50 {recovery['p50']} s, p90 {recovery['p90']} s, max "
        f"{recovery['max']} s; ids kept {measured['ids_kept']} times; {measured['frames_dropped']} frames dropped; the "
        f"node was started {measured['node_starts']} time(s) and crashed {measured['node_crashes']} times"
    )
    return "\n".join(lines)


def plot(measured: dict[str, Any], path: Path) -> None:
    """A bar for each death: the new server's start (dark), and the whole recovery."""
    numbers = range(1, len(measured["kills"]) + 1)
    figure = Figure(figsize=(9, 1.2 + 0.25 * len(numbers)), layout="constrained")
    axes = figure.subplots()
    whole = axes.barh(numbers, [row["recovery_s"] for row in measured["kills"]], color="tab:blue", alpha=0.4)
    axes.barh(numbers, [row["of_which_start_s"] for row in measured["kills"]], color="tab:blue")
    axes.bar_label(whole, fmt="%.2f")
    axes.invert_yaxis()
    axes.set(xlabel="seconds from SIGKILL to tracks of every object; dark: start of the new server", ylabel="kill")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, metavar="N", help="default: 20")
    parser.add_argument("--model", default="null", help="of the server; null (default) computes nothing, or embedded")
    parser.add_argument("--objects", type=int, default=3, metavar="N", help="default: 3")
    parser.add_argument("--rate", type=float, default=30.0, metavar="HZ", help="of the camera (default: 30)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report here")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the recoveries")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    args = parser.parse_args()
    measured = measure(Run(args.kills, args.model, args.objects, args.rate, seed=args.seed), args.quiet)
    print(table(measured))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    if args.plot:
        plot(measured, args.plot)
    well = measured["ids_kept"] == args.kills and not measured["node_crashes"] and measured["node_starts"] == 1
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
