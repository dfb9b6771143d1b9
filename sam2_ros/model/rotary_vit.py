"""Image encoder of SAM 3: a plain vision transformer with windowed attention and rotary positions, and a neck.

Sources: Carion et al., "SAM 3: Segment Anything with Concepts", 2025; Li et al., "Exploring Plain Vision Transformer
Backbones for Object Detection", 2022 (windows, neck); Heo et al., "Rotary Position Embedding for Vision Transformer",
2024. The names of the weights are the official ones, apart from those of the feed-forward part.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sam2_ros.model.config import RotaryViTConfig
from sam2_ros.model.dispatch import attention, infers_on_cpu
from sam2_ros.model.hiera import partition, unpartition
from sam2_ros.model.layers import Conv2d, LayerNorm, Linear, Mlp
from sam2_ros.model.position import as_complex, rotary_table, rotate
from sam2_ros.model.weight_cache import cache_of

PATCH = 14  # pixels
HEAD = 64  # channels of an attention head


class RotaryAttention(nn.Module):
    """Multi-head self-attention over a map or a window."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)

    def forward(self, x_bhwc: Tensor, table: Tensor) -> Tensor:
        height, width = x_bhwc.shape[1:3]
        q, k, v = (
            each.flatten(1, 2).unflatten(-1, (-1, HEAD)).transpose(1, 2) for each in self.qkv(x_bhwc).chunk(3, dim=-1)
        )
        out = attention(rotate(q, table), rotate(k, table), v)
        return self.proj(out.transpose(1, 2).flatten(2).unflatten(1, (height, width)))


class RotaryBlock(nn.Module):
    """Pre-norm transformer block; ``window`` 0 attends over the whole map."""

    def __init__(self, width: int, hidden: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.norm1 = LayerNorm(width)
        self.attn = RotaryAttention(width)
        self.norm2 = LayerNorm(width)
        self.mlp = Mlp(width, hidden, width, gelu=True)

    def forward(self, x: Tensor, pending: Tensor | None, table: Tensor) -> tuple[Tensor, Tensor]:
        """The block of ``x + pending``, as two tensors whose sum it is: the next block's norm adds them."""
        x, normed = self.norm1.after(x, pending)
        if self.window:
            windows = self.attn(partition(normed, self.window), table)
            out = unpartition(windows, x.shape[1], x.shape[2])
        else:
            out = self.attn(normed, table)
        x, normed = self.norm2.after(x, out)
        return x, self.mlp(normed)


class PatchEmbed(nn.Module):
    """Patches that do not overlap."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = Conv2d(3, width, PATCH, stride=PATCH, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images.contiguous(memory_format=torch.channels_last)).permute(0, 2, 3, 1)


class RotaryViT(nn.Module):
    """``[B, 3, S, S]`` → ``[B, width, S / 14, S / 14]``."""

    def __init__(self, config: RotaryViTConfig) -> None:
        super().__init__()
        self.window = config.window
        self.patch_embed = PatchEmbed(config.width)
        self.pos_embed = nn.Parameter(torch.zeros(1, config.window**2, config.width))  # of a window; tiled
        self.ln_pre = LayerNorm(config.width)
        windows = [config.window if (index + 1) % (config.depth // 4) else 0 for index in range(config.depth)]
        self.blocks = nn.ModuleList(RotaryBlock(config.width, config.hidden, window) for window in windows)

    def _position(self, side: int) -> Tensor:
        """Position embedding ``[1, side, side, C]``."""
        tiles = -(-side // self.window)
        tile = self.pos_embed.unflatten(1, (self.window, self.window))
        return tile.tile(1, tiles, tiles, 1)[:, :side, :side]

    def _table(self, side: int, device: torch.device) -> Tensor:
        """Rotary table of a map with this side. Whatever it is, the map is as large as a window: positions in one
        that attends as a whole are fractions."""

        def compute() -> Tensor:
            table = rotary_table(HEAD, side, scale=self.window / side).to(device)
            return as_complex(table) if infers_on_cpu(device) else table

        return cache_of(self).get(("table", side, infers_on_cpu(device), device), (), compute)

    def forward(self, images: Tensor) -> Tensor:
        x, pending = self.patch_embed(images), None
        side = int(x.shape[1])
        x = self.ln_pre(x + self._position(side))
        for block in self.blocks:
            assert isinstance(block, RotaryBlock)
            x, pending = block(x, pending, self._table(block.window or side, x.device))
        return (x + pending).permute(0, 3, 1, 2)


class SimpleNeck(nn.Module):
    """``[B, width, h, w]`` → ``[B, dim, 4h, 4w]``, ``[B, dim, 2h, 2w]`` and ``[B, dim, h, w]``, each made from the one
    map of the trunk."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        half, quarter = width // 2, width // 4
        scalings: tuple[dict[str, nn.Module], ...] = (
            {
                "dconv_2x2_0": nn.ConvTranspose2d(width, half, 2, stride=2),
                "gelu": nn.GELU(),
                "dconv_2x2_1": nn.ConvTranspose2d(half, quarter, 2, stride=2),
            },
            {"dconv_2x2": nn.ConvTranspose2d(width, half, 2, stride=2)},
            {},
        )
        self.convs = nn.ModuleList()
        for scaling, channels in zip(scalings, (quarter, half, width), strict=True):
            level = nn.Sequential()
            for name, module in scaling.items():
                level.add_module(name, module)
            level.add_module("conv_1x1", Conv2d(channels, dim, 1))
            level.add_module("conv_3x3", Conv2d(dim, dim, 3, padding=1))
            self.convs.append(level)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fine, middle, coarse = (level(x) for level in self.convs)
        return fine, middle, coarse


class RotaryViTEncoder(nn.Module):
    """Normalised RGB ``[B, 3, S, S]`` → maps at strides 3.5, 7 and 14 with ``dim`` channels each."""

    def __init__(self, config: RotaryViTConfig, dim: int) -> None:
        super().__init__()
        self.trunk = RotaryViT(config)
        self.neck = SimpleNeck(config.width, dim)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        maps: tuple[Tensor, Tensor, Tensor] = self.neck(self.trunk(images))
        return maps
