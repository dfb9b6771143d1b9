"""The official image predictor and automatic mask generator (PyPI ``sam2``) beside our segmenter, on the same weights.

The reference takes resizing and box suppression from torchvision, which is not installed: small stand-ins do them.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Resize(nn.Module):
    """As torchvision's, of float tensors ``[..., H, W]``: bilinear, antialiased."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.height, self.width = size

    def forward(self, image: Tensor) -> Tensor:
        size = [self.height, self.width]
        return F.interpolate(image[None], size, mode="bilinear", align_corners=False, antialias=True)[0]


class Normalize(nn.Module):
    """As torchvision's."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        return (image - self.mean) / self.std


class ToTensor:
    """As torchvision's, of ``uint8 [H, W, 3]``."""

    def __call__(self, image: Any) -> Tensor:
        return torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255


def box_area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def batched_nms(boxes: Tensor, scores: Tensor, _: Tensor, iou_threshold: float) -> Tensor:
    """As torchvision's, for one category: each box in the order of scores, unless a kept one overlaps it too much."""
    kept: list[int] = []
    for index in torch.argsort(scores, descending=True, stable=True).tolist():
        box = boxes[index]
        for other in kept:
            low, high = torch.maximum(box[:2], boxes[other, :2]), torch.minimum(box[2:], boxes[other, 2:])
            shared = (high - low).clamp(min=0).prod()
            if shared / (box_area(box[None]) + box_area(boxes[other][None]) - shared) > iou_threshold:
                break
        else:
            kept.append(index)
    return torch.tensor(kept, dtype=torch.int64)


def reference_module(name: str) -> Any:
    """The reference's module ``name``, which imports torchvision."""
    modules = {part: ModuleType(part) for part in ("torchvision", "torchvision.transforms", "torchvision.ops")}
    boxes = ModuleType("torchvision.ops.boxes")
    boxes.batched_nms, boxes.box_area = batched_nms, box_area  # type: ignore[attr-defined]
    transforms: Any = modules["torchvision.transforms"]
    transforms.Normalize, transforms.Resize, transforms.ToTensor = Normalize, Resize, ToTensor
    with mock.patch.dict(sys.modules, {**modules, boxes.__name__: boxes}):
        return importlib.import_module(name)


def image_predictor(network: Any) -> Any:
    """``SAM2ImagePredictor`` for a network of any input size."""
    with unscripted():
        return fitted(reference_module("sam2.sam2_image_predictor").SAM2ImagePredictor(network))


def mask_generator(network: Any, **settings: Any) -> Any:
    """``SAM2AutomaticMaskGenerator``, likewise."""
    with unscripted():
        generator = reference_module("sam2.automatic_mask_generator").SAM2AutomaticMaskGenerator(network, **settings)
    fitted(generator.predictor)
    return generator


def unscripted() -> Any:
    """The reference compiles its transforms, which torch deprecates and the stand-ins do without."""
    return mock.patch("torch.jit.script", lambda module: module)


def fitted(predictor: Any) -> Any:
    side = predictor.model.image_size
    predictor._bb_feat_sizes = [(side // stride, side // stride) for stride in (4, 8, 16)]
    return predictor
