"""The frames of a benchmark: many textured objects that never stop moving, over a ground that moves, too."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from sam2_ros.media.rendered_scene import texture

Rgb = NDArray[np.uint8]
PERIOD = 24  # frames after which the scene is where it was; every frame differs from its neighbours


@dataclass(frozen=True)
class MovingScene:
    """One period of frames, RGB ``uint8 [H, W, 3]``, and each object's box (x0, y0, x1, y1, edges in pixels) in the
    first of them."""

    frames: tuple[Rgb, ...]
    boxes: NDArray[np.float32]  # [objects, 4]

    def frame(self, index: int) -> Rgb:
        """Frame ``index`` of the endless stream."""
        return self.frames[index % len(self.frames)]


def moving_scene(objects: int, width: int = 640, height: int = 480) -> MovingScene:
    """``objects`` discs; each circles in a cell of its own, so that none hides another.

    Raises:
        ValueError: no objects, or so many that a disc would have fewer than 6 pixels.
    """
    count = max(1, objects)
    columns = math.ceil(math.sqrt(count * width / height))
    rows = math.ceil(count / columns)
    radius = 0.3 * min(width / columns, height / rows)
    if objects < 1 or radius < 3:
        raise ValueError(f"{objects} objects in {width}x{height} pixels; accepted: 1 to about {width * height // 100}")
    ground = texture(2 * width, height, seed=1, base=(150, 145, 135), contrast=22)
    skins = [texture(width, height, seed=2 + i, base=base, contrast=45) for i, base in enumerate(_COLORS)]
    cells = np.array([((i % columns + 0.5) / columns, (i // columns + 0.5) / rows) for i in range(objects)])
    middles = cells * (width, height)
    frames, boxes = [], np.zeros((objects, 4), np.float32)
    for index in range(PERIOD):
        angle = 2 * math.pi * index / PERIOD
        shift = round(0.5 * width * (1 - math.cos(angle)))
        canvas = np.roll(ground, -shift, axis=1)[:, :width].copy()
        for number, (x, y) in enumerate(middles):
            turn = angle + number
            center = round(x + 0.5 * radius * math.cos(turn)), round(y + 0.5 * radius * math.sin(turn))
            shape = np.zeros((height, width), np.uint8)
            cv2.circle(shape, center, round(radius), 1, -1)
            canvas[shape > 0] = skins[number % len(skins)][shape > 0]
            if index == 0:
                r = round(radius)
                boxes[number] = (center[0] - r, center[1] - r, center[0] + r + 1, center[1] + r + 1)
        frames.append(canvas)
    return MovingScene(tuple(frames), boxes)


_COLORS = ((205, 60, 45), (45, 90, 185), (60, 160, 70), (190, 160, 40))
