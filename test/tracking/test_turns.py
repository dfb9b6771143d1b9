"""Turns for what does one thing at a time."""

from __future__ import annotations

import signal
import threading

import pytest

from sam2_ros.tracking.turns import Turns

PATIENCE = 60.0  # seconds until a test that waits in vain fails


def test_who_is_interrupted_while_it_waits_leaves_the_queue() -> None:
    """Ctrl-C in one thread of a program must not stop its others for ever."""
    turns, has_it, goes_on = Turns(), threading.Event(), threading.Event()

    def first() -> None:
        with turns.turn():
            has_it.set()
            goes_on.wait(PATIENCE)

    holder = threading.Thread(target=first)
    holder.start()
    assert has_it.wait(PATIENCE)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            with turns.turn():
                pytest.fail("another one has the turn")
    finally:
        signal.signal(signal.SIGALRM, before)
    goes_on.set()
    holder.join(PATIENCE)
    last = threading.Thread(target=first, daemon=True)
    has_it.clear()
    last.start()
    assert has_it.wait(PATIENCE)
    last.join(PATIENCE)
