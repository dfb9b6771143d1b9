"""Several cameras on one inference server, each as fast as it is answered: who gets how much, in which batches."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from sam2_ros.bench.scene import moving_scene
from sam2_ros.bench.servers import ServerProcess, connected, serving
from sam2_ros.tracking import AddRequest, Prompt, TrackerConfig

WIDTH, HEIGHT = 640, 480
READY_S = 600.0  # until all streams are there
TIMEOUT_S = 120.0  # for a frame: that of a network on a busy processor waits for those of all others


@dataclass(frozen=True)
class StreamsRun:
    """What is measured."""

    streams: int = 8
    seconds: float = 5.0
    model: str = "null:5"  # 5 ms a frame
    endpoint: str = "tcp://127.0.0.1:*"
    options: Sequence[str] = ()  # for ``sam2_ros serve``


def measure_streams(run: StreamsRun) -> dict[str, Any]:
    """Rates by stream; ``fairness_jain`` is 1 where all get the same (Jain et al. 1984); batches by their size."""
    ready = threading.Barrier(run.streams + 1)
    with (
        serving(run.endpoint, run.model, run.options) as server,
        ThreadPoolExecutor(run.streams) as pool,
    ):
        waiting = [pool.submit(_track, server, run, index, ready) for index in range(run.streams)]
        ready.wait(READY_S)  # nobody has the server alone
        before = server.batches()
        times = [each.result() for each in waiting]
        after = server.batches()
    rates = [len(each) / sum(each) for each in times]
    jain = sum(rates) ** 2 / (run.streams * sum(each**2 for each in rates))
    p50, p99 = np.percentile([1e3 * one for each in times for one in each], (50, 99)).round(1).tolist()
    return {
        "streams": run.streams,
        "model": run.model,
        "seconds": run.seconds,
        "image": [WIDTH, HEIGHT],
        "frames_per_second": [round(each, 2) for each in rates],
        "fairness_jain": round(jain, 4),
        "frame_ms": {"p50": p50, "p99": p99},
        "batches": {size: count - before.get(size, 0) for size, count in after.items() if count > before.get(size, 0)},
    }


def _track(server: ServerProcess, run: StreamsRun, index: int, ready: threading.Barrier) -> list[float]:
    """One camera with one object of its own; seconds of each frame, the last one may end after the time."""
    scene = moving_scene(1, WIDTH, HEIGHT)
    times: list[float] = []
    with connected(server.endpoint, TrackerConfig(max_objects=1), timeout=TIMEOUT_S, pixels="raw") as client:
        client.step(scene.frame(index), 0)
        client.add([AddRequest(Prompt(box=scene.boxes[0]))])
        ready.wait(READY_S)
        end = time.monotonic() + run.seconds
        while not times or time.monotonic() < end:
            start = time.monotonic()
            client.step(scene.frame(index + len(times) + 1), len(times) + 1)
            times.append(time.monotonic() - start)
    return times
