"""Measures contestants in turns on the same frames, so that a disturbance of the machine hits all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sam2_ros.bench.contestants import Contestant, Ours, device_memory, release, synchronise
from sam2_ros.bench.moving_scene import MovingScene

Tell = Callable[[str], None]
FILL = 17  # frames before measuring: after 16 all memory slots and all object pointers are in use
BLOCK = 3  # frames of one contestant before the next one's turn


@dataclass
class Series:
    """One contestant's measurement. Times in ms, one entry a frame; memory in MiB."""

    contestant: Contestant
    latencies: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)  # time of all CPU threads; other processes do not change it
    stages: dict[str, list[float]] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)  # of the stream, a peer's own weights included
    first_frame: float = 0.0  # ms, of the first tracked frame, compilation included
    shown: int = 0  # masks with at least one pixel
    failure: str = ""  # why it could not run

    @property
    def p50(self) -> float:
        return float(np.median(self.latencies))

    def to_dict(self, objects: int) -> dict[str, Any]:
        """For JSON."""
        head: dict[str, Any] = {"engine": self.contestant.name, "dtype": self.contestant.dtype}
        if self.failure:
            return {**head, "failure": self.failure}
        mean = float(np.mean(self.latencies))
        stages = {name: round(float(np.median(times)), 2) for name, times in self.stages.items()}
        return {
            **head,
            "frames": len(self.latencies),
            "latency_ms": percentiles(self.latencies) | {"mean": round(mean, 2)},
            "processor_ms": {"p50": round(float(np.median(self.processor)), 2)},
            "first_frame_ms": round(self.first_frame, 1),
            "frames_per_second": round(1e3 / mean, 3),
            "stages_ms": stages,
            "memory_mib": {name: round(value, 1) for name, value in self.memory.items()},
            "masks_shown": round(self.shown / (len(self.latencies) * objects), 3),
        }


def percentiles(values: Any) -> dict[str, float]:
    """``p50``, ``p90``, ``p99`` and ``max``, rounded to two digits."""
    p50, p90, p99, most = np.percentile(values, (50, 90, 99, 100)).round(2).tolist()
    return {"p50": p50, "p90": p90, "p99": p99, "max": most}


def measure(
    contestants: Sequence[Contestant], scene: MovingScene, device: Any, frames: int, seconds: float, tell: Tell
) -> list[Series]:
    """Runs every contestant through the same stream.

    Each contestant fills its memory first. Then they take turns of :data:`BLOCK` frames until each has at least
    ``frames``, or until ``seconds`` have passed and each had a turn. One that fails is left out, and its series holds
    the reason.
    """
    start = time.monotonic()
    series = [Series(contestant) for contestant in contestants]
    for entry in series:
        fill(entry, scene, device, about(f"{entry.contestant.name} {entry.contestant.dtype}", tell))
    running = [entry for entry in series if not entry.failure]
    for index in range(FILL + 1, FILL + 1 + frames, BLOCK):
        if index > FILL + 1 and time.monotonic() - start > seconds:
            break
        for entry in running:
            tell(f"{entry.contestant.name} {entry.contestant.dtype}: frame {len(entry.latencies)} of {frames}")
            _turn(entry, scene, index, device)
        running = running[1:] + running[:1]  # so that no contestant always follows the same one
    release(*(entry.contestant for entry in running))
    return series


def about(what: str, tell: Tell) -> Tell:
    """``tell`` with ``what`` said first."""
    return lambda text: tell(f"{what}: {text}")


def fill(series: Series, scene: MovingScene, device: Any, tell: Tell) -> None:
    """Tracks until all memory slots are in use, which compiles what is to be compiled. ``series.failure`` says why a
    contestant can't run; a peer that can't must not end the others' measurement."""
    try:
        _fill(series, scene, device, tell)
    except Exception as error:
        series.failure = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        release(series.contestant)


def _fill(series: Series, scene: MovingScene, device: Any, tell: Tell) -> None:
    contestant, before = series.contestant, device_memory(device)
    tell("filling the memory")
    contestant.begin(scene.frame(0), scene.boxes)
    for index in range(1, FILL + 1):
        tell(f"filling the memory, frame {index} of {FILL}")
        start = time.perf_counter()
        contestant.step(scene.frame(index))
        synchronise(device)
        if index == 1:
            series.first_frame = (time.perf_counter() - start) * 1e3
    series.memory = {name: value - before[name] for name, value in device_memory(device).items()}
    if isinstance(contestant, Ours):
        series.memory |= contestant.memory()


def _turn(series: Series, scene: MovingScene, index: int, device: Any) -> None:
    contestant = series.contestant
    for offset in range(BLOCK):
        frame = scene.frame(index + offset)
        synchronise(device)
        before, busy = time.perf_counter(), time.process_time()
        shown = contestant.step(frame)
        synchronise(device)
        series.latencies.append((time.perf_counter() - before) * 1e3)
        series.processor.append((time.process_time() - busy) * 1e3)
        series.shown += shown
        if isinstance(contestant, Ours):
            for name, value in contestant.stages.items():
                series.stages.setdefault(name, []).append(value)


def ratio(kind: str, ours: Series, peer: Series) -> dict[str, Any]:
    """How many times as long the peer takes: the median over the frames of both, with quartiles; also in CPU time."""
    shares = np.array(peer.latencies) / np.array(ours.latencies)  # all have the same number of frames
    low, middle, high = np.percentile(shares, (25, 50, 75)).round(3).tolist()
    processor = round(float(np.median(peer.processor) / np.median(ours.processor)), 3)
    return {
        "kind": kind,
        "peer": peer.contestant.name,
        "peer_dtype": peer.contestant.dtype,
        "ours_dtype": ours.contestant.dtype,
        "ratio": middle,
        "quartiles": [low, high],
        "processor_ratio": processor,
    }
