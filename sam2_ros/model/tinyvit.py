"""TinyViT image encoder of the embedded model: trunk and neck, with batch normalisation folded in.

The trunk is TinyViT-5M (Wu et al., "TinyViT: Fast Pretraining Distillation for Small Vision Transformers", ECCV 2022)
as MobileSAM uses it (Zhang et al., "Faster Segment Anything", 2023): the last stage keeps stride 16. Each convolution
contains the batch normalisation that follows it in the original; ``recipes/embedded`` folds the weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2_ros.model.dispatch import attention
from sam2_ros.model.hiera import partition, unpartition
from sam2_ros.model.layers import Conv2d, LayerNorm2d, Linear
from sam2_ros.model.weight_cache import cache_of

WIDTHS = (64, 128, 160, 320)
DEPTHS = (2, 2, 6, 2)
HEADS = (2, 4, 5, 10)
WINDOWS = (7, 7, 14, 7)
HIGH_RES_CHANNELS = (64, 128)  # of the maps of strides 4 and 8


class ConvStem(nn.Module):
    """Two strided convolutions: ``[B, 3, H, W]`` to ``[B, 64, H/4, W/4]``."""

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.conv1 = Conv2d(3, out_channels // 2, 3, stride=2, padding=1)
        self.conv2 = Conv2d(out_channels // 2, out_channels, 3, stride=2, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv2(self.conv1.gelu(images))


class Bottleneck(nn.Module):
    """Two 1×1 convolutions with a depthwise one of ``hidden`` channels between them."""

    def __init__(self, channels: int, hidden: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = Conv2d(channels, hidden, 1)
        self.conv2 = Conv2d(hidden, hidden, 3, stride=stride, padding=1, groups=hidden)
        self.conv3 = Conv2d(hidden, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(self.conv2.gelu(self.conv1.gelu(x)))


class MBConv(Bottleneck):
    """Inverted bottleneck (expansion 4); the activation follows the residual sum."""

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x + super().forward(x))


def relative_offsets(window: int) -> Tensor:
    """Index of |Δrow|, |Δcolumn| for each pair of tokens of a window, ``int64 [window², window²]``."""
    place = torch.cartesian_prod(torch.arange(window), torch.arange(window))
    return (place[:, None] - place[None]).abs() @ torch.tensor([window, 1])


class WindowAttention(nn.Module):
    """Layer norm, then multi-head attention inside windows, with a learnt bias for each relative offset."""

    offsets: Tensor

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.norm = nn.LayerNorm(channels)
        self.qkv = Linear(channels, 3 * channels)
        self.proj = Linear(channels, channels)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))
        self.register_buffer("offsets", relative_offsets(window), persistent=False)

    def bias(self) -> Tensor:
        """``[heads, window², window²]``; cached for inference, since the gather takes as long as the attention."""
        if torch.is_grad_enabled():
            return self.attention_biases[:, self.offsets]
        return cache_of(self).get("bias", (self.attention_biases,), lambda table: table[:, self.offsets].contiguous())

    def forward(self, windows: Tensor) -> Tensor:
        """``[N, window², C]`` to the same shape."""
        count, tokens, channels = windows.shape
        qkv = self.qkv(self.norm(windows)).view(count, tokens, self.heads, 3, channels // self.heads)
        query, key, value = qkv.permute(3, 0, 2, 1, 4).unbind(0)
        mixed = attention(query, key, value, self.bias().to(query.dtype)[None])
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """LayerNorm, then two linear layers (expansion 4) with GELU between."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.fc1 = Linear(channels, 4 * channels)
        self.fc2 = Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.fc1.gelu(self.norm(x)))


class TinyViTBlock(nn.Module):
    """Window attention, a depth-wise 3x3 convolution, and an MLP."""

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.attn = WindowAttention(channels, heads, window)
        self.local_conv = Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.mlp = Mlp(channels)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to the same shape."""
        batch, _, height, width = (int(size) for size in x.shape)
        window, side = self.attn.window, (batch, height, width)
        tokens = _tokens(x)
        windows = partition(tokens.unflatten(0, side), window).flatten(1, 2)
        attended = unpartition(self.attn(windows).unflatten(1, (window, window)), height, width)
        tokens = _tokens(self.local_conv((tokens + attended.flatten(0, 2)).unflatten(0, side).permute(0, 3, 1, 2)))
        return (tokens + self.mlp(tokens)).unflatten(0, side).permute(0, 3, 1, 2)


def _tokens(x: Tensor) -> Tensor:
    """``[B, C, H, W]`` to ``[BHW, C]``. Flat, since OpenVINO copies maps to and fro between two layouts."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)


class Stage(nn.Module):
    """Blocks of one width; ``downsample`` leads to the next stage."""

    def __init__(self, index: int) -> None:
        super().__init__()
        channels = WIDTHS[index]
        self.blocks = nn.ModuleList(
            TinyViTBlock(channels, HEADS[index], WINDOWS[index]) if index else MBConv(channels, 4 * channels, channels)
            for _ in range(DEPTHS[index])
        )
        self.downsample = None
        if index + 1 < len(WIDTHS):
            wider = WIDTHS[index + 1]
            self.downsample = Bottleneck(channels, wider, wider, stride=1 if index == 2 else 2)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class TinyViT(nn.Module):
    """Normalised RGB ``[B, 3, H, W]``, sides multiples of 32, to maps of strides 4, 8, 16 (64, 128, 320 channels)."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = ConvStem(WIDTHS[0])
        self.stages = nn.ModuleList([Stage(index) for index in range(len(WIDTHS))])

    def forward(self, images: Tensor) -> list[Tensor]:
        # With channels last, every change between the layouts of convolutions and tokens is a view.
        x = self.patch_embed(images.contiguous(memory_format=torch.channels_last))
        maps = []
        for index, stage in enumerate(self.stages):
            assert isinstance(stage, Stage)
            x = stage(x)
            if index != 2:
                maps.append(x)
            if stage.downsample is not None:
                x = stage.downsample(x)
        return maps


class TinyViTNeck(nn.Module):
    """MobileSAM's neck: ``[B, 320, h, w]`` to the vision features ``[B, dim, h, w]``."""

    def __init__(self, dim: int = 256) -> None:
        super().__init__()
        self.conv1 = Conv2d(WIDTHS[3], dim, 1, bias=False)
        self.norm1 = LayerNorm2d(dim)
        self.conv2 = Conv2d(dim, dim, 3, padding=1, bias=False)
        self.norm2 = LayerNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm2(self.conv2(self.norm1(self.conv1(x))))


class TinyViTEncoder(nn.Module):
    """Trunk and neck: maps of strides 4, 8 and 16 with 64, 128 and ``dim`` channels."""

    def __init__(self, dim: int = 256) -> None:
        super().__init__()
        self.trunk = TinyViT()
        self.neck = TinyViTNeck(dim)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        stride4, stride8, stride16 = self.trunk(images)
        return stride4, stride8, self.neck(stride16)
