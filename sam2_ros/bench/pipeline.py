"""What it would bring to encode the next frame beside tracking the present one, on a CPU.

The node does not do it: a frame would wait for the one before, and the newest image is what a robot acts on.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import torch

from sam2_ros.bench import weights
from sam2_ros.bench.contestants import Ours, Task
from sam2_ros.bench.measure import FILL
from sam2_ros.bench.scene import MovingScene, moving_scene
from sam2_ros.tracking.sharing import SharedModel

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
    ours = Ours(Task(loaded.model, "", objects, 0), dtype, compiled=False)
    ours.begin(scene.frame(0), scene.boxes)
    for index in range(1, FILL + 1):
        ours.step(scene.frame(index))
    found: dict[str, list[tuple[float, float]]] = {"one after the other": [], "beside each other": []}
    for turn in range(ROUNDS):
        tell(f"{loaded.model.config.name}, {objects} objects: encoding ahead, round {turn + 1} of {ROUNDS}")
        found["one after the other"].append(_in_turn(ours, scene, frames))
        torch.set_num_threads(max(1, threads // 2))
        try:
            found["beside each other"].append(_beside(ours, scene, frames, max(1, threads // 2)))
        finally:
            torch.set_num_threads(threads)
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


def _beside(ours: Ours, scene: MovingScene, frames: int, threads: int) -> tuple[float, float]:
    """A thread encodes and is one frame ahead; this one tracks."""
    model, dtype = ours.task.model, ours.dtype
    preprocess, encoder = model.preprocess, SharedModel(model, dtype)
    ready: queue.Queue[tuple[float, Any]] = queue.Queue(maxsize=1)

    @torch.inference_mode()
    def encode() -> None:
        torch.set_num_threads(threads)
        for index in range(frames):
            start = time.perf_counter()
            features = encoder.encode(preprocess(torch.from_numpy(scene.frame(index))))
            ready.put((start, features))

    latencies: list[float] = []
    began: list[float] = []

    def encoded(_: Any) -> Any:
        start, features = ready.get()
        began.append(start)
        return features

    assert ours.tracker is not None
    thread, start = threading.Thread(target=encode), time.perf_counter()
    with (
        mock.patch.object(model, "preprocess", lambda *_: None),
        mock.patch.object(ours.tracker._shared, "encode", encoded),
    ):
        thread.start()
        for index in range(frames):
            ours.step(scene.frame(index))
            latencies.append(time.perf_counter() - began[-1])
        thread.join()
    return frames / (time.perf_counter() - start), 1e3 * float(np.median(latencies))
