"""Turns for what does one thing at a time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """First come, first served. Thread-safe; who has the turn may ask for it again."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._owner = 0  # the thread that has the turn
        self._queue: deque[object] = deque()  # of waiting users; the first one has the turn

    @contextmanager
    def turn(self) -> Iterator[None]:
        if self._owner == threading.get_ident():
            yield
            return
        ticket = object()
        with self._changed:
            self._queue.append(ticket)
        try:
            with self._changed:
                self._changed.wait_for(lambda: self._queue[0] is ticket)
                self._owner = threading.get_ident()
            yield
        finally:  # also where a signal ended the wait
            with self._changed:
                if self._owner == threading.get_ident():
                    self._owner = 0
                self._queue.remove(ticket)
                self._changed.notify_all()
