"""The memory encoder: a frame's features and an object's mask become that frame's memory (SAM 2 paper, section D.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2_ros.model.kernels import Conv2d, Derived, Linear, is_for_triton
from sam2_ros.model.layers import LayerNorm2d


class MaskDownSampler(nn.Module):
    """``[B, 1, 16h, 16w]`` → ``[B, dim, h, w]`` by four strided convolutions."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for level in range(4):
            width = 4 ** (level + 1)
            layers += [Conv2d(4**level, width, 3, stride=2, padding=1), LayerNorm2d(width), nn.GELU()]
        self.encoder = nn.Sequential(*layers, Conv2d(256, dim, 1))

    def forward(self, masks: Tensor) -> Tensor:
        *levels, last = self.encoder
        x = masks
        for conv, norm in zip(levels[0::3], levels[1::3], strict=True):
            assert isinstance(norm, LayerNorm2d)
            x = norm.gelu(conv(x))
        out: Tensor = last(x)
        return out


class ConvNextBlock(nn.Module):
    """A ConvNeXt block (Liu et al., 2022) with layer scale."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = LayerNorm2d(dim)
        self.pwconv1 = Linear(dim, 4 * dim)
        self.pwconv2 = Linear(4 * dim, dim)
        self.gamma = nn.Parameter(torch.full((dim,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        y = self._depthwise(x)
        y = self.gamma * self.pwconv2(self.pwconv1.gelu(y))
        return x + y.permute(0, 3, 1, 2)

    def _depthwise(self, x: Tensor) -> Tensor:
        """The normed convolution, ``[B, H, W, C]``."""
        if not is_for_triton(x):
            normed: Tensor = self.norm(self.dwconv(x))
            return normed.permute(0, 2, 3, 1)
        from sam2_ros.model.gpu.rows import depthwise_norm

        taps, shift = self.__dict__.setdefault("_taps", (Derived(), Derived()))
        conv, dtype = self.dwconv, torch.bfloat16
        assert conv.bias is not None
        return depthwise_norm(
            x.permute(0, 2, 3, 1).to(dtype).contiguous(),
            taps.of((conv.weight,), lambda weight: weight.flatten(1).T.to(dtype).contiguous()),
            shift.of((conv.bias,), lambda bias: bias.to(dtype)),
            self.norm,
        )


class Fuser(nn.Module):
    """ConvNeXt blocks, two of them in the official models."""

    def __init__(self, dim: int, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ConvNextBlock(dim) for _ in range(num_layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class MemoryEncoder(nn.Module):
    """Stride-16 features and full-resolution masks → ``[B, memory_dim, h / pool, w / pool]``."""

    def __init__(self, dim: int, memory_dim: int, pool: int, fuser_layers: int = 2) -> None:
        super().__init__()
        self.pool = pool
        self.mask_downsampler = MaskDownSampler(dim)
        self.pix_feat_proj = Conv2d(dim, dim, 1)
        self.fuser = Fuser(dim, fuser_layers)
        self.out_proj = Conv2d(dim, memory_dim, 1)

    def forward(self, features: Tensor, masks: Tensor) -> Tensor:
        """``features`` ``[1 or B, C, h, w]`` are the image encoder's, ``masks`` ``[B, 1, 16h, 16w]`` scaled."""
        x = self.pix_feat_proj(features) + self.mask_downsampler(masks)
        memory = self.out_proj(self.fuser(x))
        return memory if self.pool == 1 else F.avg_pool2d(memory, self.pool)
