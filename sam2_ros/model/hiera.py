"""The Hiera trunk: a hierarchical vision transformer with windowed attention (Ryali et al., 2023).

Everything inside works on ``[B, H, W, C]``.
"""

from __future__ import annotations

from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2_ros.model import dispatch
from sam2_ros.model.config import HieraConfig
from sam2_ros.model.dispatch import attention, infers_on_cpu, uses_triton
from sam2_ros.model.layers import Conv2d, LayerNorm, Linear, Mlp
from sam2_ros.model.weight_cache import cache_of


def max_pool(x_bhwc: Tensor) -> Tensor:
    """2×2 maximum over space."""
    even = x_bhwc.shape[1] % 2 == 0 and x_bhwc.shape[2] % 2 == 0
    if even and (infers_on_cpu(x_bhwc.device) or torch.jit.is_tracing()):
        # The pooling kernels of PyTorch, which also computes indices, and of others copy the map into their own layout.
        rows = torch.maximum(x_bhwc[:, :, 0::2], x_bhwc[:, :, 1::2])
        return torch.maximum(rows[:, 0::2], rows[:, 1::2])
    if even and uses_triton(x_bhwc):
        from sam2_ros.model.gpu import image_kernels

        return image_kernels.max_pool(x_bhwc)
    return F.max_pool2d(x_bhwc.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)


def partition(x_bhwc: Tensor, size: int) -> Tensor:
    """Cuts the map into windows, ``[B * windows, size, size, C]``; zeros fill the last ones.

    Attention does not mask the zeros: the weights were trained that way.
    """
    height, width = (int(side) for side in x_bhwc.shape[1:3])  # ints: ONNX rounds a quotient towards zero
    x = F.pad(x_bhwc, (0, 0, 0, -width % size, 0, -height % size))
    return x.unflatten(2, (-1, size)).unflatten(1, (-1, size)).transpose(2, 3).flatten(0, 2)


