"""Image encoder of EfficientTAM: a plain vision transformer with windowed attention, and a neck of one scale.

Sources: Xiong et al., "Efficient Track Anything", 2024; Li et al., "Exploring Plain Vision Transformer Backbones for
Object Detection", 2022. The names of the weights are the official ones.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2_ros.model.hiera import HieraBlock
from sam2_ros.model.layers import Conv2d, LayerNorm2d
from sam2_ros.model.weight_cache import cache_of

PATCH = 16  # pixels
DEPTH, HEAD = 12, 64  # blocks, channels of an attention head
GLOBAL_BLOCKS = (2, 5, 8, 11)  # these attend over the whole image
WINDOW = 14  # tokens
POSITION_GRID = 14  # side of the position embedding, from training at 224 pixels


class PatchEmbed(nn.Module):
    """Patches that do not overlap."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = Conv2d(3, width, PATCH, stride=PATCH)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images.contiguous(memory_format=torch.channels_last)).permute(0, 2, 3, 1)


class PlainViT(nn.Module):
    """``[B, 3, S, S]`` → ``[B, width, S / 16, S / 16]``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(width)
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + POSITION_GRID**2, width))  # the first one is a class token's
        windows = [0 if index in GLOBAL_BLOCKS else WINDOW for index in range(DEPTH)]
        self.blocks = nn.ModuleList(HieraBlock(width, width, width // HEAD, window, pool=False) for window in windows)

    def position(self, height: int, width: int) -> Tensor:
        """Position embedding ``[1, height, width, C]``."""

        def compute(embedding: Tensor) -> Tensor:
            grid = embedding[:, 1:].unflatten(1, (POSITION_GRID, POSITION_GRID)).permute(0, 3, 1, 2)
            if (height, width) != grid.shape[2:]:
                grid = F.interpolate(grid, size=(height, width), mode="bicubic")
            return grid.permute(0, 2, 3, 1).contiguous()

        if torch.is_grad_enabled():
            return compute(self.pos_embed)
        return cache_of(self).get((height, width), (self.pos_embed,), compute)

    def forward(self, images: Tensor) -> Tensor:
        x, pending = self.patch_embed(images), None
        x = x + self.position(x.shape[1], x.shape[2])
        for block in self.blocks:
            x, pending = block(x, pending)
        return (x + pending).permute(0, 3, 1, 2)


class PlainNeck(nn.Module):
    """``[B, width, h, w]`` → ``[B, dim, h, w]`` by two convolutions with layer norms."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        layers = nn.Sequential()
        layers.add_module("conv_1x1", Conv2d(width, dim, 1, bias=False))
        layers.add_module("norm_0", LayerNorm2d(dim))
        layers.add_module("conv_3x3", Conv2d(dim, dim, 3, padding=1, bias=False))
        layers.add_module("norm_1", LayerNorm2d(dim))
        self.convs = nn.ModuleList([layers])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.convs[0](x)
        return out


class PlainViTEncoder(nn.Module):
    """Normalised RGB ``[B, 3, S, S]`` → the decoder's maps at strides 4, 8 and 16.

    The network has no finer map than stride 16. In the place of the others are zeros, which take no memory: the decoder
    adds them.
    """

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.trunk = PlainViT(width)
        self.neck = PlainNeck(width, dim)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``[B, dim / 8, S / 4, S / 4]``, ``[B, dim / 4, S / 8, S / 8]``, ``[B, dim, S / 16, S / 16]``."""
        stride_16 = self.neck(self.trunk(images))
        batch, dim, height, width = stride_16.shape
        nothing = stride_16.new_zeros(1, 1, 1, 1)
        stride_8 = nothing.expand(batch, dim // 4, 2 * height, 2 * width)
        return nothing.expand(batch, dim // 8, 4 * height, 4 * width), stride_8, stride_16
