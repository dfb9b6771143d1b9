"""The image encoders. Those of SAM 2 and EdgeTAM have a feature-pyramid neck (SAM 2 paper, section 4 and D.1)."""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from sam2_ros.model.config import ModelConfig
from sam2_ros.model.hiera import Hiera
from sam2_ros.model.layers import Conv2d, merged_linear


class FpnNeck(nn.Module):
    """Lateral 1×1 convolutions to ``dim`` channels; only stride 16 also receives the level above it."""

    def __init__(self, channels: list[int], dim: int) -> None:
        super().__init__()
        # Stored from the deepest level to the shallowest, as in the official state dict.
        self.convs = nn.ModuleList(nn.Sequential() for _ in channels)
        for slot, width in zip(self.convs, reversed(channels), strict=True):
            slot.add_module("conv", Conv2d(width, dim, 1))

    def forward(self, maps: list[Tensor], after: tuple[Conv2d, Conv2d] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Four maps at strides 4 to 32 → three at strides 4, 8 and 16, each ``[B, dim, H, W]``.

        ``after`` are 1×1 convolutions that are applied to strides 4 and 8. Each is merged with the lateral one, so that
        the wide maps at these strides, the largest of all, are never computed.
        """
        stride_32, stride_16 = self.convs[0](maps[3]), self.convs[1](maps[2])
        # In float32 under autocast too: the weights were trained that way.
        above = F.interpolate(stride_32.float(), scale_factor=2.0, mode="nearest")
        if after is None:
            return self.convs[3](maps[0]), self.convs[2](maps[1]), stride_16 + above
        laterals = (cast(Conv2d, cast(nn.Sequential, self.convs[index])[0]) for index in (3, 2))
        stride_4, stride_8 = (
            merged_linear(fine.permute(0, 2, 3, 1), lateral, conv).permute(0, 3, 1, 2)
            for fine, lateral, conv in zip(maps, laterals, after, strict=False)
        )
        return stride_4, stride_8, stride_16 + above


class PyramidEncoder(nn.Module):
    """``[B, 3, S, S]`` → maps at strides 4, 8, 16 with ``dim`` channels each.

    ``trunk`` makes maps of four strides with ``channels``.
    """

    def __init__(self, trunk: nn.Module, channels: list[int], dim: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.neck = FpnNeck(channels, dim)

    def forward(self, images: Tensor, after: tuple[Conv2d, Conv2d] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """``after``: see :meth:`FpnNeck.forward`."""
        maps: tuple[Tensor, Tensor, Tensor] = self.neck(self.trunk(images), after)
        return maps


def build_encoder(config: ModelConfig) -> nn.Module:
    """The image encoder of ``config.trunk``: normalised ``[B, 3, S, S]`` → maps at strides 4, 8 and 16."""
    dim = config.hidden_dim
    if config.trunk == "tinyvit":
        from sam2_ros.model.tinyvit import TinyViTEncoder

        return TinyViTEncoder(dim)
    if config.trunk == "vit":
        from sam2_ros.model.vit import PlainViTEncoder

        return PlainViTEncoder(config.vit_width, dim)
    if config.trunk == "repvit":
        from sam2_ros.model.repvit import WIDTHS, RepViT

        return PyramidEncoder(RepViT(), list(WIDTHS), dim)
    if config.trunk == "sam3":
        from sam2_ros.model.rotary_vit import RotaryViTEncoder

        return RotaryViTEncoder(config.rotary_vit, dim)
    trunk = Hiera(config.hiera)
    return PyramidEncoder(trunk, trunk.channels, dim)
