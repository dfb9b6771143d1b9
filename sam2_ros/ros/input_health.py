"""Finds irregular images (stamps, frame id, encoding, resolution), for ``/diagnostics`` and the log."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping

from sam2_ros.text import printable

_SHOWN_FOR = 5.0  # seconds for which /diagnostics warns of a change
_TOLD_AT_ONCE, _TOLD_EVERY = 10, 5.0  # warnings of a kind; then the seconds between two

_STAMPS, _RESTART = "stamps not increasing", "restarts"
_KINDS = (_STAMPS, "frame id changes", "encoding changes", "resolution changes", _RESTART)


class InputHealth:
    """Compares every image with the one before it. Thread-safe."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        """Calls ``warn`` for every change; for stamps that do not increase, only for the first in a row.

        Of each kind, the first ten come at once, and from then on one every five seconds at most.
        """
        self._warn = warn
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        with self._lock:
            self._counts: Counter[str] = Counter()
            self._stamp: int | None = None
            self._last: dict[str, str] = {}  # by field
            self._in_order = True
            self._warning, self._warning_time = "", 0.0  # s, steady
            self._told: dict[str, tuple[int, float]] = {}  # by kind: warnings, and the time of the last, s

    def arrived(self, stamp: int, frame_id: str, encoding: str) -> None:
        """Checks an image's header; ``stamp`` in nanoseconds."""
        with self._lock:
            last, self._stamp = self._stamp, stamp
            in_order = last is None or stamp > last
            if not in_order:
                warning = f"stamps do not increase: {stamp / 1e9:.9f} s came after {(last or 0) / 1e9:.9f} s"
                self._count(_STAMPS, warning, log=self._in_order)
            self._in_order = in_order
            self._compare("frame_id", frame_id)
            self._compare("encoding", encoding)

    def processed(self, width: int, height: int) -> None:
        """Checks the size of a decoded image."""
        with self._lock:
            self._compare("resolution", f"{width}x{height}")

    def restarted(self, reason: str) -> None:
        """Counts a restart, which forgot all objects for ``reason``."""
        with self._lock:
            self._count(_RESTART, f"{reason}: every object is forgotten")

    def warning(self) -> str:
        """The last warning for a few seconds, then empty."""
        with self._lock:
            return self._warning if time.monotonic() - self._warning_time < _SHOWN_FOR else ""

    def values(self) -> Mapping[str, object]:
        with self._lock:
            return {
                "resolution": self._last.get("resolution", ""),
                "encoding": printable(self._last.get("encoding", "")),
                "frame id": printable(self._last.get("frame_id", "")),
                **{kind: self._counts[kind] for kind in _KINDS},
            }

    def _compare(self, field: str, value: str) -> None:
        before = self._last.get(field, value)
        self._last[field] = value
        if value != before:
            change = f"the images' {field} changed from '{printable(before)}' to '{printable(value)}'"
            self._count(f"{field.replace('_', ' ')} changes", change)

    def _count(self, kind: str, warning: str, log: bool = True) -> None:
        self._counts[kind] += 1
        self._warning, self._warning_time = warning, time.monotonic()
        told, last = self._told.get(kind, (0, 0.0))
        if log and (told < _TOLD_AT_ONCE or self._warning_time - last >= _TOLD_EVERY):
            self._told[kind] = told + 1, self._warning_time
            self._warn(warning)
