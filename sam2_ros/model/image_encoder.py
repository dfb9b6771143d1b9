"""The image encoder of the official models: Hiera trunk and feature-pyramid neck (SAM 2 paper, section 4 and D.1)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sam2_ros.model.config import HieraConfig
from sam2_ros.model.hiera import Hiera
from sam2_ros.model.kernels import Conv2d


class FpnNeck(nn.Module):
    """Lateral 1×1 convolutions to ``dim`` channels; only stride 16 also receives the level above it."""

    def __init__(self, channels: list[int], dim: int) -> None:
        super().__init__()
        # Stored from the deepest level to the shallowest, as in the official state dict.
        self.convs = nn.ModuleList(nn.Sequential() for _ in channels)
        for slot, width in zip(self.convs, reversed(channels), strict=True):
            slot.add_module("conv", Conv2d(width, dim, 1))

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Four maps at strides 4 to 32 → three at strides 4, 8 and 16, each ``[B, dim, H, W]``."""
        stride_32, stride_16, stride_8, stride_4 = (
            conv(level) for conv, level in zip(self.convs, reversed(maps), strict=True)
        )
        # In float32 also under autocast: that is how the weights were trained.
        above = F.interpolate(stride_32.float(), scale_factor=2.0, mode="nearest")
        return stride_4, stride_8, stride_16 + above


class HieraEncoder(nn.Module):
    """``[B, 3, S, S]`` → maps at strides 4, 8, 16 with ``dim`` channels each."""

    def __init__(self, config: HieraConfig, dim: int) -> None:
        super().__init__()
        self.trunk = Hiera(config)
        self.neck = FpnNeck(self.trunk.channels, dim)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        stride_4, stride_8, stride_16 = self.neck(self.trunk(images))
        return stride_4, stride_8, stride_16
