"""The scene's materials: functions from points in a body's coordinates (metres) to colours."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

Colors = NDArray[np.float32]  # [N, 3] RGB, 0 to 1
Points = NDArray[np.float32]  # [N, 3] metres, in the coordinates of the geom
Material = Callable[[Points], Colors]

_GRAIN = 64  # texels along a side of the noise, which repeats


@cache
def _noise() -> NDArray[np.float32]:
    """Periodic noise of three sizes, ``[64, 64, 64]``, about -1 to 1."""
    random = np.random.default_rng(7)
    total = np.zeros((_GRAIN,) * 3, np.float32)
    for size, weight in ((8, 0.6), (16, 0.4), (64, 0.25)):
        coarse = random.standard_normal((size,) * 3).astype(np.float32)
        for axis in range(3):
            coarse = np.repeat(coarse, _GRAIN // size, axis=axis)
            for _ in range(2 if size < _GRAIN else 0):  # smooths the repeated values
                width = _GRAIN // size
                coarse = np.mean([np.roll(coarse, shift, axis) for shift in range(width)], axis=0, dtype=np.float32)
        total += weight * coarse / coarse.std()
    return total / np.float32(2 * total.std())


def grain(points: Points, scale: tuple[float, float, float]) -> NDArray[np.float32]:
    """Noise at ``points``; ``scale`` is texels per metre along each axis."""
    x, y, z = (np.floor(points[:, axis] * scale[axis]).astype(np.int64) % _GRAIN for axis in range(3))
    return _noise()[x, y, z]


def _plain(color: tuple[float, float, float], contrast: float, scale: float) -> Material:
    def paint(points: Points) -> Colors:
        shade = 1 + contrast * grain(points, (scale, scale, scale))
        return np.asarray(color, np.float32) * shade[:, None]

    return paint


def _wood(points: Points) -> Colors:
    shade = 1 + 0.16 * grain(points, (320, 25, 200)) + 0.07 * grain(points, (900, 160, 500))
    plank = np.floor(points[:, 0] / 0.14)
    shade += 0.05 * np.sin(12.9 * plank)
    shade[np.abs(points[:, 0] / 0.14 - np.round(points[:, 0] / 0.14)) < 0.012] *= 0.72  # joints between planks
    return np.asarray((0.56, 0.40, 0.26), np.float32) * shade[:, None]


def _mug(points: Points) -> Colors:
    """Glazed green with rows of pale dots."""
    around, up = np.arctan2(points[:, 1], points[:, 0]) * 5 / np.pi, points[:, 2] / 0.028
    row = np.floor(up)
    dots = np.hypot((around + 0.5 * (row % 2)) % 1 - 0.5, up % 1 - 0.5) < 0.28
    base = np.where(dots[:, None], (0.93, 0.89, 0.74), (0.10, 0.38, 0.20)).astype(np.float32)
    return base * (1 + 0.06 * grain(points, (500, 500, 500)))[:, None]


def _ball(points: Points) -> Colors:
    shade = 1 + 0.10 * grain(points, (700, 700, 700)) + 0.05 * grain(points, (200, 200, 200))
    return np.asarray((0.93, 0.47, 0.08), np.float32) * shade[:, None]


@cache
def _print(kind: str) -> NDArray[np.float32]:
    """The printed face of a package, ``[H, W, 3]``, at most 4 pixels per millimetre."""
    if kind == "carton":
        image = np.full((300, 200, 3), (38, 96, 150), np.uint8)
        cv2.rectangle(image, (0, 0), (200, 60), (236, 226, 196), -1)
        cv2.putText(image, "OATS", (22, 46), cv2.FONT_HERSHEY_DUPLEX, 1.7, (170, 40, 30), 4, cv2.LINE_AA)
        cv2.ellipse(image, (100, 185), (70, 40), 0, 0, 360, (240, 236, 226), -1, cv2.LINE_AA)
        cv2.ellipse(image, (100, 175), (54, 26), 0, 0, 360, (206, 160, 84), -1, cv2.LINE_AA)
        for index in range(9):
            place = (60 + 10 * index, 172 + (index * 7) % 13)
            cv2.circle(image, place, 7, (226, 190, 120), -1, cv2.LINE_AA)
        cv2.putText(image, "500 g", (60, 275), cv2.FONT_HERSHEY_DUPLEX, 0.9, (255, 255, 255), 2, cv2.LINE_AA)
    else:
        image = np.full((200, 400, 3), (176, 30, 34), np.uint8)
        cv2.rectangle(image, (0, 70), (400, 130), (240, 234, 220), -1)
        for left in (20, 220):
            cv2.putText(image, "TOMATO", (left, 114), cv2.FONT_HERSHEY_DUPLEX, 1.2, (30, 90, 40), 3, cv2.LINE_AA)
            cv2.circle(image, (left + 80, 35), 22, (222, 90, 50), -1, cv2.LINE_AA)
            cv2.circle(image, (left + 60, 165), 18, (222, 90, 50), -1, cv2.LINE_AA)
    return cv2.GaussianBlur(image, (3, 3), 0).astype(np.float32) / 255


def _look_up(image: NDArray[np.float32], u: NDArray, v: NDArray) -> Colors:
    """``u`` from left to right and ``v`` from top to bottom, 0 to 1."""
    height, width = image.shape[:2]
    rows = np.clip((v * height).astype(np.int64), 0, height - 1)
    return image[rows, np.clip((u * width).astype(np.int64), 0, width - 1)]


def _carton(points: Points) -> Colors:
    """The same print on every side; top and bottom are plain."""
    x, y, z = points[:, 0] / 0.03, points[:, 1] / 0.05, points[:, 2] / 0.075
    front = np.abs(x) >= np.abs(y)
    u = np.where(front, np.sign(x) * y, -np.sign(y) * x)
    colors = _look_up(_print("carton"), (u + 1) / 2, (1 - z) / 2)
    colors[np.abs(z) > 0.999] = (0.86, 0.82, 0.72)
    return colors * (1 + 0.04 * grain(points, (500, 500, 500)))[:, None]


def _label(points: Points) -> Colors:
    angle = np.arctan2(points[:, 1], points[:, 0]) / (2 * np.pi) + 0.5
    colors = _look_up(_print("can"), angle, 0.5 - points[:, 2] / 0.116)
    colors[np.abs(points[:, 2]) > 0.0579] = (0.62, 0.63, 0.65)
    return colors * (1 + 0.04 * grain(points, (500, 500, 500)))[:, None]


MATERIALS: dict[str, Material] = {
    "floor": _plain((0.36, 0.35, 0.34), 0.22, 30),
    "wall": _plain((0.66, 0.68, 0.67), 0.05, 25),
    "table": _wood,
    "ceramic": _mug,
    "coffee": _plain((0.16, 0.09, 0.05), 0.10, 300),
    "carton": _carton,
    "ball": _ball,
    "label": _label,
    "metal": _plain((0.60, 0.61, 0.63), 0.06, 400),
    "paint": _plain((0.20, 0.21, 0.23), 0.15, 200),
    "joint": _plain((0.12, 0.12, 0.13), 0.10, 250),
}
SHINY = {"ceramic": 0.35, "metal": 0.5, "label": 0.15, "ball": 0.1, "paint": 0.15}
