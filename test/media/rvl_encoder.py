"""An encoder of RVL depth images (Wilson 2017), as simple as it can be."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray


def rvl(depth: NDArray[np.uint16]) -> bytes:
    """The coded image, ``uint16 [H, W]``."""
    pixels = [int(value) for value in depth.ravel()]
    nibbles: list[int] = []

    def put(number: int) -> None:
        while True:
            nibble, number = number & 7, number >> 3
            nibbles.append(nibble | 8 if number else nibble)
            if not number:
                return

    at = previous = 0
    while at < len(pixels):
        zeros = at
        while zeros < len(pixels) and not pixels[zeros]:
            zeros += 1
        end = zeros
        while end < len(pixels) and pixels[end]:
            end += 1
        put(zeros - at)
        put(end - zeros)
        for value in pixels[zeros:end]:
            difference, previous = value - previous, value
            put(2 * difference if difference >= 0 else -2 * difference - 1)
        at = end
    nibbles += [0] * (-len(nibbles) % 8)
    words = [
        int("".join(f"{nibble:x}" for nibble in nibbles[first : first + 8]), 16) for first in range(0, len(nibbles), 8)
    ]
    return struct.pack(f"<{len(words)}I", *words)
