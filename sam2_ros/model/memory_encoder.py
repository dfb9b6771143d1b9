"""The memory encoder makes a frame's memory from its features and an object's mask (SAM 2 paper, section D.1)."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2_ros.model import dispatch
from sam2_ros.model.dispatch import uses_triton
from sam2_ros.model.layers import Conv2d, LayerNorm2d, Linear
from sam2_ros.model.weight_cache import cache_of


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
        x = masks
        for conv, norm in self._levels():
            x = norm.gelu(conv(x))
        return self.last.forward(x)

    def _levels(self) -> list[tuple[Conv2d, LayerNorm2d]]:
        layers: list[Any] = list(self.encoder)
        return list(zip(layers[0:-1:3], layers[1::3], strict=True))

    def of_logits(self, logits: Tensor, binarize: Tensor | None, gain: float, shift: float) -> Tensor:
        """:meth:`forward` by Triton kernels, without the last bias, of ``gain * p + shift``.

        ``p`` are probabilities of ``logits`` ``[B, 1, 4h, 4w]``, scaled up; 0 or 1 where ``binarize`` (bool ``[B]``).
        """
        from sam2_ros.model.gpu.mask_downsampler_kernels import LevelWeights, mask_levels, pack_first, pack_taps
        from sam2_ros.model.gpu.norm_kernels import add_norm

        dtype, cache = dispatch.TRITON_DTYPE, cache_of(self)
        (conv1, norm1), (conv2, norm2), *others = self._levels()
        first: Any = (conv1.weight, conv1.bias, norm1.weight, norm1.bias)
        second: Any = (conv2.bias, norm2.weight, norm2.bias)
        weights = LevelWeights(
            cache.get(("first", dtype), first, lambda *tensors: pack_first(dtype, *tensors)),
            cache.get(("taps", dtype), (conv2.weight,), lambda weight: pack_taps(weight, dtype)),
            cache.get("second", second, lambda *tensors: torch.cat([x.float() for x in tensors])),
        )
        rows = mask_levels(logits.float().contiguous(), binarize, weights, gain, shift, (norm1.eps, norm2.eps))
        for conv, norm in others:
            assert conv.bias is not None
            unbiased = conv.without_bias(rows.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).contiguous()
            rows = add_norm(conv.bias, unbiased, norm, dtype, keep=False, gelu=True)[1]
        return self.last.without_bias(rows.permute(0, 3, 1, 2))

    @property
    def last(self) -> Conv2d:
        return cast(Conv2d, self.encoder[-1])


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
        normed = self.norm(self.dwconv(x)).permute(0, 2, 3, 1)
        return x + (self.gamma * self.pwconv2(self.pwconv1.gelu(normed))).permute(0, 3, 1, 2)

    def by_rows(self, x: Tensor, rounded: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
        """:meth:`forward` by Triton kernels, of ``x`` ``[B, H, W, C]``, which is also given in bfloat16.

        Returns the exact result (``x`` itself unless ``keep``), and the result in bfloat16.
        """
        from sam2_ros.model.gpu.norm_kernels import add_scaled, depthwise_norm

        cache, conv, dtype = cache_of(self), self.dwconv, dispatch.TRITON_DTYPE
        assert conv.bias is not None
        taps = cache.get(("taps", dtype), (conv.weight,), lambda weight: weight.flatten(1).T.to(dtype).contiguous())
        bias = cache.get(("bias", dtype), (conv.bias,), lambda bias: bias.to(dtype))
        normed = depthwise_norm(rounded, taps, bias, self.norm)
        return add_scaled(x, self.pwconv2(self.pwconv1.gelu(normed)), self.gamma, dtype, keep)


class Fuser(nn.Module):
    """ConvNeXt blocks, two of them in the official models."""

    def __init__(self, dim: int, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ConvNextBlock(dim) for _ in range(num_layers))

    def forward(self, x: Tensor) -> Tensor:
        if uses_triton(x):
            rows = x.permute(0, 2, 3, 1).contiguous()
            rounded = rows.to(dispatch.TRITON_DTYPE)
            for layer in self.layers:
                rows, rounded = cast(ConvNextBlock, layer).by_rows(rows, rounded, keep=layer is not self.layers[-1])
            return rounded.permute(0, 3, 1, 2)
        for layer in self.layers:
            x = layer(x)
        return x


class MemoryEncoder(nn.Module):
    """Stride-16 features and full-resolution masks → memories ``[B, memory_dim, h / pool, w / pool]``."""

    def __init__(self, dim: int, memory_dim: int, pool: int, fuser_layers: int = 2) -> None:
        super().__init__()
        self.pool = pool
        self.mask_downsampler = MaskDownSampler(dim)
        self.pix_feat_proj = Conv2d(dim, dim, 1)
        self.fuser = Fuser(dim, fuser_layers)
        self.out_proj = Conv2d(dim, memory_dim, 1)

    def forward(self, features: Tensor, masks: Tensor) -> Tensor:
        """Encodes ``features`` (``[1 or B, C, h, w]``) with scaled ``masks`` (``[B, 1, 16h, 16w]``; resized to it)."""
        if masks.shape[-1] != (side := 16 * features.shape[-1]):
            masks = enlarged(masks, side)  # in SAM 3, whose stride is not 16
        return self._fused(self.pix_feat_proj(features) + self.mask_downsampler(masks))

    def of_logits(self, features: Tensor, logits: Tensor, binarize: Tensor | None, gain: float, shift: float) -> Tensor:
        """:meth:`forward` by Triton kernels, of masks as :meth:`MaskDownSampler.of_logits` takes them."""
        bias = self.mask_downsampler.last.bias
        assert bias is not None
        # A convolution would add its bias in a pass of its own. Here the image gets it, once for all objects.
        image = self.pix_feat_proj(features) + bias.to(dispatch.TRITON_DTYPE)[:, None, None]
        return self._fused(image + self.mask_downsampler.of_logits(logits, binarize, gain, shift))

    def _fused(self, x: Tensor) -> Tensor:
        memory = self.out_proj(self.fuser(x))
        return memory if self.pool == 1 else F.avg_pool2d(memory, self.pool)


def enlarged(maps: Tensor, size: int) -> Tensor:
    """``[B, C, h, h]`` → ``[B, C, size, size]``, bilinear."""
    if not torch.jit.is_tracing():
        return F.interpolate(maps, (size, size), mode="bilinear", align_corners=False)
    # Other runtimes are slow at it, and fast at the two matrix products that do the same.
    side = torch.eye(maps.shape[-1], device=maps.device)[None]
    weights = F.interpolate(side, size, mode="linear", align_corners=False)[0]
    return weights.T @ maps @ weights
