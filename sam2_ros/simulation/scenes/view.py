"""Smooth values over a clip, and the moving camera that films it.

World frame: the origin lies on the table's top, x points away from the robot, y to its left, z up; metres. A clip's
time runs from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Vector = NDArray[np.float64]
SAMPLES = 241  # of a path, evenly spread over the clip
TIMES = np.linspace(0, 1, SAMPLES)


def keyframes(times: Sequence[float], values: ArrayLike) -> Vector:
    """``[SAMPLES, ...]``: from value to value ``[K, ...]`` at ``times`` (ascending, 0 to 1), at rest at each."""
    points = np.asarray(values, np.float64)
    place = np.clip(np.searchsorted(times, TIMES, side="right") - 1, 0, len(times) - 2)
    starts, ends = np.asarray(times)[place], np.asarray(times)[place + 1]
    part = np.clip((TIMES - starts) / np.maximum(ends - starts, 1e-9), 0, 1)
    blend = (0.5 - 0.5 * np.cos(np.pi * part)).reshape(-1, *(1,) * (points.ndim - 1))
    return points[place] * (1 - blend) + points[place + 1] * blend


def wander(rng: np.random.Generator, amplitude: ArrayLike, knots: int = 3) -> Vector:
    """``[SAMPLES, ...]``: smooth random values between plus and minus ``amplitude`` ``[...]``."""
    size = np.asarray(amplitude, np.float64)
    return keyframes(np.linspace(0, 1, knots).tolist(), rng.uniform(-1, 1, (knots, *size.shape)) * size)


def at(path: Vector, time: float) -> Vector:
    """The value of a path ``[SAMPLES, ...]`` at a time; before 0 and after 1, the first and the last."""
    place = float(np.clip(time, 0, 1)) * (SAMPLES - 1)
    left = min(int(place), SAMPLES - 2)
    return np.asarray(path[left] + (place - left) * (path[left + 1] - path[left]))


class View:
    """A robot's camera over the table: where it is, where it looks, and how both change."""

    def __init__(self, rng: np.random.Generator, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.fovy = float(rng.uniform(38, 52))  # degrees
        far = rng.random() < 0.3
        distance = rng.uniform(0.85, 1.25) if far else rng.uniform(0.48, 0.82)
        pitch, turn = np.radians(rng.uniform(24, 56)), np.radians(rng.uniform(-30, 30))
        target = np.array([*rng.uniform(-0.08, 0.08, 2), 0.03])
        out = np.array([-np.cos(turn) * np.cos(pitch), np.sin(turn) * np.cos(pitch), np.sin(pitch)])
        kind = rng.choice(["still", "drift", "move", "look away"], p=[0.25, 0.4, 0.25, 0.1])
        sway = {"still": 0.0, "drift": 0.03, "move": 0.1, "look away": 0.03}[kind]
        self.eyes = target + distance * out + sway * distance / 0.6 * wander(rng, (0.8, 1.2, 0.6))
        self.targets = target + 0.8 * sway * distance / 0.6 * wander(rng, (0.6, 1.0, 0.0))
        self.roll = wander(rng, 0.06 * (kind == "move"))
        if kind != "still" and rng.random() < 0.4:  # the shaking of a moving robot
            self.targets = self.targets + 0.004 * distance * wander(rng, (1.0, 1.0, 0.0), int(rng.integers(12, 30)))
        if kind == "look away":
            begin, side = rng.uniform(0.15, 0.4), rng.choice((-1, 1)) * rng.uniform(0.5, 0.9) * distance
            turned = keyframes((0, begin, begin + 0.2, begin + 0.3, begin + 0.5, 1), (0, 0, 1, 1, 0, 0))
            self.targets = self.targets + turned[:, None] * (0, side, 0)

    def pose(self, time: float) -> tuple[Vector, Vector]:
        """The eye ``[3]`` and its axes as columns ``[3, 3]``: right, up, backward."""
        eye, target, roll = at(self.eyes, time), at(self.targets, time), float(at(self.roll, time))
        back = (eye - target) / np.linalg.norm(eye - target)
        right = np.cross((0, 0, 1.0), back)
        right /= np.linalg.norm(right)
        up = np.cross(back, right)
        right, up = np.cos(roll) * right + np.sin(roll) * up, np.cos(roll) * up - np.sin(roll) * right
        return eye, np.stack([right, up, back], axis=1)

    @property
    def _focal(self) -> float:
        return 0.5 * self.height / float(np.tan(np.radians(self.fovy) / 2))  # pixels

    def project(self, point: Vector, time: float) -> Vector:
        """Pixel and depth ``[3]`` (x, y, metres) of a point; the depth is negative behind the camera."""
        eye, axes = self.pose(time)
        x, y, back = (point - eye) @ axes
        depth = max(abs(back), 1e-6)
        return np.array([self.width / 2 + self._focal * x / depth, self.height / 2 - self._focal * y / depth, -back])

    def on_table(self, x: float, y: float) -> Vector | None:
        """The point ``[3]`` of the table's plane that a pixel shows at the start; None above the horizon."""
        eye, axes = self.pose(0.0)
        ray = axes @ np.array([(x - self.width / 2) / self._focal, -(y - self.height / 2) / self._focal, -1.0])
        return None if ray[2] > -0.05 else np.asarray(eye - ray * eye[2] / ray[2])

    def out_of_sight(self, point: Vector, time: float, margin: float, side: int) -> Vector:
        """The nearest point to one side (-1 left, 1 right) that the camera doesn't see; ``margin`` metres beyond."""
        _, axes = self.pose(time)
        step = side * axes[:, 0] * (1, 1, 0)
        found = point.astype(np.float64)
        for _ in range(80):
            x, _, depth = self.project(found - margin * step, time)
            if depth <= 0 or not 0 <= x <= self.width:
                break
            found = found + 0.04 * step
        return found
