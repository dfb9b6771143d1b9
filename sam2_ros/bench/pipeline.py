"""What it brings on a CPU to encode the next frame beside tracking the present one (``model.encode_ahead``)."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from sam2_ros.bench import weights
from sam2_ros.bench.contestants import Ours, Task
from sam2_ros.bench.measure import FILL
from sam2_ros.bench.scene import MovingScene, moving_scene
from sam2_ros.tracking.tracker import EncodedFrame

ROUNDS = 5  # in which both ways take turns


def run(
    model: str, image_size: int, dtype: str, objects: int, frames: int, tell: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Runs ``frames`` frames both ways, ``ROUNDS`` times in turn.

    Returns:
        For each way the median of the rounds: frames a second, and ms from the begin of a frame's work to its masks.
    """
    loaded = weights.find(model, image_size)
    scene, threads = moving_scene(objects), torch.get_num_threads()
    task = Task(loaded.model, "", objects, 0)
    in_turn, beside = Ours(task, dtype, compiled=False), Ours(task, dtype, compiled=False, ahead=True)
    found: dict[str, list[tuple[float, float]]] = {"one after the other": [], "beside each other": []}
    try:
        for one in (in_turn, beside):
            one.begin(scene.frame(0), scene.boxes)
            for index in range(1, FILL + 1):
                one.step(scene.frame(index))
        for turn in range(ROUNDS):
            tell(f"{loaded.model.config.name}, {objects} objects: encoding ahead, round {turn + 1} of {ROUNDS}")
            torch.set_num_threads(threads)
            found["one after the other"].append(_in_turn(in_turn, scene, frames))
            found["beside each other"].append(_beside(beside, scene, frames))
    finally:
        torch.set_num_threads(threads)  # encoding ahead has halved them
    rows = []
    for way, rounds in found.items():
        rate, latency = np.median(rounds, axis=0).tolist()
        rows.append({"way": way, "frames_per_second": round(rate, 2), "latency_ms": round(latency, 1)})
    return {"model": loaded.model.config.name, "image_size": loaded.model.config.image_size, "dtype": dtype,
            "objects": objects, "threads": threads, "rows": rows}  # fmt: skip


def _in_turn(ours: Ours, scene: MovingScene, frames: int) -> tuple[float, float]:
    taken = []
    for index in range(frames):
        start = time.perf_counter()
        ours.step(scene.frame(index))
        taken.append(time.perf_counter() - start)
    return 1 / float(np.mean(taken)), 1e3 * float(np.median(taken))


def _beside(ours: Ours, scene: MovingScene, frames: int) -> tuple[float, float]:
    """A thread encodes and is one frame ahead; this one tracks."""
    tracker, latencies = ours.tracker, []
    assert tracker is not None

    def encode(index: int) -> tuple[float, EncodedFrame]:
        return time.perf_counter(), tracker.encode(scene.frame(index))

    start = time.perf_counter()
    with ThreadPoolExecutor(1) as helper:
        coming = helper.submit(encode, 0)
        for index in range(frames):
            began, encoded = coming.result()
            coming = helper.submit(encode, index + 1)
            tracker.step(encoded, 1)
            latencies.append(time.perf_counter() - began)
        taken = time.perf_counter() - start
    return frames / taken, 1e3 * float(np.median(latencies))
