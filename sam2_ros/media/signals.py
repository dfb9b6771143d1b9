"""Signals that ask a program to end, as exceptions, so that it can complete its files and stop its children."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_Handler = Callable[[int, FrameType | None], object]


class Ended(KeyboardInterrupt):
    """A signal asked this program to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def exit_code(error: KeyboardInterrupt) -> int:
    """128 plus the signal's number, as a shell reports it: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
    return 128 + (error.number if isinstance(error, Ended) else signal.SIGINT)


@contextmanager
def signals_unwind(background: bool = True) -> Iterator[None]:
    """Within, SIGINT, SIGTERM and SIGHUP raise :class:`Ended`.

    A signal that is ignored, as SIGHUP by ``nohup``, stays so. With ``background`` that does not hold for SIGINT, which
    a process ignores when a script starts it in the background.
    """

    def leave(number: int, _: FrameType | None) -> None:
        raise Ended(number)

    heard = [
        number
        for number in _NUMBERS
        if signal.getsignal(number) is not signal.SIG_IGN or (background and number == signal.SIGINT)
    ]
    with _handled_by(leave, heard):
        yield


@contextmanager
def signals_wait() -> Iterator[None]:
    """Within, SIGINT, SIGTERM and SIGHUP have no effect; the first of them raises :class:`Ended` at the end."""
    came: list[int] = []
    heard = [number for number in _NUMBERS if signal.getsignal(number) is not signal.SIG_IGN]
    with _handled_by(lambda number, _: came.append(number), heard):
        yield
    if came:
        raise Ended(came[0])


@contextmanager
def _handled_by(handler: _Handler, numbers: list[signal.Signals]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only that one can
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
