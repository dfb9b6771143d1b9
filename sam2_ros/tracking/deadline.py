"""Sheds load where frames take longer than the deadline: what a robot misses least goes first and returns last."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

SHEDDING_STEPS = ("lost objects rest", "fewer memory frames", "smaller input")  # in the order in which they are taken

JUDGED = 5  # frames at one level, whose median decides on the next step
CALM = 30  # fast frames in a row before a step is taken back
MOST_CALM = 960
SPARE = 0.7  # share of the deadline below which a frame is fast
RESTING = 10  # factor by which lost objects are searched for less often
FEW_FRAMES = 2  # recent frames attended to
SMALLER = 0.7  # of the side of the square input


@dataclass(frozen=True)
class Workload:
    """How much work is put into a frame."""

    search_factor: int = 1  # by which lost objects are searched for less often
    recent_frames: int | None = None  # attended to at most; None: as configured
    input_scale: float = 1.0  # of the side of the square input

    @classmethod
    def at(cls, level: int) -> Workload:
        """With the first ``level`` steps of :data:`SHEDDING_STEPS`."""
        return cls(RESTING if level > 0 else 1, FEW_FRAMES if level > 1 else None, SMALLER if level > 2 else 1.0)


class LoadShedder:
    """Decides how many of :data:`SHEDDING_STEPS` the next frame takes.

    A step that is needed again soon after it was taken back stays twice as long the next time. So a load at the edge
    does not make it swing.

    Args:
        deadline: seconds that a frame may take; 0 sheds nothing. May be set at any time.
        steps: that may be taken.
    """

    def __init__(self, deadline: float, steps: int = len(SHEDDING_STEPS)) -> None:
        self.deadline = deadline
        self.steps = steps
        self.level = 0  # steps that the next frame takes
        self._recent: deque[float] = deque(maxlen=JUDGED)  # ms
        self._calm = 0  # fast frames in a row
        self._calm_needed = CALM
        self._since_release = MOST_CALM  # frames since the last step was taken back

    def took(self, milliseconds: float, level: int | None = None) -> None:
        """Learns how long a frame took at ``level`` (None: the current one)."""
        if not self.deadline or level not in (None, self.level):
            return
        self._recent.append(milliseconds)
        self._since_release += 1
        deadline = self.deadline * 1e3
        self._calm = self._calm + 1 if milliseconds < SPARE * deadline else 0
        if len(self._recent) == JUDGED and float(np.median(self._recent)) > deadline:
            if self.level < self.steps:
                swung = self._since_release < 2 * self._calm_needed
                self._calm_needed = min(MOST_CALM, 2 * self._calm_needed) if swung else CALM
                self._set(self.level + 1)
        elif self._calm >= self._calm_needed and self.level:
            self._set(self.level - 1)
            self._since_release = 0

    def _set(self, level: int) -> None:
        self.level = level
        self._calm = 0
        self._recent.clear()
