"""Tiny labelled data in every layout, and a small network to train, for the tests of the trainer."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import torch

from sam2_ros.media.label_images import write_labels
from sam2_ros.model import HieraConfig, ModelConfig, Sam2Model
from sam2_ros.model.tinyvit import HIGH_RES_CHANNELS
from sam2_ros.training.clips import Still

SIZE = 64
WIDTH, HEIGHT = 96, 64
RED, GREEN = (230, 30, 30), (30, 230, 30)  # RGB
CONFIG = ModelConfig(
    "small", hiera=HieraConfig(24, 1, (1, 1, 2, 1), (3,)), image_size=SIZE, memory_layers=1, memory_ffn=128
)
TINYVIT = ModelConfig(
    "tinyvit", trunk="tinyvit", image_size=SIZE, memory_layers=1, memory_ffn=512, memory_pool=2, fuser_layers=0,
    high_res_channels=HIGH_RES_CHANNELS,
)  # fmt: skip


def small_checkpoint(folder: Path) -> Path:
    """A checkpoint with drawn weights and its configuration."""
    torch.manual_seed(0)
    model = Sam2Model(CONFIG)
    for parameter in model.parameters():
        if parameter.ndim > 1 and not parameter.any():
            torch.nn.init.normal_(parameter.data, std=0.02)
    torch.save({"model": model.state_dict(), "config": CONFIG.to_dict()}, folder / "small.pt")
    return folder / "small.pt"


def _write_rgb(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])


def _noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(60, 120, (HEIGHT, WIDTH, 3)).astype(np.uint8)


def davis(root: Path, sequences: int = 2, frames: int = 6, absent: bool = False) -> Path:
    """Videos of a red and a green square that move apart, labelled 1 and 2; with ``absent``, the red one leaves."""
    for number in range(sequences):
        for t in range(frames):
            image, labels = _noise(number), np.zeros((HEIGHT, WIDTH), np.uint8)
            if not (absent and t >= frames // 2):
                image[10:30, 10 + 4 * t : 34 + 4 * t], labels[10:30, 10 + 4 * t : 34 + 4 * t] = RED, 1
            image[36:56, 60 - 4 * t : 84 - 4 * t], labels[36:56, 60 - 4 * t : 84 - 4 * t] = GREEN, 2
            _write_rgb(root / "JPEGImages" / f"v{number}" / f"{t:05d}.jpg", image)
            path = root / "Annotations" / f"v{number}" / f"{t:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_labels(path, labels)
    return root


def _photo(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A photograph of one red square, and the square's corners in pixels."""
    image = np.repeat(np.repeat(_noise(seed), 2, axis=0), 2, axis=1)
    corners = np.array([[40, 30], [100, 30], [100, 90], [40, 90]], np.float64)
    image[30:91, 40:101] = RED
    return image, corners


def yolo(root: Path, photos: int = 3) -> Path:
    """Photographs with YOLO polygons."""
    for number in range(photos):
        image, corners = _photo(number)
        _write_rgb(root / "images" / "train" / f"{number}.jpg", image)
        path = root / "labels" / "train" / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        shares = (corners / (image.shape[1], image.shape[0])).ravel()
        path.write_text("0 " + " ".join(f"{value:.6f}" for value in shares) + "\n", encoding="utf-8")
    return root


def coco(root: Path, photos: int = 3) -> Path:
    """Photographs with COCO polygons."""
    images, annotations = [], []
    for number in range(photos):
        image, corners = _photo(number)
        _write_rgb(root / "images" / f"{number}.jpg", image)
        images.append({"id": number, "file_name": f"{number}.jpg", "width": image.shape[1], "height": image.shape[0]})
        annotations.append({"id": number, "image_id": number, "segmentation": [corners.ravel().tolist()], "area": 3600})
    content = {"images": images, "annotations": annotations}
    (root / "annotations.json").write_text(json.dumps(content), encoding="utf-8")
    return root


def red_square_still() -> Still:
    image = np.full((120, 160, 3), 90, np.uint8)
    labels = np.zeros((120, 160), np.uint8)
    image[40:90, 50:110], labels[40:90, 50:110] = RED, 1
    return Still("square", image, labels)


def redness(frame: np.ndarray) -> np.ndarray:
    """True where the pixel is clearly red."""
    values = frame.astype(int)
    return values[..., 0] - values[..., 1] > 100
