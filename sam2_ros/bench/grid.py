"""The measured combinations, and the contestants of each."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch

from sam2_ros.bench import huggingface, official, weights
from sam2_ros.bench.contestants import Contestant, Ours, Task, release
from sam2_ros.bench.measure import Series, Tell, about, fill, measure, ratio
from sam2_ros.bench.moving_scene import moving_scene
from sam2_ros.evaluation.summary import machine
from sam2_ros.model.config import HIERA
from sam2_ros.model.int8 import INT8, has_int8
from sam2_ros.model.int8_limits import limits_of
from sam2_ros.model.runtimes import AUTO, OPENVINO, choose_runtime, computes_bfloat16

WIDTH, HEIGHT = 640, 480  # of the camera's image, pixels


@dataclass(frozen=True)
class Grid:
    """Every combination of model, image size and number of objects is measured, in every dtype."""

    models: Sequence[str]
    image_sizes: Sequence[int]  # pixels; 0 = the checkpoint's own
    objects: Sequence[int]
    dtypes: Sequence[str]
    peers: Sequence[str]  # of those that --peers accepts
    frames: int  # measured of each engine
    seconds: float  # after which a combination ends early
    device: str
    threads: int  # of the CPU; 0 = torch's choice
    runtimes: Sequence[str] = (AUTO,)  # what runs our network


def run(grid: Grid, tell: Tell, keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Measures the grid; the result is what ``--json`` writes.

    Args:
        tell: receives progress messages.
        keep: receives the result so far after each combination.
    """
    if grid.threads:
        torch.set_num_threads(grid.threads)
    measured: list[dict[str, Any]] = []
    report = {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "machine": describe_machine(grid.device),
        "image": [WIDTH, HEIGHT],
        "combinations": measured,
    }
    for combination in _combinations(grid, tell):
        measured.append(combination)
        keep(report)
    return report


def compile_peers(grid: Grid, tell: Tell) -> Iterator[str]:
    """Runs what the peers compile, without a measurement; a line for each that is ready. PyTorch keeps the results on
    disk, so that a run that was cut short goes on where it ended.

    Raises:
        RuntimeError: one can't be compiled.
    """
    if grid.threads:
        torch.set_num_threads(grid.threads)  # what is compiled for a CPU depends on it
    for task, _ in _tasks(grid):
        for objects in grid.objects:
            for contestant in contestants(grid, task):
                if isinstance(contestant, official.Official) and contestant.compiled:
                    what = f"{contestant.name} {contestant.dtype}, {_where(task, objects)}"
                    start = time.monotonic()
                    series, scene = Series(contestant), moving_scene(objects, WIDTH, HEIGHT)
                    fill(series, scene, task.model.device, about(what, tell))
                    release(contestant)
                    if series.failure:
                        raise RuntimeError(f"{what}: {series.failure}")
                    yield f"{what}: compiled after {time.monotonic() - start:.0f} s"


def _combinations(grid: Grid, tell: Tell) -> Iterator[dict[str, Any]]:
    for task, origin in _tasks(grid):
        for objects in grid.objects:
            yield {"model": task.model.config.name, "weights": origin, **_combination(grid, task, objects, tell)}


def _tasks(grid: Grid) -> Iterator[tuple[Task, str]]:
    """Each network, and where its weights are from."""
    for name, image_size in product(grid.models, grid.image_sizes):
        model, origin = weights.find(name, image_size, grid.device)
        size = name.partition("-")[0]
        official_size = size if size in HIERA and model.config.trunk == "hiera" else ""
        yield Task(model, official_size, origin == weights.RANDOM), origin


def _where(task: Task, objects: int) -> str:
    config = task.model.config
    return f"{config.name} at {config.image_size}, {objects} objects"


def _combination(grid: Grid, task: Task, objects: int, tell: Tell) -> dict[str, Any]:
    config, scene = task.model.config, moving_scene(objects, WIDTH, HEIGHT)
    where, device = _where(task, objects), task.model.device
    series = measure(contestants(grid, task), scene, device, grid.frames, grid.seconds, about(where, tell))
    engines = [entry.to_dict(objects) for entry in series]
    return {"image_size": config.image_size, "objects": objects, "engines": engines, "ratios": ratios(series)}


def contestants(grid: Grid, task: Task) -> list[Contestant]:
    """The contestants of a combination, ours first."""
    choices = (choose_runtime(name, grid.device, task.model.config.trunk) for name in grid.runtimes)
    entered: list[Contestant] = [
        Ours(task, dtype, runtime)
        for runtime in dict.fromkeys(choice.runtime for choice in choices)
        for dtype in grid.dtypes
        if _computes(runtime, dtype, task)
    ]
    of_peers = [dtype for dtype in grid.dtypes if dtype != INT8]
    for peer in ("official", "vos"):
        if task.size_name and peer in grid.peers:
            entered += [official.Official(task, dtype, peer == "vos") for dtype in of_peers]
    if task.size_name == "tiny" and "huggingface" in grid.peers:
        entered += [huggingface.HuggingFace(task, dtype) for dtype in of_peers]
    return entered


def _computes(runtime: str, dtype: str, task: Task) -> bool:
    if dtype == INT8:
        return runtime == OPENVINO and has_int8() and bool(limits_of(task.model))
    return dtype == "float32" or computes_bfloat16(runtime)


def ratios(series: Sequence[Series]) -> list[dict[str, Any]]:
    """How many times as long each peer takes as ours, in the same dtype and the best of both; and our network by
    PyTorch as by other runtimes."""
    ran = [entry for entry in series if entry.latencies]
    ours = [entry for entry in ran if isinstance(entry.contestant, Ours)]
    plain = [entry for entry in ours if entry.contestant.name == Ours.NAME]
    peers = [entry for entry in ran if not isinstance(entry.contestant, Ours)]
    found = [
        ratio("same dtype", entry, peer)
        for peer in peers
        for entry in ours
        if entry.contestant.dtype == peer.contestant.dtype
    ]
    if plain:
        fastest = min(plain, key=lambda entry: entry.p50)
        found += [
            ratio("runtime", entry, fastest) | {"ours": entry.contestant.name} for entry in ours if entry not in plain
        ]
    for family in ("official", "huggingface"):
        related = [entry for entry in peers if entry.contestant.name.startswith(family)]
        if related and ours:
            found.append(
                ratio("best", min(ours, key=lambda entry: entry.p50), min(related, key=lambda entry: entry.p50))
            )
    return found


def describe_machine(device: str) -> dict[str, Any]:
    """Hardware and versions; ``load`` is the machine's load average before the measurement."""
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    found = {**machine(), **versions, "threads": torch.get_num_threads()}
    if hasattr(os, "getloadavg"):
        found["load"] = round(os.getloadavg()[0], 2)
    if device != "cpu" and torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(device)
        found["gpu"] = {"name": properties.name, "memory_mib": properties.total_memory // 2**20}
    return found
