"""The image encoder as CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sam2_ros.model.network import ImageFeatures
from sam2_ros.model.sam2 import Sam2Model
from sam2_ros.tracking.cuda_graphs import CudaGraph
from sam2_ros.tracking.history import rows_of
from sam2_ros.tracking.raw_frame import RawFrame


class GraphEncoder:
    """Encodes one preprocessed frame; ``context`` gives the autocast context."""

    def __init__(self, model: Sam2Model, context: Callable[[], Any], pool: Any) -> None:
        size = model.config.image_size
        self._pixels = pixels = torch.zeros(1, 3, size, size, device=model.device)

        def encode() -> ImageFeatures:
            with context():
                return model.encode_image(pixels)

        self._graph = CudaGraph(encode, model.device, pool)

    def __call__(self, pixels: Tensor) -> ImageFeatures:
        self._pixels.copy_(pixels)
        return rows_of(self._graph(), 0)  # a copy: the next frame overwrites the graph's result


class RawFrameEncoder:
    """As :class:`GraphEncoder`, with the resizing: one graph for images of all sizes that do not shrink."""

    def __init__(self, model: Sam2Model, context: Callable[[], Any], pool: Any) -> None:
        size = model.config.image_size
        self._bytes = torch.zeros(RawFrame.HEAD + 3 * size * size, dtype=torch.uint8, device=model.device)
        shape, image = self._bytes[:8].view(torch.int32), self._bytes[RawFrame.HEAD :]
        shape.fill_(size)

        def encode() -> ImageFeatures:
            with context():
                return model.encode_image(model.resized(image, shape))

        self._graph = CudaGraph(encode, model.device, pool)

    def __call__(self, raw: RawFrame) -> ImageFeatures:
        raw.staged.into(self._bytes)
        return rows_of(self._graph(), 0)
