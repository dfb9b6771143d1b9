"""Finds irregular images (stamps, frame id, encoding, resolution), for ``/diagnostics`` and the log."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping

_SHOWN_FOR = 5.0  # seconds for which /diagnostics warns of a change

STAMPS = "stamps not increasing"
FRAME_ID = "frame id changes"
ENCODING = "encoding changes"
RESOLUTION = "resolution changes"
RESTART = "restarts"
_KINDS = (STAMPS, FRAME_ID, ENCODING, RESOLUTION, RESTART)


class InputHealth:
    """Compares every image with the one before it. Thread-safe."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        """Calls ``warn`` for every change; for stamps that do not increase, only for the first in a row."""
        self._warn = warn
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        with self._lock:
            self._counts: Counter[str] = Counter()
            self._stamp: int | None = None
            self._last: dict[str, str] = {}  # by kind
            self._in_order = True
            self._warning = ""
            self._warning_time = 0.0  # s, steady

    def arrived(self, stamp: int, frame_id: str, encoding: str) -> None:
        """Checks an image's header; ``stamp`` in nanoseconds."""
        with self._lock:
            last, self._stamp = self._stamp, stamp
            in_order = last is None or stamp > last
            if not in_order:
                warning = f"stamps do not increase: {stamp / 1e9:.9f} s came after {(last or 0) / 1e9:.9f} s"
                self._count(STAMPS, warning, log=self._in_order)
            self._in_order = in_order
            self._compare(FRAME_ID, "the images' frame_id", frame_id)
            self._compare(ENCODING, "the images' encoding", encoding)

    def processed(self, width: int, height: int) -> None:
        """Checks the size of a decoded image."""
        with self._lock:
            self._compare(RESOLUTION, "the images' resolution", f"{width}x{height}")

    def restarted(self, reason: str) -> None:
        """Counts a restart, which forgot all objects for ``reason``."""
        with self._lock:
            self._count(RESTART, f"{reason}: every object is forgotten")

    def warning(self) -> str:
        """The last warning for a few seconds, then empty."""
        with self._lock:
            return self._warning if time.monotonic() - self._warning_time < _SHOWN_FOR else ""

    def values(self) -> Mapping[str, object]:
        with self._lock:
            return {
                "resolution": self._last.get(RESOLUTION, ""),
                "encoding": self._last.get(ENCODING, ""),
                "frame id": self._last.get(FRAME_ID, ""),
                **{kind: self._counts[kind] for kind in _KINDS},
            }

    def _compare(self, kind: str, what: str, value: str) -> None:
        before = self._last.get(kind, value)
        self._last[kind] = value
        if value != before:
            self._count(kind, f"{what} changed from '{before}' to '{value}'")

    def _count(self, kind: str, warning: str, log: bool = True) -> None:
        self._counts[kind] += 1
        self._warning, self._warning_time = warning, time.monotonic()
        if log:
            self._warn(warning)
