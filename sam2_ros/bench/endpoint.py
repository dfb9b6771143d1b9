"""``sam2_ros bench --endpoint``: overhead of an inference server, how streams share it, recovery from its death.

The servers that it starts have an engine that computes nothing; it needs no torch.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam2_ros.bench.moving_scene import Rgb
from sam2_ros.bench.servers import ServerProcess, connected, serving
from sam2_ros.bench.streams import StreamsRun, measure_streams
from sam2_ros.evaluation.summary import machine
from sam2_ros.inference import Backend, NullBackend
from sam2_ros.inference.backend import FrameDropped
from sam2_ros.tracking import Prompt, PromptRequest

SIZES = ("640x480", "1280x720")  # of the camera's image, pixels
WARM_UP = 20  # frames that are not counted
CAMERA_S = 0.03  # until a camera's next image

Tell = Callable[[str], None]


def measure(endpoint: str, frames: int, streams: StreamsRun, times: int, tell: Tell) -> dict[str, Any]:
    """Measures an inference server; the result is what ``--json`` writes.

    Args:
        endpoint: a running server, of which only the steps are measured; "": servers of our own.
        frames: of each way and size; 0: only the streams are measured.
        streams: that share a server.
        times: that a server is killed.
        tell: receives progress messages.

    Raises:
        ConnectionError: ``endpoint`` does not answer.
        RuntimeError: a server of our own does not start.
    """
    measured: dict[str, Any] = {"date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), "machine": machine()}
    if endpoint:
        return measured | {"steps": steps(endpoint, frames, tell)}
    with tempfile.TemporaryDirectory() as name:
        if frames:
            measured["overhead"] = overhead(Path(name), frames, tell)
        tell(f"{streams.streams} streams of {streams.model} for {streams.seconds:g} s")
        measured["streams"] = measure_streams(streams)
        if frames:
            measured["kills"] = kills(Path(name), times, tell)
    return measured


def steps(endpoint: str, frames: int, tell: Tell) -> list[dict[str, Any]]:
    """Steps through a running server, the time of its engine included."""
    rows = []
    for size in SIZES:
        tell(f"{endpoint}: {size}")
        with connected(endpoint) as client:
            times = _step_times(client, _noise(size), frames)
            rows.append({"size": size, "model": client.info.model, **_percentiles(times)})
    return rows


def overhead(folder: Path, frames: int, tell: Tell) -> list[dict[str, Any]]:
    """The time of a step through a socket, less the median of the same step in this process."""
    rows = []
    ways = (("ipc, raw", f"ipc://{folder}/s", "raw"), ("ipc, shared memory", f"ipc://{folder}/s", "shm"),
            ("tcp, raw", "tcp://127.0.0.1:*", "raw"))  # fmt: skip
    for size in SIZES:
        frame = _noise(size)
        local = np.median(_step_times(NullBackend(), frame, frames))
        for name, endpoint, pixels in ways:
            tell(f"{size}, {name}")
            with serving(endpoint) as server, connected(server.endpoint, pixels=pixels) as client:
                times = _step_times(client, frame, frames) - local
            rows.append({"size": size, "way": name, **_percentiles(times)})
    return rows


def kills(folder: Path, times: int, tell: Tell) -> dict[str, Any]:
    """Kills the server under load; seconds from its death to the next tracked frame, its restart included."""
    endpoint, frame, stamp, ids_kept = f"ipc://{folder}/kills", _noise(SIZES[0]), 0, 0
    seconds: list[float] = []
    server = ServerProcess(endpoint)
    try:
        with connected(endpoint, timeout=2.0) as client, ThreadPoolExecutor(1) as starter:
            client.step(frame, stamp)
            ids = [result.object_id for result in client.add([_request()] * 3)]
            for number in range(times):
                tell(f"kill {number + 1} of {times}")
                for _ in range(10):
                    stamp += 1
                    client.step(frame, stamp)
                server.kill()
                start = time.monotonic()
                starting = starter.submit(ServerProcess, endpoint)
                while True:
                    stamp += 1
                    try:
                        result = client.step(frame, stamp)
                        break
                    except FrameDropped:
                        if starting.done():
                            starting.result()  # raises if the server did not start
                        time.sleep(CAMERA_S)
                seconds.append(time.monotonic() - start)
                ids_kept += [obj.object_id for obj in result.objects] == ids
                server = starting.result()
    finally:
        server.end()
    median, worst = round(float(np.median(seconds)), 2), round(max(seconds), 2)
    return {"kills": times, "ids_kept": ids_kept, "recovery_s_median": median, "recovery_s_worst": worst}


def _step_times(engine: Backend, frame: Rgb, frames: int) -> NDArray[np.float64]:
    """Milliseconds of each of ``frames`` steps with one object."""
    engine.step(frame, 0)
    engine.add([_request()])
    times = []
    for stamp in range(1, frames + WARM_UP + 1):
        start = time.perf_counter()
        engine.step(frame, stamp)
        times.append((time.perf_counter() - start) * 1e3)
    return np.array(times[WARM_UP:])


def _percentiles(times: NDArray[np.float64]) -> dict[str, float]:
    p50, p99 = np.percentile(times, (50, 99)).round(2).tolist()
    return {"p50_ms": p50, "p99_ms": p99}


def _noise(size: str) -> Rgb:
    width, height = map(int, size.split("x"))
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)


def _request() -> PromptRequest:
    return PromptRequest(Prompt(box=np.array([20, 20, 120, 120], np.float32)))
