"""Measures contestants in turn on the same frames, so that what disturbs the machine disturbs all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sam2_ros.bench.contestants import Contestant, Ours, device_memory, release, synchronise
from sam2_ros.bench.scene import MovingScene

FILL = 17  # frames before measuring: after 16 all memory slots and all pointers are taken
BLOCK = 3  # frames of one contestant before the next one's turn


@dataclass
class Series:
    """One contestant's measurement. Times in ms, one entry a frame; memory in MiB."""

    contestant: Contestant
    latencies: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)  # time of all CPU threads: what a busy machine leaves as it is
    stages: dict[str, list[float]] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)  # taken by the stream, weights of a peer's own included
    first_frame: float = 0.0  # ms, of the first tracked frame, with whatever is compiled there
    shown: int = 0  # masks with at least one pixel
    failure: str = ""  # why it could not run

    @property
    def p50(self) -> float:
        return float(np.median(self.latencies))

    def to_dict(self, objects: int) -> dict[str, Any]:
        """For JSON."""
        one = self.contestant
        head: dict[str, Any] = {"engine": one.name, "dtype": one.dtype, "compiled": one.compiled}
        if self.failure:
            return {**head, "failure": self.failure}
        values = np.asarray(self.latencies)
        return {
            **head,
            "frames": len(values),
            "latency_ms": {
                **{f"p{share}": round(float(np.percentile(values, share)), 2) for share in (50, 90, 99)},
                "max": round(float(values.max()), 2),
                "mean": round(float(values.mean()), 2),
            },
            "processor_ms": {"p50": round(float(np.median(self.processor)), 2)},
            "first_frame_ms": round(self.first_frame, 1),
            "frames_per_second": round(1e3 / float(values.mean()), 3),
            "stages_ms": {name: round(float(np.median(v)), 2) for name, v in self.stages.items()},
            "memory_mib": {name: round(value, 1) for name, value in self.memory.items()},
            "masks_shown": round(self.shown / (len(values) * objects), 3),
        }


def measure(
    contestants: Sequence[Contestant],
    scene: MovingScene,
    device: Any,
    frames: int,
    seconds: float = float("inf"),
    tell: Callable[[str], None] = lambda _: None,
    fills: Sequence[int] = (),
) -> list[Series]:
    """Runs every contestant through the same stream.

    Each one fills its memory first; then they take turns of :data:`BLOCK` frames. One that fails
    is left out, with the reason.

    Args:
        contestants: they share ``scene``'s objects.
        scene: the frames.
        device: the torch device they run on.
        frames: to be measured of each, rounded up to whole turns.
        seconds: after which no new round of turns begins, once each has had one.
        tell: is called with what begins now.
        fills: frames before measuring, one entry a contestant; by default :data:`FILL` each.
    """
    start = time.monotonic()
    series = [Series(one) for one in contestants]
    for one, fill in zip(series, fills or [FILL] * len(series), strict=True):
        tell(f"{one.contestant.name} {one.contestant.dtype}: filling the memory")
        try:
            held = device_memory(device)
            one.contestant.begin(scene.frame(0), scene.boxes)
            for index in range(1, fill + 1):
                before = time.perf_counter()
                one.contestant.step(scene.frame(index))
                synchronise(device)
                if index == 1:
                    one.first_frame = (time.perf_counter() - before) * 1e3
            one.memory = {name: value - held[name] for name, value in device_memory(device).items()}
            if isinstance(one.contestant, Ours):
                one.memory |= one.contestant.memory()
        except Exception as error:  # a peer that can't run must not end the others' measurement
            one.failure = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            release(one.contestant)
    running = [one for one in series if not one.failure]
    index = FILL + 1
    while running and len(running[0].latencies) < frames:
        if running[0].latencies and time.monotonic() - start > seconds:
            break
        for one in running:
            tell(f"{one.contestant.name} {one.contestant.dtype}: frame {len(one.latencies)} of {frames}")
            _turn(one, scene, index, device)
        running.append(running.pop(0))  # nobody always follows the same one
        index += BLOCK
    release(*(one.contestant for one in running))
    return series


def _turn(series: Series, scene: MovingScene, index: int, device: Any) -> None:
    one = series.contestant
    for offset in range(BLOCK):
        frame = scene.frame(index + offset)
        synchronise(device)
        before, busy = time.perf_counter(), time.process_time()
        shown = one.step(frame)
        synchronise(device)
        series.latencies.append((time.perf_counter() - before) * 1e3)
        series.processor.append((time.process_time() - busy) * 1e3)
        series.shown += shown
        if isinstance(one, Ours):
            for name, value in one.stages.items():
                series.stages.setdefault(name, []).append(value)


def ratio(ours: Series, peer: Series) -> dict[str, Any]:
    """How many times as long the peer takes: median over the frames that both worked on, with the quartiles, and the
    same of the processor's time."""
    count = min(len(ours.latencies), len(peer.latencies))
    each = np.asarray(peer.latencies[:count]) / np.asarray(ours.latencies[:count])
    low, middle, high = np.percentile(each, (25, 50, 75))
    return {
        "ratio": round(float(middle), 3),
        "quartiles": [round(float(low), 3), round(float(high), 3)],
        "processor_ratio": round(float(np.median(peer.processor[:count]) / np.median(ours.processor[:count])), 3),
    }
