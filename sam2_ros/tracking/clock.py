"""Times the stages of a frame, on the host or on a GPU."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class Clock:
    """Milliseconds per stage, on the steady clock."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = self.laps.get(name, 0.0) + (now - self._last) * 1e3
        self._last = now

    def finish(self) -> dict[str, float]:
        return self.laps


class DeviceClock(Clock):
    """Milliseconds per stage as a GPU works on them. Only :meth:`finish` waits for the GPU; it ends the last stage."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device
        self._start = time.perf_counter()
        self._marks = [("", self._mark())]

    def _mark(self) -> torch.cuda.Event:
        import torch

        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def lap(self, name: str) -> None:
        self._marks.append((name, self._mark()))

    def finish(self) -> dict[str, float]:
        self._marks[-1][1].synchronize()
        for (_, before), (name, after) in pairwise(self._marks):
            self.laps[name] = self.laps.get(name, 0.0) + before.elapsed_time(after)
        whole = (time.perf_counter() - self._start) * 1e3
        last = self._marks[-1][0]
        if last:  # what the host did while the GPU had nothing to do
            self.laps[last] += max(0.0, whole - sum(self.laps.values()))
        return self.laps


def clock_of(device: Any) -> Clock:
    return DeviceClock(device) if device.type == "cuda" else Clock()
