"""Faults for the fuzzers: in bytes, and in JSON values."""

from __future__ import annotations

import random
import struct
from typing import Any

SIZES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 1 << 24, 1 << 28, 0x7FFFFFFF, 0xFFFFFFFF)
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**31, 2**63, 10**400, 1e308, -0.5, float("nan"), float("inf"), "", "a\0b", "\ud800",
    "\x1b[31m", "x" * 1000, "../../etc/passwd", [], {}, [[]], [[1, 2]] * 50, {"box": 1}, [1, 2, 3, 4],
)  # fmt: skip


def flipped(data: bytes, source: random.Random) -> bytes:
    """One to four faults: flipped bits, other bytes, odd sizes, cuts, copies and additions."""
    changed = bytearray(data)
    for _ in range(source.randint(1, 4)):
        place, kind = source.randrange(len(changed) + 1), source.randrange(7)
        if kind <= 1 and place < len(changed):
            changed[place] ^= 1 << source.randrange(8)
        elif kind == 2 and place < len(changed):
            changed[place] = source.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF))
        elif kind == 3 and place + 4 <= len(changed):
            struct.pack_into(source.choice("<>") + "I", changed, place, source.choice(SIZES))
        elif kind == 4 and source.random() < 0.3:
            del changed[place:]
        elif kind == 5:
            other = source.randrange(len(changed) + 1)
            changed[place : place + source.randint(0, 40)] = changed[other : other + source.randint(0, 40)]
        elif kind == 6:
            changed[place:place] = source.randbytes(source.randint(1, 30))
    return bytes(changed)


def altered(value: Any, source: random.Random) -> Any:
    """A JSON value with one part replaced."""
    if isinstance(value, (list, dict)) and value and source.random() < 0.85:
        key = source.choice(list(value) if isinstance(value, dict) else range(len(value)))
        copy = value.copy()
        if source.random() < 0.1:
            del copy[key]
        else:
            copy[key] = altered(copy[key], source)
        return copy
    return source.choice(VALUES)


def rearranged(parts: list[Any], source: random.Random) -> list[Any]:
    """The list with one part missing, twice, or in another place."""
    place, other = source.randrange(len(parts)), source.randrange(len(parts))
    rest = parts[:place] + parts[place + 1 :]
    kind = source.randrange(3)
    if kind == 0:
        return rest
    if kind == 1:
        return [*parts[:other], parts[place], *parts[other:]]
    return [*rest[:other], parts[place], *rest[other:]]
