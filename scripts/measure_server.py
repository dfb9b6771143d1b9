#!/usr/bin/env python3
"""Measures the inference server with an engine that computes nothing: what the socket adds, how streams share
the server, and how objects outlive its death. Prints JSON.

    python scripts/measure_server.py            # everything: a minute or two
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from sam2_ros.inference import NullBackend
from sam2_ros.inference.backend import FrameDropped
from sam2_ros.inference.client import RemoteBackend
from sam2_ros.tracking import AddRequest, Prompt, TrackerConfig

SIZES = ((640, 480), (1280, 720))
WARM_UP = 20  # frames that are not counted


def serve(endpoint: str, model: str = "null") -> tuple[subprocess.Popen[str], str]:
    """A server process and the endpoint that it is bound to."""
    command = [sys.executable, "-m", "sam2_ros", "serve", "--model", model, "--bind", endpoint]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().rpartition(", on ")[2].partition(";")[0]


def noise(width: int, height: int) -> Any:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)


def prompt() -> AddRequest:
    return AddRequest(Prompt(box=np.array([20, 20, 120, 120], np.float32)))


def step_times(engine: Any, frame: Any, frames: int) -> Any:
    """Milliseconds of each of ``frames`` steps with one object."""
    engine.step(frame, 0)
    engine.add([prompt()])
    times = []
    for stamp in range(1, frames + WARM_UP):
        start = time.perf_counter()
        engine.step(frame, stamp)
        times.append((time.perf_counter() - start) * 1e3)
    return np.array(times[WARM_UP - 1 :])


def overhead(folder: Path, frames: int) -> list[dict[str, Any]]:
    """A step through a socket, less the same step in this process."""
    rows = []
    ways = (("ipc", f"ipc://{folder}/s", "raw"), ("shared memory", f"ipc://{folder}/s", "shm"),
            ("tcp", "tcp://127.0.0.1:*", "raw"))  # fmt: skip
    for width, height in SIZES:
        frame = noise(width, height)
        local = float(np.median(step_times(NullBackend(), frame, frames)))
        for name, endpoint, pixels in ways:
            server, bound = serve(endpoint)
            client = RemoteBackend([bound], pixels=pixels)
            client.connect(10)
            times = step_times(client, frame, frames) - local
            client.close()
            server.terminate()
            server.wait()
            p50, p99 = np.percentile(times, (50, 99)).round(2).tolist()
            rows.append({"size": f"{width}x{height}", "way": name, "p50_ms": p50, "p99_ms": p99})
    return rows


def streams(folder: Path, count: int, seconds: float) -> dict[str, Any]:
    """``count`` clients that send as fast as they are answered, to a server that takes 5 ms a frame."""
    server, endpoint = serve(f"ipc://{folder}/streams", "null:5")
    frame, counts, end = noise(640, 480), [0] * count, time.monotonic() + seconds + 1

    def run(index: int) -> None:
        client = RemoteBackend([endpoint], TrackerConfig(max_objects=1))
        client.connect(10)
        while time.monotonic() < end:
            client.step(frame, 0)
            counts[index] += time.monotonic() > end - seconds
        client.close()

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    server.terminate()
    server.wait()
    rates = [round(each / seconds, 1) for each in counts]
    jain = sum(counts) ** 2 / (count * sum(each**2 for each in counts))
    return {"streams": count, "frames_per_second": rates, "fairness_jain": round(jain, 4)}


def kills(folder: Path, times: int) -> dict[str, Any]:
    """Kills the server under load; seconds from its death to the next tracked frame, a new start included."""
    endpoint = f"ipc://{folder}/kills"
    server, _ = serve(endpoint)
    client, frame, stamp, kept = RemoteBackend([endpoint], timeout=2.0), noise(640, 480), 0, 0
    seconds: list[float] = []
    client.connect(10)
    client.step(frame, stamp)
    ids = [each.object_id for each in client.add([prompt(), prompt(), prompt()])]
    starter = ThreadPoolExecutor(1)
    for _ in tqdm(range(times), unit="kill"):
        for _ in range(10):
            stamp += 1
            client.step(frame, stamp)
        server.kill()
        server.wait()
        start = time.monotonic()
        next_server = starter.submit(serve, endpoint)
        while True:
            stamp += 1
            try:
                result = client.step(frame, stamp)
                break
            except FrameDropped:
                time.sleep(0.03)  # as a camera's next image
        seconds.append(time.monotonic() - start)
        kept += [known.object_id for known in result.objects] == ids
        server, _ = next_server.result()
    client.close()
    server.terminate()
    server.wait()
    p50, worst = round(float(np.median(seconds)), 2), round(max(seconds), 2)
    return {"kills": times, "ids_kept": kept, "recovery_s_median": p50, "recovery_s_worst": worst}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=300, help="of each way and size (default: 300)")
    parser.add_argument("--kills", type=int, default=20, help="deaths of the server (default: 20)")
    parser.add_argument("--streams", type=int, default=8, help="at the same time (default: 8)")
    parser.add_argument("--seconds", type=float, default=5.0, help="that the streams run (default: 5)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measured = {
            "overhead": overhead(folder, args.frames),
            "streams": streams(folder, args.streams, args.seconds),
            "kills": kills(folder, args.kills),
        }
    print(json.dumps(measured, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
