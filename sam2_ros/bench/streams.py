"""Several cameras share one inference server, each as fast as the server answers: their rates and batch sizes."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from sam2_ros.bench.moving_scene import moving_scene
from sam2_ros.bench.servers import ServerProcess, connected, serving
from sam2_ros.tracking import Prompt, PromptRequest, TrackerConfig

WIDTH, HEIGHT = 640, 480
READY_S = 600.0  # until all streams are connected
TIMEOUT_S = 120.0  # of a frame, which may wait for the frames of all other streams


@dataclass(frozen=True)
class StreamsRun:
    """What to measure."""

    streams: int
    seconds: float
    model: str = "null:5"  # 5 ms a frame
    options: Sequence[str] = ()  # for ``sam2_ros serve``


def measure_streams(run: StreamsRun) -> dict[str, Any]:
    """Rates by stream, and batches by size; ``fairness_jain`` is 1 if all rates are equal (Jain et al. 1984)."""
    ready = threading.Barrier(run.streams + 1)
    with serving("tcp://127.0.0.1:*", run.model, run.options) as server, ThreadPoolExecutor(run.streams) as pool:
        futures = [pool.submit(_track, server, run, index, ready) for index in range(run.streams)]
        ready.wait(READY_S)  # no stream has the server alone
        before = server.batches()
        times = [future.result() for future in futures]
        batches = server.batches() - before
    rates = [len(seconds) / sum(seconds) for seconds in times]
    jain = sum(rates) ** 2 / (run.streams * sum(rate**2 for rate in rates))
    p50, p99 = np.percentile(1e3 * np.concatenate(times), (50, 99)).round(1).tolist()
    return {
        "streams": run.streams,
        "model": run.model,
        "seconds": run.seconds,
        "image": [WIDTH, HEIGHT],
        "frames_per_second": [round(rate, 2) for rate in rates],
        "fairness_jain": round(jain, 4),
        "frame_ms": {"p50": p50, "p99": p99},
        "batches": dict(batches),
    }


def _track(server: ServerProcess, run: StreamsRun, index: int, ready: threading.Barrier) -> list[float]:
    """One camera with one object; returns the seconds of each frame. The last frame may end after ``run.seconds``."""
    scene = moving_scene(1, WIDTH, HEIGHT)
    times: list[float] = []
    with connected(server.endpoint, TrackerConfig(max_objects=1), timeout=TIMEOUT_S, pixels="raw") as client:
        client.step(scene.frame(index), 0)
        client.add([PromptRequest(Prompt(box=scene.boxes[0]))])
        ready.wait(READY_S)
        end = time.monotonic() + run.seconds
        while not times or time.monotonic() < end:
            start = time.monotonic()
            client.step(scene.frame(index + len(times) + 1), len(times) + 1)
            times.append(time.monotonic() - start)
    return times
