"""Keeps frames within a deadline: what a robot can best do without goes first, and comes back when there is time."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

ECONOMIES = ("lost objects rest", "fewer memory frames", "smaller input")  # in the order in which they are made

JUDGED = 5  # frames under the same economies, whose median decides whether to make one more
CALM = 30  # frames in a row that must take little before one is taken back
MOST_CALM = 960
SPARE = 0.7  # of the deadline: less than this is little
RESTING = 10  # times as seldom as else a lost object is looked for
FEW_FRAMES = 2  # recent frames that are attended to
SMALLER = 0.7  # of the side of the square input


@dataclass(frozen=True)
class Measures:
    """What a frame is to be worked on with."""

    search_factor: int = 1  # times as seldom as else lost objects are looked for
    recent_frames: int | None = None  # attended to at most; None: as configured
    input_scale: float = 1.0  # of the side of the square input

    @classmethod
    def at(cls, level: int) -> Measures:
        """The first ``level`` of :data:`ECONOMIES`."""
        return cls(
            RESTING if level > 0 else 1,
            FEW_FRAMES if level > 1 else None,
            SMALLER if level > 2 else 1.0,
        )


class Governor:
    """Decides which economies the next frame is worked on with.

    One that had to be made again soon after it was taken back is kept twice as long the next time, so that a load at
    the edge does not make it swing.

    Args:
        deadline: seconds that a frame may take; 0 makes no economies.
    """

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline  # s; may be set at any time
        self._level = 0
        self._recent: deque[float] = deque(maxlen=JUDGED)  # ms
        self._calm = 0  # frames in a row
        self._calm_needed = CALM
        self._since_release = MOST_CALM  # frames since the last one was taken back

    @property
    def level(self) -> int:
        """How many of :data:`ECONOMIES` the next frame is worked on with."""
        return self._level

    @property
    def measures(self) -> Measures:
        """For the next frame."""
        return Measures.at(self._level)

    @property
    def economies(self) -> tuple[str, ...]:
        """In force for the next frame, of :data:`ECONOMIES`."""
        return ECONOMIES[: self._level]

    def took(self, milliseconds: float, level: int | None = None) -> None:
        """Learns how long a frame took that was worked on with ``level`` economies (None: as many as there are now)."""
        if not self.deadline or level not in (None, self._level):
            return
        self._recent.append(milliseconds)
        self._since_release += 1
        deadline = self.deadline * 1e3
        self._calm = self._calm + 1 if milliseconds < SPARE * deadline else 0
        if len(self._recent) == JUDGED and float(np.median(self._recent)) > deadline:
            if self._level < len(ECONOMIES):
                swung = self._since_release < 2 * self._calm_needed
                self._calm_needed = min(MOST_CALM, 2 * self._calm_needed) if swung else CALM
                self._set(self._level + 1)
        elif self._calm >= self._calm_needed and self._level:
            self._set(self._level - 1)
            self._since_release = 0

    def _set(self, level: int) -> None:
        self._level = level
        self._calm = 0
        self._recent.clear()
