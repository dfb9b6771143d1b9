"""Small labelled videos, written in the layouts of the data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from sam2_ros.media.label_images import write_labels

HEIGHT, WIDTH = 90, 128


def square(x: int, y: int, side: int = 24) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[max(0, y) : y + side, max(0, x) : x + side] = True
    return mask


def labels_of(masks: Mapping[int, np.ndarray], shape: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """A label image; later ids lie on top."""
    labels = np.zeros(shape, np.uint8)
    for one, mask in sorted(masks.items()):
        labels[mask] = one
    return labels


def picture(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """An image on which every label has a colour of its own, with some noise."""
    colors = np.array([[90, 90, 90], [200, 60, 50], [50, 110, 210], [60, 180, 80], [210, 190, 60]], np.int16)
    noise = np.random.default_rng(seed).integers(-12, 13, (*labels.shape, 3))
    return np.clip(colors[labels % 5] + noise, 0, 255).astype(np.uint8)


def write_frames(folder: Path, labels: Sequence[np.ndarray]) -> None:
    folder.mkdir(parents=True)
    for index, one in enumerate(labels):
        cv2.imwrite(str(folder / f"{index:05d}.jpg"), cv2.cvtColor(picture(one, index), cv2.COLOR_RGB2BGR))


def write_label_images(folder: Path, labels: Mapping[int, np.ndarray]) -> None:
    folder.mkdir(parents=True)
    for index, one in labels.items():
        write_labels(folder / f"{index:05d}.png", one)


def write_davis(root: Path, name: str, labels: Sequence[np.ndarray], resolution: str = "") -> None:
    """A sequence with a label image for every frame."""
    write_frames(root / "JPEGImages" / resolution / name, labels)
    write_label_images(root / "Annotations" / resolution / name, dict(enumerate(labels)))


def two_squares(frames: int) -> list[np.ndarray]:
    """Object 1 moves right, object 2 down; they never touch."""
    return [labels_of({1: square(4 + 5 * t, 6), 2: square(90, 40 + 2 * t)}) for t in range(frames)]
