"""The interface of a measured engine, and ours. RGB frames go in; binary masks of the image's size come out."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from sam2_ros.bench.moving_scene import Rgb
from sam2_ros.model import Sam2Model
from sam2_ros.model.export import as_graphs
from sam2_ros.model.network import Network
from sam2_ros.model.runtimes import TORCH
from sam2_ros.model.weight_cache import cache_bytes
from sam2_ros.tracking import Prompt, PromptRequest, Tracker, TrackerConfig

MIB = 2**20


class Contestant(Protocol):
    """An engine that tracks objects. ``name`` says which; ``dtype`` is "float32", "bfloat16" (autocast) or "int8"."""

    name: str
    dtype: str

    def begin(self, frame: Rgb, boxes: NDArray[np.float32]) -> None:
        """Starts a stream: one object for each box (x0, y0, x1, y1 in pixels) on ``frame``."""
        ...

    def step(self, frame: Rgb) -> int:
        """Tracks every object in the next frame and copies the masks to the host; returns how many are not empty."""
        ...

    def end(self) -> None:
        """Frees the stream's memory."""
        ...


@dataclass(frozen=True)
class Task:
    """What all contestants of a run have in common."""

    model: Sam2Model  # the peers get its weights, too
    size_name: str  # official size, or "" if there is no official counterpart
    random_weights: bool = False  # no checkpoint was found


class Ours:
    """:class:`~sam2_ros.tracking.Tracker`, set so that it works on every object in every frame."""

    NAME = "sam2_ros"

    def __init__(self, task: Task, dtype: str, runtime: str = TORCH) -> None:
        self.task = task
        self.dtype = dtype
        self.runtime = runtime
        self.name = self.NAME if runtime == TORCH else f"{self.NAME} {runtime}"
        self.model: Network = task.model
        if runtime != TORCH:
            self.model = as_graphs(task.model, runtime, dtype, torch.get_num_threads())
        self.tracker: Tracker | None = None
        self.stages: dict[str, float] = {}  # ms, of the newest frame

    def begin(self, frame: Rgb, boxes: NDArray[np.float32]) -> None:
        config = TrackerConfig(
            max_objects=len(boxes), lost_after=1_000_000, explosion_factor=0.0, max_area=1.0, history=0,
            window="off",  # the same work as the peers'
            # Masks of random weights have hundreds of parts; the tracker would reject most of them on every frame.
            reject_strays=not self.task.random_weights,
        )  # fmt: skip
        self.tracker = Tracker(self.model, config, self.dtype)
        self.tracker.step(frame, 1)
        for answer in self.tracker.add([PromptRequest(Prompt(box=box)) for box in boxes]):
            if not answer.success:
                raise RuntimeError(f"the engine refused a prompt of the benchmark: {answer.message}")

    def step(self, frame: Rgb) -> int:
        assert self.tracker is not None, "begin first"
        result = self.tracker.step(frame, 1)
        self.stages = dict(result.timings_ms)
        return sum(obj.mask.crop.size > 0 for obj in result.objects)

    def memory(self) -> dict[str, float]:
        """MiB of the memory bank of all objects, and of the cache of rounded and merged weights."""
        assert self.tracker is not None, "begin first"
        return {"bank": self.tracker.bank.nbytes / MIB, "rounded weights": cache_bytes(self.task.model) / MIB}

    def end(self) -> None:
        self.tracker = None


def device_memory(device: torch.device) -> dict[str, float]:
    """MiB of this process: allocated and reserved on a GPU, or resident in RAM for the CPU."""
    if device.type == "cuda":
        allocated, reserved = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
        return {"allocated": allocated / MIB, "reserved": reserved / MIB}
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return {}  # not Linux
    return {"resident": pages * 4096 / MIB}


def synchronise(device: torch.device) -> None:
    """Waits until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def release(*contestants: Any) -> None:
    """Ends streams and returns their memory."""
    for contestant in contestants:
        contestant.end()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
