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
MAX_HEADER_BYTES = 32 << 20  # of a request
MAX_VALUES = 50_000  # in a request's header; 1024 prompts have 31,000
_MAX_LENGTH = 1 << 16  # of a list or map in a header
_MAX_PARTS = 3
_SEQUENCE_WITHIN = 256  # bytes of a header in which its "seq" is looked for without reading the rest
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


def unpack(parts: Sequence[memoryview | bytes], max_header: int, max_values: int = 0) -> Header:
    """The header of a message, of up to ``max_header`` bytes and ``max_values`` values (0 = any number).

    Values are counted before they are made: a byte on the wire may become an object of 60.

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
    if len(parts[1]) > max_header:
        accepted = f"accepted: up to {max_header}; send less at a time"
        raise ProtocolError(f"the header has {len(parts[1])} bytes; {accepted}", TOO_LARGE)
    if max_values and _has_more_values(parts[1], max_values):
        raise ProtocolError(f"the header has more than {max_values} values; send less at a time", TOO_LARGE)
    try:
        header = msgpack.unpackb(
            parts[1], raw=False, strict_map_key=True, max_array_len=_MAX_LENGTH, max_map_len=_MAX_LENGTH
        )
    except Exception as error:  # msgpack raises ValueError, its own classes, RecursionError
        raise ProtocolError(f"the header is no msgpack map: {type(error).__name__}: {error}") from error
    if not isinstance(header, dict) or not all(isinstance(key, str) for key in header):
        raise ProtocolError(f"the header is {type(header).__name__}; accepted: a map with text keys")
    return header


def check_size(parts: Sequence[memoryview | bytes], max_bytes: int) -> None:
    """
    Raises:
        ProtocolError: TOO_LARGE.
    """
    size = sum(len(part) for part in parts)
    if size > max_bytes:
        accepted = f"accepted: up to {max_bytes}; send smaller images, or JPEG"
        raise ProtocolError(f"the message has {size} bytes; {accepted}", TOO_LARGE)


def find_sequence(parts: Sequence[memoryview | bytes]) -> int:
    """The ``seq`` of a message that can't be read, so that its client knows the answer; 0 if it is not found."""
    reader = msgpack.Unpacker(max_buffer_size=_SEQUENCE_WITHIN, strict_map_key=True)
    try:
        reader.feed(bytes(parts[1][:_SEQUENCE_WITHIN]))
        for _ in range(reader.read_map_header()):
            key, value = reader.unpack(), reader.unpack()
            if key == "seq" and type(value) is int and 0 <= value < 1 << 63:
                return value
    except Exception:  # as in unpack
        pass
    return 0


def _size_table() -> tuple[list[int], dict[int, tuple[int, int]]]:
    """By the first byte of a msgpack value: its bytes, without the elements of a list or map; or the bytes of its
    length, and those before its content."""
    sizes = [1] * 256
    for first in range(0xA0, 0xC0):
        sizes[first] = 1 + (first & 31)
    for first, size in zip(range(0xCA, 0xD9), (5, 9, 2, 3, 5, 9, 2, 3, 5, 9, 3, 4, 6, 10, 18), strict=True):
        sizes[first] = size
    for first, size in zip(range(0xDC, 0xE0), (3, 5, 3, 5), strict=True):
        sizes[first] = size
    lengths = {first: (1 << index, 0) for index, first in enumerate((0xC4, 0xC5, 0xC6))}
    lengths |= {first: (1 << index, 1) for index, first in enumerate((0xC7, 0xC8, 0xC9))}
    lengths |= {first: (1 << index, 0) for index, first in enumerate((0xD9, 0xDA, 0xDB))}
    return sizes, lengths


_SIZES, _LENGTHS = _size_table()


def _has_more_values(data: memoryview | bytes, most: int) -> bool:
    at, count, end = 0, 0, len(data)
    while at < end:
        count += 1
        if count > most:
            return True
        first = data[at]
        if first in _LENGTHS:
            digits, more = _LENGTHS[first]
            at += 1 + digits + more + int.from_bytes(data[at + 1 : at + 1 + digits], "big")
        else:
            at += _SIZES[first]
    return False


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
    if isinstance(value, str):
        value = value[:60]
    shown = repr(value) if isinstance(value, (int, float, str, type(None))) else type(value).__name__
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
