"""When a free engine should wait for the next image rather than take one that is nearly a period old.

After "shrinking tail" in Li, Wang and Ramanan, "Towards Streaming Perception", ECCV 2020: it waits where the image that
is there after its answer would have waited shorter than this one has. Here it also waits only briefly, so that it loses
little of its rate.
"""

from __future__ import annotations

import statistics
from collections import deque

LONGEST_WAIT = 0.1  # of the time that the engine takes for an image
_INTERVALS = 9  # that the period is the median of


def seconds_to_wait(age: float, latency: float, period: float) -> float:
    """For an image that came ``age`` seconds ago; 0 where the engine should take it.

    Args:
        latency: seconds that the engine takes for an image.
        period: seconds between images.
    """
    rest = period - age
    worth = 0 < rest <= LONGEST_WAIT * latency and (age + latency) % period < age
    return rest if worth else 0.0


class Pace:
    """Learns period and latency from what happens. Not thread-safe; times are nanoseconds of the steady clock."""

    def __init__(self) -> None:
        self._last = 0
        self._intervals: deque[int] = deque(maxlen=_INTERVALS)
        self._latency = 0

    def arrived(self, now: int) -> None:
        """An image came."""
        if self._last:
            self._intervals.append(now - self._last)
        self._last = now

    def processed(self, nanoseconds: int) -> None:
        """The engine took so long for an image."""
        self._latency = nanoseconds

    def seconds_to_wait(self, now: int) -> float:
        """For the image that came last."""
        if len(self._intervals) < _INTERVALS:
            return 0.0
        period = statistics.median(self._intervals)
        return seconds_to_wait((now - self._last) / 1e9, self._latency / 1e9, period / 1e9)
