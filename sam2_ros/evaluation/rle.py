"""Masks as COCO's compressed run lengths, in which SA-V's training set stores its masklets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sam2_ros.evaluation.metrics import Mask


def decode(rle: Mapping[str, Any]) -> Mask:
    """The mask of ``{"size": [height, width], "counts": "…"}``.

    Runs alternate between background and object, down the columns from the top left. In the text, a number is a row of
    characters from "0" on, five bits each, the lowest first; the sixth bit says that more follow, and the last
    character's fifth bit is the sign. From the fourth run on, the number is the difference to the run two before.

    Raises:
        ValueError: no such text, or runs that do not fill the size.
    """
    height, width = (int(side) for side in rle["size"])
    counts = rle["counts"]
    text = counts if isinstance(counts, bytes) else str(counts).encode("ascii")
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = character - 48
        if not 0 <= bits < 64:
            raise ValueError(f"character {chr(character)!r} is in no run length; accepted: COCO's compressed text")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift or min(runs, default=0) < 0 or sum(runs) != height * width:
        raise ValueError(f"run lengths add up to {sum(runs)} pixels; accepted: the {height * width} of the size")
    values = np.arange(len(runs)) % 2 == 1
    return np.asarray(np.repeat(values, runs).reshape((height, width), order="F"))
