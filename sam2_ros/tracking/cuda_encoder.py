"""The image encoder as recordings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sam2_ros.model.sam2 import ImageFeatures, Sam2Model
from sam2_ros.tracking.cuda_graphs import Recorded
from sam2_ros.tracking.transfer import Staged

Encoder: TypeAlias = Callable[[Tensor], ImageFeatures]


class RawFrame:
    """An image on its way to a GPU that resizes it as part of a recording."""

    HEAD = 16  # bytes, of which the first are the image's height and width

    def __init__(self, image: NDArray[np.uint8], device: torch.device) -> None:
        self.shape = image.shape
        head = np.zeros(self.HEAD // 4, np.int32)
        head[:2] = image.shape[:2]
        self.staged = Staged(device, head, image)

    def image(self) -> Tensor:
        """``uint8 [H, W, 3]`` on the device; instead of sending ``staged`` elsewhere."""
        return self.staged.tensor()[self.HEAD :].view(self.shape)


class Encoding:
    """``encoder`` for one frame, recorded; ``context`` gives the context of precision that it runs in."""

    def __init__(self, model: Sam2Model, encoder: Encoder, context: Callable[[], Any], pool: Any) -> None:
        size = model.config.image_size
        self._pixels = mine = torch.zeros(1, 3, size, size, device=model.device)

        def encode() -> ImageFeatures:
            with context():
                return encoder(mine)

        self._recorded = Recorded(encode, model.device, pool)

    def __call__(self, pixels: Tensor) -> ImageFeatures:
        self._pixels.copy_(pixels)
        return row_of(self._recorded(), 0)  # the next frame overwrites what was recorded


class RawEncoding:
    """As :class:`Encoding`, with the resizing: one recording for all sizes of images that do not shrink."""

    def __init__(self, model: Sam2Model, encoder: Encoder, context: Callable[[], Any], pool: Any) -> None:
        size = model.config.image_size
        self._bytes = torch.zeros(RawFrame.HEAD + 3 * size * size, dtype=torch.uint8, device=model.device)
        shape, image = self._bytes[:8].view(torch.int32), self._bytes[RawFrame.HEAD :]
        shape.fill_(size)

        def encode() -> ImageFeatures:
            with context():
                return encoder(model.resized(image, shape))

        self._recorded = Recorded(encode, model.device, pool)

    def __call__(self, raw: RawFrame) -> ImageFeatures:
        raw.staged.into(self._bytes)
        return row_of(self._recorded(), 0)


def row_of(maps: ImageFeatures, row: int) -> ImageFeatures:
    """One frame's features, copied: a stored view would keep those of the other cameras in memory too."""
    return ImageFeatures(*(tensor[row : row + 1].clone() for tensor in maps.tensors))
