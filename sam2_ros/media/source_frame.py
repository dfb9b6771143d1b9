"""What every source of frames gives, and what its parts share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from sam2_ros.media.errors import UserError

Rgb = NDArray[np.uint8]
DEFAULT_FPS = 30.0  # if the source gives no rate


@dataclass(frozen=True)
class Frame:
    """One frame: ``rgb`` is ``uint8 [H, W, 3]``, ``stamp`` in nanoseconds (files: from 0 on; live: Unix time)."""

    index: int
    name: str  # "000012", or the image's file name without suffix
    stamp: int
    rgb: Rgb


class Source(Protocol):
    """A sequence of frames. ``length`` is None if it is unknown."""

    fps: float
    length: int | None

    def __iter__(self) -> Iterator[Frame]: ...


def note(text: str) -> None:
    """Tells the user on stderr of something odd that does not end the work."""
    print(f"sam2_ros: {text}", file=sys.stderr, flush=True)


def same_size(bgr: NDArray[Any], shape: tuple[int, ...] | None, where: str) -> tuple[int, ...]:
    """
    Raises:
        UserError: the frame's shape is not that of the frames before.
    """
    if shape is not None and bgr.shape != shape:
        raise UserError(
            f"{where}: {bgr.shape[1]}x{bgr.shape[0]} pixels, but the frames before have {shape[1]}x{shape[0]}; "
            "accepted: frames of one size"
        )
    return bgr.shape


def to_rgb(bgr: NDArray[Any]) -> Rgb:
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
