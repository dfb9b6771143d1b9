"""Pictures whose motion optical flow can see."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def texture(seed: int, width: int, height: int) -> NDArray[np.uint8]:
    """A smooth random picture, ``[height, width, 3]``."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    return np.asarray(cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC))


def background(seed: int, width: int, height: int) -> NDArray[np.uint8]:
    """Dark."""
    return texture(seed, width, height) // 2


def patch(seed: int, width: int, height: int) -> NDArray[np.uint8]:
    """Bright."""
    return 255 - texture(seed, width, height) // 2