def unpartition(windows: Tensor, height: int, width: int) -> Tensor:
    """The inverse of :func:`partition` for a map of ``height`` × ``width``."""
    size, channels, height, width = (int(each) for each in (windows.shape[1], windows.shape[3], height, width))
    rows, columns = -(-height // size), -(-width // size)
    x = windows.view(-1, rows, columns, size, size, channels).transpose(2, 3)
    return x.reshape(-1, rows * size, columns * size, channels)[:, :height, :width]


class HieraAttention(nn.Module):
    """Multi-head self-attention within a window; with ``pool``, at the start of a stage, queries are max-pooled."""

    def __init__(self, dim: int, dim_out: int, num_heads: int, pool: bool) -> None:
        super().__init__()
        self.num_heads, self.pool = num_heads, pool
        self.qkv = Linear(dim, 3 * dim_out)
        self.proj = Linear(dim_out, dim_out)

    def forward(self, x_bhwc: Tensor) -> Tensor:
        if torch.jit.is_tracing():
            # Other runtimes are slow at taking one product's channels apart.
            pairs = zip(self.qkv.weight.chunk(3), self.qkv.bias.chunk(3), strict=True)
            q, k, v = (F.linear(x_bhwc, weight, bias) for weight, bias in pairs)
        else:
            q, k, v = self.qkv(x_bhwc).chunk(3, dim=-1)
        if self.pool:
            q = max_pool(q)
        height, width = q.shape[1:3]
        q, k, v = (t.flatten(1, 2).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in (q, k, v))
        return self.proj(attention(q, k, v).transpose(1, 2).flatten(2).unflatten(1, (height, width)))


class HieraBlock(nn.Module):
    """Pre-norm transformer block; ``window`` 0 attends over the whole map."""

    def __init__(self, dim: int, dim_out: int, num_heads: int, window: int, pool: bool) -> None:
        super().__init__()
        self.window, self.pool = window, pool
        self.norm1 = LayerNorm(dim, eps=1e-6)
        self.attn = HieraAttention(dim, dim_out, num_heads, pool)
        self.norm2 = LayerNorm(dim_out, eps=1e-6)
        self.mlp = Mlp(dim_out, 4 * dim_out, dim_out, gelu=True)
        self.proj = Linear(dim, dim_out) if dim != dim_out else None

    def forward(self, x: Tensor, pending: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The block of ``x + pending``, as two tensors whose sum it is: the next block's norm adds them."""
        x, normed = self.norm1.after(x, pending)
        shortcut = x
        if self.proj is not None:
            shortcut = self.proj(normed)
            if self.pool:
                shortcut = max_pool(shortcut)
        if self.window:
            out = unpartition(self.attn(partition(normed, self.window)), shortcut.shape[1], shortcut.shape[2])
        else:
            out = self.attn(normed)
        x, normed = self.norm2.after(shortcut, out)
        return x, self.mlp(normed)


class PatchEmbed(nn.Module):
    """Overlapping 7×7 patches at stride 4."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = Conv2d(3, dim, 7, stride=4, padding=3)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).permute(0, 2, 3, 1)


class Hiera(nn.Module):
    """``[B, 3, S, S]`` → four maps ``[B, C, H, W]`` at strides 4, 8, 16, 32."""

    def __init__(self, config: HieraConfig) -> None:
        super().__init__()
        dim, heads = config.embed_dim, config.num_heads
        self.patch_embed = PatchEmbed(dim)
        grid, window = config.position_grid, config.window_sizes[0]
        self.pos_embed = nn.Parameter(torch.zeros(1, dim, grid, grid))
        self.pos_embed_window = nn.Parameter(torch.zeros(1, dim, window, window))
        self.blocks = nn.ModuleList()
        for stage, depth in enumerate(config.stages):
            for position in range(depth):
                first = position == 0 and stage > 0
                # The input of a stage's first block has the resolution of the stage before, and its window.
                window = 0 if len(self.blocks) in config.global_blocks else config.window_sizes[stage - first]
                dim_out, heads = (2 * dim, 2 * heads) if first else (dim, heads)
                self.blocks.append(HieraBlock(dim, dim_out, heads, window, pool=first))
                dim = dim_out
        self.stage_ends = [end - 1 for end in accumulate(config.stages)]
        self.channels = [config.embed_dim * 2**stage for stage in range(4)]

    def position(self, height: int, width: int) -> Tensor:
        """Position embedding ``[1, H, W, C]``: the coarse grid, resampled, plus the tiled embedding of a window."""

        def compute(coarse: Tensor, window: Tensor) -> Tensor:
            coarse = F.interpolate(coarse, size=(height, width), mode="bicubic")
            tiled = window.tile(1, 1, height // window.shape[2], width // window.shape[3])
            return (coarse + tiled).permute(0, 2, 3, 1).contiguous()

        if torch.is_grad_enabled():
            return compute(self.pos_embed, self.pos_embed_window)
        return cache_of(self).get((height, width), (self.pos_embed, self.pos_embed_window), compute)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self._embedded(images)
        maps, pending = [], None
        for index, block in enumerate(self.blocks):
            x, pending = block(x, pending)
            if index in self.stage_ends:
                x, pending = x + pending, None
                maps.append(x.permute(0, 3, 1, 2))
        return maps

    def _embedded(self, images: Tensor) -> Tensor:
        """Patches with their position embedding, ``[B, S / 4, S / 4, C]``."""
        if not uses_triton(images):
            # Channels last: what follows works on ``[B, H, W, C]``.
            x = self.patch_embed(images.contiguous(memory_format=torch.channels_last))
            height, width = x.shape[1:3]
            # Flat in between: OpenVINO else copies the maps of all blocks to and fro between two layouts.
            return (x.flatten(1, 2) + self.position(height, width).flatten(1, 2)).unflatten(1, (height, width))
        from sam2_ros.model.gpu import image_kernels

        conv, dtype, grid = self.patch_embed.proj, dispatch.TRITON_DTYPE, images.shape[3] // 4
        assert conv.bias is not None
        taps = cache_of(self).get(dtype, (conv.weight,), lambda weight: image_kernels.pack_patch_taps(weight, dtype))
        return image_kernels.embed(images.float().contiguous(), taps, conv.bias, self.position(grid, grid))
