"""Text from outside, made fit to be shown: in logs, messages, diagnostics and on a terminal."""

from __future__ import annotations

import re

SHOWN = 100  # characters


def printable(text: object, limit: int = SHOWN) -> str:
    """``text`` on one line of at most ``limit`` characters, without control characters or lone surrogates.

    What can't be printed is written as an escape, such as ``\\x1b``. A longer text is cut and its length added. Use it
    for every text that comes from a message, a file or another process, before it is shown or logged.
    """
    whole = str(text)
    shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in whole[:limit])
    if len(whole) <= limit and len(shown) <= limit:
        return shown
    return f"{shown[:limit]}… ({len(whole)} characters)"


def counted(number: int, noun: str) -> str:
    """``number`` and ``noun``, in the plural unless there is one."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def without_password(source: str) -> str:
    """A SOURCE as it may be shown: of an address, without user and password."""
    return re.sub(r"^([a-z]+://)[^/@]*@", r"\1", source)
