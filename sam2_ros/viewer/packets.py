"""A picture with its objects as one message for the browser.

Layout, little-endian: ``uint32`` length of the header; the header, JSON in UTF-8, padded with spaces to a multiple of
4; the contours of every object, ``int16`` pairs x, y; the picture, JPEG or PNG.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from sam2_ros.media.overlay import object_color

JPEG_QUALITY = 82


def pack(header: Mapping[str, object], points: Sequence[NDArray[np.int16]], picture: bytes) -> bytes:
    """One message; ``points`` are the contours ``int16 [n, 2]`` of all objects."""
    text = json.dumps(header, allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    contours = np.concatenate(points).astype("<i2").tobytes() if points else b""
    return np.uint32(len(text)).astype("<u4").tobytes() + text + contours + picture


def jpeg(rgb: NDArray[np.uint8], max_side: int) -> bytes:
    """A picture, RGB ``uint8 [H, W, 3]``, scaled down to ``max_side`` pixels.

    Raises:
        ValueError: it can't be encoded.
    """
    height, width = rgb.shape[:2]
    if max(height, width) > max_side:
        scale = max_side / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        rgb = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
    done, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise ValueError(f"an image of {width} x {height} pixels can't be encoded as JPEG")
    return data.tobytes()


def css_color(object_id: int) -> str:
    """The colour of an id."""
    return "#{:02x}{:02x}{:02x}".format(*object_color(object_id))


def finite(value: float, digits: int) -> float:
    """A rounded number; 0 for NaN and infinity, which JSON has not."""
    return round(float(value), digits) if math.isfinite(value) else 0.0
