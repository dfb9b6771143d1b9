"""The memory encoder: a frame's features and an object's mask become that frame's memory (SAM 2 paper, section D.1)."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2_ros.model import kernels
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
        x = masks
        for conv, norm in self._levels():
            x = norm.gelu(conv(x))
        out: Tensor = self.encoder[-1](x)
        return out

    def _levels(self) -> list[tuple[Conv2d, LayerNorm2d]]:
        each: list[Any] = list(self.encoder)
        return list(zip(each[0:-1:3], each[1::3], strict=True))

    def of_logits(self, logits: Tensor, binarize: Tensor | None, gain: float, shift: float) -> Tensor:
        """On a GPU, without the last bias: what :meth:`forward` makes of ``gain * p + shift``, where ``p`` are the
        probabilities of ``logits`` (``[B, 1, 4h, 4w]``) scaled up, or 0 and 1 where ``binarize`` (``[B]``) says so."""
        from sam2_ros.model.gpu.mask_downsampler_kernels import LevelWeights, mask_levels, pack_first, pack_taps
        from sam2_ros.model.gpu.norm_kernels import add_norm

        dtype = kernels.TRITON_DTYPE
        kept: tuple[Derived, ...] = self.__dict__.setdefault("_packed", (Derived(), Derived(), Derived()))
        (one, norm_one), (two, norm_two), *others = self._levels()
        assert one.bias is not None and two.bias is not None
        first = kept[0].of(
            (one.weight, one.bias, norm_one.weight, norm_one.bias),
            lambda *given: pack_first(dtype, *given),
            dtype,
        )
        taps = kept[1].of((two.weight,), lambda weight: pack_taps(weight, dtype), dtype)
        second = kept[2].of(
            (two.bias, norm_two.weight, norm_two.bias), lambda *given: torch.cat([each.float() for each in given])
        )
        rows = mask_levels(
            logits.float().contiguous(), binarize, LevelWeights(first, taps, second), gain, shift,
            (norm_one.eps, norm_two.eps),
        )  # fmt: skip
        for conv, norm in others:
            assert conv.bias is not None
            bare = conv.without_bias(rows.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).contiguous()
            rows = add_norm(conv.bias, bare, norm, dtype, keep=False, gelu=True)[1]
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
        normed: Tensor = self.norm(self.dwconv(x))
        y = self.gamma * self.pwconv2(self.pwconv1.gelu(normed.permute(0, 2, 3, 1)))
        return x + y.permute(0, 3, 1, 2)

    def by_rows(self, x: Tensor, rounded: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
        """:meth:`forward` on a GPU, of ``x`` (``[B, H, W, C]``), also given in bfloat16; gives both, the first only to
        ``keep``."""
        from sam2_ros.model.gpu.norm_kernels import add_scaled, depthwise_norm

        taps, shift = self.__dict__.setdefault("_taps", (Derived(), Derived()))
        conv, dtype = self.dwconv, kernels.TRITON_DTYPE
        assert conv.bias is not None
        normed = depthwise_norm(
            rounded,
            taps.of((conv.weight,), lambda weight: weight.flatten(1).T.to(dtype).contiguous(), dtype),
            shift.of((conv.bias,), lambda bias: bias.to(dtype), dtype),
            self.norm,
        )
        return add_scaled(x, self.pwconv2(self.pwconv1.gelu(normed)), self.gamma, dtype, keep)


class Fuser(nn.Module):
    """ConvNeXt blocks, two of them in the official models."""

    def __init__(self, dim: int, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ConvNextBlock(dim) for _ in range(num_layers))

    def forward(self, x: Tensor) -> Tensor:
        if is_for_triton(x):
            rows = x.permute(0, 2, 3, 1).contiguous()
            rounded = rows.to(kernels.TRITON_DTYPE)
            for index, layer in enumerate(self.layers):
                assert isinstance(layer, ConvNextBlock)
                rows, rounded = layer.by_rows(rows, rounded, keep=index + 1 < len(self.layers))
            return rounded.permute(0, 3, 1, 2)
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
        return self._fused(self.pix_feat_proj(features) + self.mask_downsampler(masks))

    def of_logits(self, features: Tensor, logits: Tensor, binarize: Tensor | None, gain: float, shift: float) -> Tensor:
        """:meth:`forward` on a GPU, of masks as :meth:`MaskDownSampler.of_logits` takes them."""
        bias = self.mask_downsampler.last.bias
        assert bias is not None
        # A convolution adds its bias in a pass of its own; here to the image's side, once for all objects.
        image = self.pix_feat_proj(features) + bias.to(kernels.TRITON_DTYPE)[:, None, None]
        return self._fused(image + self.mask_downsampler.of_logits(logits, binarize, gain, shift))

    def _fused(self, x: Tensor) -> Tensor:
        memory = self.out_proj(self.fuser(x))
        return memory if self.pool == 1 else F.avg_pool2d(memory, self.pool)
