"""Clips with twins: two equal objects whose paths cross, one before the other."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from sam2_ros.media.rendered_scene import texture
from sam2_ros.training.clips import Clip


def twins_clip(seed: int, steps: int, width: int, height: int) -> Clip:
    """Twins with labels 1 and 2 on smooth paths that cross in the middle of the clip; 2 passes before 1.

    Equal seeds give equal clips.

    Args:
        steps: frames.
        width, height: of a frame, pixels.
    """
    frames, labels = [], []
    rng = np.random.default_rng(seed)
    ground = texture(width, height, 10_000 + seed, (120, 130, 120), 30)
    red, green, blue = (int(value) for value in rng.integers(50, 220, 3))
    skin = texture(width, height, 20_000 + seed, (red, green, blue), 50)
    half = rng.uniform(0.08, 0.13, 2) * height
    corner_count = int(rng.integers(3, 7))
    angles = np.sort(rng.uniform(0, 2 * np.pi, corner_count)) if corner_count > 4 else None
    miss = rng.uniform(-1.2, 1.2) * half[1]  # how far apart they pass
    bend = rng.uniform(-0.15, 0.15, 2) * height
    for index in range(steps):
        t = 2 * index / max(1, steps - 1) - 1  # -1 to 1, crossing at 0
        canvas, label = ground.copy(), np.zeros((height, width), np.uint8)
        for value, side, curve in ((1, 1, bend[0]), (2, -1, bend[1])):
            centre = np.array([width * (0.5 + side * 0.33 * t), height * 0.5 + side * miss / 2 + curve * t * t])
            shape = np.zeros((height, width), np.uint8)
            if angles is None:
                cv2.ellipse(shape, _pixel(centre), _pixel(half), 0, 0, 360, 1, -1)
            else:
                corners = centre + np.stack((np.cos(angles), np.sin(angles)), axis=1) * half * 1.2
                cv2.fillPoly(shape, [np.rint(corners).astype(np.int32)], 1)
            x, y = _pixel(centre)
            canvas[shape > 0] = np.roll(skin, (y - height // 2, x - width // 2), (0, 1))[shape > 0]
            label[shape > 0] = value
        frames.append(np.asarray(cv2.GaussianBlur(canvas, (3, 3), 0), np.uint8))
        labels.append(label)
    return Clip(f"twins{seed}", np.stack(frames), np.stack(labels))


def _pixel(values: NDArray[np.float64]) -> tuple[int, int]:
    return round(float(values[0])), round(float(values[1]))
