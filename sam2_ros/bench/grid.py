"""The combinations that are measured, and who takes part in each."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from sam2_ros.bench import huggingface, official, weights
from sam2_ros.bench.contestants import Contestant, Ours, Task
from sam2_ros.bench.measure import Series, measure, ratio
from sam2_ros.bench.scene import moving_scene
from sam2_ros.evaluation.report import machine
from sam2_ros.model import Sam2Model
from sam2_ros.model.config import HIERA


@dataclass(frozen=True)
class Grid:
    """What is measured: every model × image size × number of objects; in each, every dtype, compiled or not."""

    models: tuple[str, ...] = ("tiny",)
    image_sizes: tuple[int, ...] = (1024, 512)  # pixels; 0 = the checkpoint's own
    objects: tuple[int, ...] = (1, 4, 16, 64)
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    compiled: tuple[bool, ...] = (False,)
    peers: tuple[str, ...] = ()  # of those that --peers accepts
    frames: int = 30  # measured of each engine
    seconds: float = float("inf")  # after which a combination ends early
    device: str = "cpu"
    threads: int = 0  # of the CPU; 0 = torch's choice
    width: int = 640  # of the camera's image, pixels
    height: int = 480


def run(grid: Grid, tell: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Measures the grid; the result is what ``--json`` writes."""
    return run_all([grid], tell)


def run_all(grids: Sequence[Grid], tell: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Measures one grid after the other for one report."""
    first = grids[0]
    if first.threads:
        torch.set_num_threads(first.threads)
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "machine": describe_machine(first.device),
        "image": [first.width, first.height],
        "combinations": [found for grid in grids for found in _combinations(grid, tell)],
    }


def _combinations(grid: Grid, tell: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    for name in grid.models:
        for image_size in grid.image_sizes:
            loaded = weights.find(name, image_size, grid.device)
            for objects in grid.objects:
                where = f"{name} at {loaded.model.config.image_size}, {objects} objects"
                size, drawn = official_size(name, loaded.model), loaded.origin == weights.DRAWN
                task = Task(loaded.model, size, objects, grid.threads, drawn)
                scene = moving_scene(objects, grid.width, grid.height)
                series = measure(
                    list(contestants(grid, task)), scene, loaded.model.device, grid.frames, grid.seconds,
                    partial(_tell_where, tell, where),
                )  # fmt: skip
                yield {
                    "model": loaded.model.config.name,
                    "weights": loaded.origin,
                    "image_size": loaded.model.config.image_size,
                    "objects": objects,
                    "engines": [one.to_dict(objects) for one in series],
                    "ratios": ratios(series),
                }


def _tell_where(tell: Callable[[str], None], where: str, text: str) -> None:
    tell(f"{where}: {text}")


def official_size(name: str, model: Sam2Model) -> str:
    """The official size that a model has; "" for others."""
    size = name.partition("-")[0]
    return size if size in HIERA and model.config.trunk == "hiera" else ""


def contestants(grid: Grid, task: Task) -> Sequence[Contestant]:
    """Who takes part, ours first."""
    entered: list[Contestant] = [Ours(task, dtype, compiled) for dtype in grid.dtypes for compiled in grid.compiled]
    if task.size_name:
        for peer in ("official", "vos"):
            if peer in grid.peers and official.is_installed():
                entered += [official.Official(task, dtype, peer == "vos") for dtype in grid.dtypes]
        if "huggingface" in grid.peers and huggingface.is_installed() and task.size_name == "tiny":
            entered += [huggingface.HuggingFace(task, dtype) for dtype in grid.dtypes]
    return entered


def ratios(series: Sequence[Series]) -> list[dict[str, Any]]:
    """How many times as long each peer takes as we do: in the same dtype, and the best of both."""
    ran = [one for one in series if one.latencies]
    ours = [one for one in ran if isinstance(one.contestant, Ours)]
    peers = [one for one in ran if not isinstance(one.contestant, Ours)]
    found = []
    for peer in peers:
        # Neither compiled, or both, where we have both.
        same = [one for one in ours if one.contestant.dtype == peer.contestant.dtype]
        alike = [one for one in same if one.contestant.compiled == peer.contestant.compiled] or same
        if alike:
            found.append(_ratio("same dtype", alike[0], peer))
    for family in ("official", "huggingface"):
        related = [one for one in peers if one.contestant.name.startswith(family)]
        if related and ours:
            found.append(_ratio("best", min(ours, key=lambda one: one.p50), min(related, key=lambda one: one.p50)))
    return found


def _ratio(kind: str, ours: Series, peer: Series) -> dict[str, Any]:
    return {
        "kind": kind,
        "peer": peer.contestant.name,
        "peer_dtype": peer.contestant.dtype,
        "ours_dtype": ours.contestant.dtype,
        "ours_compiled": ours.contestant.compiled,
        **ratio(ours, peer),
    }


def describe_machine(device: str) -> dict[str, Any]:
    """Hardware and versions; ``load`` is that of the machine before the measurement began."""
    found = {**machine(), "torch": torch.__version__, "python": platform.python_version()}
    found["threads"] = torch.get_num_threads()
    if hasattr(os, "getloadavg"):
        found["load"] = round(os.getloadavg()[0], 2)
    if device != "cpu" and torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(device)
        found["gpu"] = {"name": properties.name, "memory_mib": properties.total_memory // 2**20}
    return found
