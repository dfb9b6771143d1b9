"""Decodes RVL, a lossless coding of depth images (Wilson, "Fast Lossless Depth Image Compression", ISS 2017).

The image is a sequence of runs: how many pixels without depth follow, how many with depth, and for each of those the
difference to the one before. Every number is a chain of nibbles of three bits, the lowest first; the fourth bit says
that another one follows. Eight nibbles make a little-endian word, the first in its highest bits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sam2_ros.media.picture_decoder import PictureError

MAX_PIXELS = 1 << 22  # runs are read one by one
_LONGEST = 11  # nibbles of a number
_MOST_BYTES = 4  # of a pixel: how many without and with depth, each a nibble, and a difference of six nibbles


def decode_rvl(data: bytes, width: int, height: int) -> NDArray[np.uint16]:
    """Depth, ``uint16 [height, width]``; 0 where there is none.

    Raises:
        PictureError: too large, or damaged.
    """
    if not 0 < width * height <= MAX_PIXELS:
        raise PictureError(f"an RVL image of {width} x {height} pixels; accepted: up to {MAX_PIXELS} pixels")
    pixels = width * height
    numbers = _numbers(data[: _MOST_BYTES * pixels])[: 3 * pixels]
    listed, runs = numbers.tolist(), []
    place = at = 0
    while place < pixels:
        without, having = listed[at : at + 2] if at + 2 <= len(listed) else (0, 0)
        place, at = place + without, at + 2
        if not without + having or place + having > pixels or at + having > len(listed):
            raise PictureError("the RVL image is damaged")
        runs.append((place, at, having))
        place, at = place + having, at + having
    places, starts, counts = np.array(runs, np.int64).T
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    coded = numbers[np.repeat(starts, counts) + within]
    depth = np.zeros(pixels, np.int64)
    depth[np.repeat(places, counts) + within] = np.cumsum((coded >> 1) ^ -(coded & 1))
    if depth.min() < 0 or depth.max() > 0xFFFF:
        raise PictureError("the RVL image is damaged: a depth is beyond 16 bits")
    return depth.astype(np.uint16).reshape(height, width)


def _numbers(data: bytes) -> NDArray[np.int64]:
    """All numbers; what is incomplete at the end is left out."""
    words = np.frombuffer(data, "<u4", len(data) // 4)
    nibbles = ((words[:, None] >> np.arange(28, -4, -4, dtype=np.uint32)) & 15).ravel().astype(np.int64)
    ends = np.flatnonzero(nibbles < 8)
    if not len(ends):
        return ends
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > _LONGEST:
        raise PictureError("the RVL image is damaged")
    within = np.arange(ends[-1] + 1) - np.repeat(starts, lengths)
    return np.add.reduceat((nibbles[: ends[-1] + 1] & 7) << (3 * within), starts)
