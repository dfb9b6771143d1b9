"""The wire protocol of the inference server: docs/reference/protocol.md. Imports no torch.

A message is two or three ZeroMQ parts: ``b"sam2/1"``, a msgpack map (the header), and the pixels of a frame if they are
not in shared memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgpack

NAME = b"sam2/"
VERSION = 1
PREFIX = NAME + str(VERSION).encode()
_MAX_PARTS = 3
_SHOWN_PREFIX = 17  # bytes of a wrong one that the answer shows

# Codes of refused requests; a message beside the code says what was wrong, what is accepted and what to do.
BAD_VERSION = "VERSION"
MALFORMED = "MALFORMED"
TOO_LARGE = "TOO_LARGE"
NO_STREAM = "NO_STREAM"  # the server restarted, or the stream was idle for too long
LIMIT = "LIMIT"
BUSY = "BUSY"
DROPPED = "DROPPED"  # a newer frame replaced this one
DRAINING = "DRAINING"
PROMPT = "PROMPT"  # a prompt was refused, with a ``prompt_code``
INVALID = "INVALID"  # a value that the engine does not accept
FAILED = "FAILED"

Header = dict[str, Any]


class ProtocolError(ValueError):
    """A malformed or forbidden message; ``code`` is a constant of this module."""

    def __init__(self, message: str, code: str = MALFORMED) -> None:
        super().__init__(message)
        self.code = code


def pack(header: Mapping[str, Any]) -> list[bytes]:
    """The first two parts of a message."""
    return [PREFIX, msgpack.packb(dict(header), use_bin_type=True)]


def unpack(parts: Sequence[memoryview | bytes], max_bytes: int) -> Header:
    """The header of a message.

    Raises:
        ProtocolError: BAD_VERSION, MALFORMED or TOO_LARGE.
    """
    if not 2 <= len(parts) <= _MAX_PARTS:
        raise ProtocolError(f"the message has {len(parts)} parts; accepted: 2 or {_MAX_PARTS}")
    prefix = bytes(parts[0][:_SHOWN_PREFIX])
    if prefix.startswith(NAME) and prefix != PREFIX:
        other = prefix[len(NAME) :].decode("ascii", "replace")
        accepted = f"accepted: {VERSION}; use the same sam2_ros on both sides"
        raise ProtocolError(f"protocol version {other[:8]!r}; {accepted}", BAD_VERSION)
    if prefix != PREFIX:
        raise ProtocolError(f"the first part is {prefix!r}; accepted: {PREFIX!r}")
    size = sum(len(part) for part in parts)
    if size > max_bytes:
        accepted = f"accepted: up to {max_bytes}; send smaller images, or JPEG"
        raise ProtocolError(f"the message has {size} bytes; {accepted}", TOO_LARGE)
    try:
        header = msgpack.unpackb(parts[1], raw=False, strict_map_key=True)
    except Exception as error:  # msgpack raises ValueError, its own classes, RecursionError
        raise ProtocolError(f"the header is no msgpack map: {type(error).__name__}: {error}") from error
    if not isinstance(header, dict) or not all(isinstance(key, str) for key in header):
        raise ProtocolError(f"the header is {type(header).__name__}; accepted: a map with text keys")
    return header


def integer(header: Mapping[str, Any], key: str, low: int, high: int) -> int:
    """An integer field of the header.

    Raises:
        ProtocolError: MALFORMED: missing, not an integer, or out of range.
    """
    value = header.get(key)
    if type(value) is not int or not low <= value <= high:
        raise ProtocolError(f"{key} is {_short(value)}; accepted: a whole number from {low} to {high}")
    return value


def text(header: Mapping[str, Any], key: str, most: int = 256) -> str:
    """A text field of the header.

    Raises:
        ProtocolError: MALFORMED: missing, not text, or too long.
    """
    value = header.get(key)
    if not isinstance(value, str) or len(value) > most:
        raise ProtocolError(f"{key} is {_short(value)}; accepted: text of up to {most} characters")
    return value


def _short(value: object) -> str:
    shown = repr(value) if isinstance(value, (int, float, str, type(None))) else type(value).__name__
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
