"""Drawn textures: wood, stone, cloth and prints for tables, rooms and plain shapes."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from sam2_ros.media.rendered_scene import texture

Image = NDArray[np.uint8]  # RGB [H, W, 3]
Color = tuple[int, int, int]
_SIDE = 512  # pixels


def random_color(rng: np.random.Generator, saturation: tuple[float, float] = (0.3, 0.95)) -> Color:
    """A colour of any hue, neither black nor white."""
    hsv = np.array([[[rng.uniform(0, 360), rng.uniform(*saturation), rng.uniform(0.35, 0.95)]]], np.float32)
    red, green, blue = (int(255 * value) for value in cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0])
    return red, green, blue


def surface(rng: np.random.Generator) -> Image:
    """A table's top: wood, stone, cloth or paint."""
    seed, kind = int(rng.integers(1 << 30)), rng.integers(5)
    if kind == 0:  # planks: noise drawn out along the grain
        base = ((150, 105, 65), (95, 62, 40), (196, 160, 112))[rng.integers(3)]
        strip = texture(_SIDE, _SIDE, seed, base, 22)[:, : _SIDE // 8].astype(np.float32)
        strip += rng.normal(0, 7, (_SIDE, _SIDE // 8, 1)).astype(np.float32)
        grain = cv2.resize(strip, (_SIDE, _SIDE), interpolation=cv2.INTER_CUBIC)
        for row in range(0, _SIDE, _SIDE // 4):
            grain[row : row + _SIDE // 4] *= rng.uniform(0.85, 1.15)
            grain[row : row + 3] *= 0.6
        return np.clip(grain, 0, 255).astype(np.uint8)
    if kind == 1:  # stone
        base = ((190, 188, 184), (70, 70, 74), (150, 140, 130))[rng.integers(3)]
        return _rough(texture(_SIDE, _SIDE, seed, base, 28), rng)
    base = random_color(rng, (0.03, 0.4))
    image = texture(_SIDE, _SIDE, seed, base, 6 if kind < 4 else 14)
    if kind == 2:  # checked cloth
        step, other = int(rng.integers(24, 80)), random_color(rng, (0.05, 0.45))
        stripes = (np.arange(_SIDE) // step) % 2
        weight = ((stripes[:, None] + stripes[None]) / 2)[..., None]
        image = np.asarray(image * (1 - weight) + np.array(other) * weight, np.uint8)
    return _rough(image, rng)


def _rough(image: Image, rng: np.random.Generator) -> Image:
    """With fine grain."""
    grain = rng.normal(0, rng.uniform(2, 9), (*image.shape[:2], 1))
    return np.clip(image + grain, 0, 255).astype(np.uint8)


def skin(rng: np.random.Generator) -> Image:
    """A print on a plain shape: dots, stripes, squares, letters or grain."""
    seed, kind = int(rng.integers(1 << 30)), rng.integers(6)
    image = texture(_SIDE, _SIDE, seed, random_color(rng), 10 if kind else 30)
    ink = random_color(rng)
    if kind == 1:
        for _ in range(int(rng.integers(8, 30))):
            x, y, radius = (int(value) for value in rng.integers((0, 0, 12), (_SIDE, _SIDE, 60)))
            cv2.circle(image, (x, y), radius, ink, -1, cv2.LINE_AA)
    elif kind == 2:
        width, across = int(rng.integers(24, 100)), rng.random() < 0.5
        for start in range(0, _SIDE, 2 * width):
            corners = ((start, 0), (start + width, _SIDE)) if across else ((0, start), (_SIDE, start + width))
            cv2.rectangle(image, *corners, ink, -1)
    elif kind == 3:
        step = int(rng.integers(48, 140))
        squares = np.add.outer(np.arange(_SIDE) // step, np.arange(_SIDE) // step) % 2 == 0
        image[squares] = ink
    elif kind == 4:
        cv2.rectangle(image, (0, 160), (_SIDE, 352), ink, -1)
        letters = "".join(chr(65 + int(n)) for n in rng.integers(26, size=5))
        cv2.putText(image, letters, (24, 296), cv2.FONT_HERSHEY_DUPLEX, 4.4, random_color(rng), 10, cv2.LINE_AA)
    return image


def png(image: Image) -> bytes:
    """The picture as a PNG file."""
    return cv2.imencode(".png", image[..., ::-1], (cv2.IMWRITE_PNG_COMPRESSION, 1))[1].tobytes()
