"""What is odd about the images that arrive, for ``/diagnostics`` and the log."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping

_SHOWN_FOR = 5.0  # seconds that an oddity is warned of

STAMPS = "stamps not increasing"
FRAME_ID = "frame id changes"
ENCODING = "encoding changes"
RESOLUTION = "resolution changes"
RESTART = "restarts"
_KINDS = (STAMPS, FRAME_ID, ENCODING, RESOLUTION, RESTART)


class InputHealth:
    """Compares every image with the one before it. Thread-safe."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        """``warn`` is told of every change; of stamps that do not increase only of the first in a row."""
        self._warn = warn
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        with self._lock:
            self._counts: Counter[str] = Counter()
            self._stamp: int | None = None
            self._known: dict[str, str] = {}  # by kind
            self._in_order = True
            self._oddity = ""
            self._oddity_time = 0.0  # s, steady

    def arrived(self, stamp: int, frame_id: str, encoding: str) -> None:
        """Notes an image's header; ``stamp`` in nanoseconds."""
        with self._lock:
            last, self._stamp = self._stamp, stamp
            in_order = last is None or stamp > last
            if not in_order:
                told = f"stamps do not increase: {stamp / 1e9:.9f} s came after {(last or 0) / 1e9:.9f} s"
                self._note(STAMPS, told, tell=self._in_order)
            self._in_order = in_order
            self._compare(FRAME_ID, "the images' frame_id", frame_id)
            self._compare(ENCODING, "the images' encoding", encoding)

    def processed(self, width: int, height: int) -> None:
        """Notes an image's size, known once it is decoded."""
        with self._lock:
            self._compare(RESOLUTION, "the images' resolution", f"{width}x{height}")

    def restarted(self, reason: str) -> None:
        """Notes that objects were forgotten, and why."""
        with self._lock:
            self._note(RESTART, f"{reason}: every object is forgotten")

    def warning(self) -> str:
        """The last oddity, for a while; empty while all is well."""
        with self._lock:
            return self._oddity if time.monotonic() - self._oddity_time < _SHOWN_FOR else ""

    def values(self) -> Mapping[str, object]:
        with self._lock:
            return {
                "resolution": self._known.get(RESOLUTION, ""),
                "encoding": self._known.get(ENCODING, ""),
                "frame id": self._known.get(FRAME_ID, ""),
                **{kind: self._counts[kind] for kind in _KINDS},
            }

    def _compare(self, kind: str, what: str, value: str) -> None:
        before = self._known.get(kind, value)
        self._known[kind] = value
        if value != before:
            self._note(kind, f"{what} changed from '{before}' to '{value}'")

    def _note(self, kind: str, oddity: str, tell: bool = True) -> None:
        self._counts[kind] += 1
        self._oddity, self._oddity_time = oddity, time.monotonic()
        if tell:
            self._warn(oddity)
