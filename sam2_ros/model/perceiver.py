"""EdgeTAM's spatial perceiver, which condenses a frame's memory to a few tokens (Zhou et al., CVPR 2025, section 3.2).

Half of the tokens look at the whole map; the others form a coarse map, and each looks at the cells that it stands for.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2_ros.model.dispatch import attention
from sam2_ros.model.hiera import partition
from sam2_ros.model.layers import Linear
from sam2_ros.model.position import sine_code_2d
from sam2_ros.model.weight_cache import cache_of

DEPTH = 2


class CrossAttention(nn.Module):
    """One head from latents to cells; the position code goes to keys and values."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm_x, self.norm_latents = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.to_q = Linear(dim, dim, bias=False)
        self.to_kv = Linear(dim, 2 * dim, bias=False)
        self.to_out = Linear(dim, dim, bias=False)

    def forward(self, latents: Tensor, cells: Tensor, code: Tensor | float) -> Tensor:
        key, value = (each + code for each in self.to_kv(self.norm_x(cells)).chunk(2, dim=-1))
        query = self.to_q(self.norm_latents(latents))
        return self.to_out(attention(*(each.to(query.dtype)[:, None] for each in (query, key, value)))[:, 0])


class SelfAttention(nn.Module):
    """One head among latents."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.to_q = Linear(dim, dim, bias=False)
        self.to_kv = Linear(dim, 2 * dim, bias=False)
        self.to_out = Linear(dim, dim, bias=False)

    def forward(self, latents: Tensor) -> Tensor:
        normed = self.norm(latents)
        query, (key, value) = self.to_q(normed), self.to_kv(normed).chunk(2, dim=-1)
        return self.to_out(attention(query[:, None], key[:, None], value[:, None])[:, 0])


class FeedForward(nn.Sequential):
    """Layer norm, then two linear maps (expansion 4) with GELU between."""

    def __init__(self, dim: int) -> None:
        super().__init__(
            nn.LayerNorm(dim), Linear(dim, 4 * dim, bias=False), nn.GELU(), Linear(4 * dim, dim, bias=False)
        )


class PerceiverLayer(nn.Module):
    """Cross-attention, feed-forward, self-attention, feed-forward; each with a residual."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.attn, self.ff = CrossAttention(dim), FeedForward(dim)
        self.self_attn, self.self_ff = SelfAttention(dim), FeedForward(dim)

    def forward(self, latents: Tensor, cells: Tensor, code: Tensor | float = 0.0) -> Tensor:
        """``latents`` ``[B, N, C]``, ``cells`` ``[B, K, C]``."""
        latents = latents + self.attn(latents, cells, code)
        latents = latents + self.ff(latents)
        latents = latents + self.self_attn(latents)
        return latents + self.self_ff(latents)


class SpatialPerceiver(nn.Module):
    """Memory of a map, ``[B, h * h, dim]`` → ``[B, 2 * side², dim]``: tokens of the whole map, then a coarse map."""

    def __init__(self, dim: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.latents = nn.Parameter(torch.zeros(side**2, dim))
        self.latents_2d = nn.Parameter(torch.zeros(side**2, dim))
        self.layers = nn.ModuleList(PerceiverLayer(dim) for _ in range(DEPTH))
        self.norm = nn.LayerNorm(dim)

    def forward(self, memory: Tensor) -> Tensor:
        batch, cells, dim = memory.shape
        grid = math.isqrt(cells)
        if grid % self.side:
            # The official network takes no such map: it would not fall into windows.
            maps = memory.transpose(1, 2).unflatten(2, (grid, grid))
            grid = self.side * max(1, grid // self.side)
            memory = F.adaptive_avg_pool2d(maps, grid).flatten(2).transpose(1, 2)
        code = cache_of(self).get(
            ("code", grid), (self.latents,), lambda latents: sine_code_2d(dim, grid).flatten(1).T.to(latents.device)
        )
        windows = partition(memory.unflatten(1, (grid, grid)), grid // self.side).flatten(1, 2)
        whole = self.latents.expand(batch, -1, -1)
        coarse = self.latents_2d.repeat(batch, 1)[:, None]
        for layer in self.layers:
            whole, coarse = layer(whole, memory, code), layer(coarse, windows)
        out: Tensor = self.norm(torch.cat((whole, coarse.view(batch, -1, dim)), dim=1))
        return out
