"""Memory attention conditions a frame's features on the memory bank (SAM 2 paper, section 4 and D.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2_ros.model.dispatch import infers_on_cpu
from sam2_ros.model.layers import Attention, Linear, merged_linear, shallow_copy, weighted_mean
from sam2_ros.model.position import as_complex, frame_table, rotary_table, rotate, rotate_
from sam2_ros.model.weight_cache import cache_of


@dataclass(frozen=True)
class Memory:
    """The memories of ``B`` objects."""

    tokens: Tensor  # [B, K, memory_dim]
    keys: Tensor  # [B, K, memory_dim] tokens with their position codes
    num_pointers: int
    mask: Tensor | None  # [1 or B, 1, 1, K] bool, False = ignore

    def row(self, row: slice) -> Memory:
        """The memory of one object."""
        mask = self.mask if self.mask is None or len(self.mask) == 1 else self.mask[row]
        return Memory(self.tokens[row], self.keys[row], self.num_pointers, mask)


class MemoryAttentionLayer(nn.Module):
    """Self-attention, cross-attention to the memory, feed-forward; pre-norm, one head, rotary positions."""

    def __init__(self, dim: int, memory_dim: int, hidden: int) -> None:
        super().__init__()
        self.self_attn = Attention(dim, 1)
        self.cross_attn_image = Attention(dim, 1, kv_dim=memory_dim)
        self.linear1 = Linear(dim, hidden)
        self.linear2 = Linear(hidden, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)

    def attend_self(self, x: Tensor, table: Tensor) -> Tensor:
        attention, normed = self.self_attn, self.norm1(x)
        q, k = (attention.split_heads(_rotated(p, normed, table)) for p in (attention.q_proj, attention.k_proj))
        if torch.is_grad_enabled() or x.device.type != "cpu":
            return x + attention.attend(q, k, attention.split_heads(attention.v_proj(normed)))
        # One head, whose weights sum to one: both projections of the values are one.
        values = merged_linear(normed, attention.v_proj, attention.out_proj)
        return x + weighted_mean(q, k, values[:, None], None)[:, 0]

    def attend_memory(self, x: Tensor, memory: Memory, tables: tuple[Tensor, Tensor]) -> Tensor:
        attention, (table, memory_table) = self.cross_attn_image, tables
        q = attention.split_heads(_rotated(attention.q_proj, self.norm2(x), table))
        spatial, cells = memory.keys.shape[1] - memory.num_pointers, memory_table.shape[-2]
        # Each stored frame has the same tokens. Pointers have no position among them.
        if torch.jit.is_tracing():
            frames, pointers = memory.keys[:, :spatial].unflatten(1, (-1, cells)), memory.keys[:, spatial:]
            frames = _rotated(attention.k_proj, frames, memory_table)
            k = torch.cat((frames.flatten(1, 2), F.linear(pointers, *_by_halves(attention.k_proj))), dim=1)
        elif torch.is_grad_enabled():
            k = attention.k_proj(memory.keys)
            frames = rotate(k[:, :spatial].unflatten(1, (-1, cells)), memory_table)
            k = torch.cat((frames.flatten(1, 2), k[:, spatial:]), dim=1)
        else:
            k = attention.k_proj(memory.keys)
            rotate_(k[:, :spatial].unflatten(1, (-1, cells)), memory_table)
        return x + attention.attend_narrow(q, attention.split_heads(k), memory.tokens, memory.mask)

    def feed_forward(self, x: Tensor) -> Tensor:
        return x + self.linear2(self.linear1.relu(self.norm3(x)))


def _rotated(projection: Linear, x: Tensor, table: Tensor) -> Tensor:
    """``projection(x)`` (``[..., N, C]``), rotated."""
    if torch.jit.is_tracing():
        # Other runtimes are slow at taking pairs of channels apart.
        ordered, half = F.linear(x, *_by_halves(projection)), projection.out_features // 2
        partners = torch.cat((-ordered[..., half:], ordered[..., :half]), dim=-1)
        cos, sin = torch.cat((table, table), dim=-1)
        return ordered * cos + partners * sin
    projected = projection(x)
    if not infers_on_cpu(x.device):
        return rotate(projected, table)
    rotate_(projected, table)
    return projected


def _by_halves(projection: Linear) -> tuple[Tensor, Tensor]:
    """Weight and bias with the channels of queries and keys in another order, which does not change their products:
    the first ones of all pairs that are rotated, then the second ones."""
    weight, bias = projection.weight, projection.bias
    return torch.cat((weight[0::2], weight[1::2])), torch.cat((bias[0::2], bias[1::2]))


class MemoryAttention(nn.Module):
    """Image features, conditioned on each object's memory.

    The first layer's self-attention and the query of its cross-attention are the same for all objects. They are
    computed once and broadcast, which saves most of that layer's work and changes nothing.
    """

    table: Tensor
    memory_table: Tensor

    def __init__(
        self, dim: int, memory_dim: int, hidden: int, num_layers: int, grid: int, pool: int, perceiver_side: int = 0
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(MemoryAttentionLayer(dim, memory_dim, hidden) for _ in range(num_layers))
        self.norm = nn.LayerNorm(dim)
        self._dim, self._pool, self._perceiver_side = dim, pool, perceiver_side
        self._make_tables(grid)

    def _make_tables(self, grid: int) -> None:
        self.register_buffer("table", rotary_table(self._dim, grid), persistent=False)
        memory_table = frame_table(self._dim, grid, self._pool, self._perceiver_side)
        self.register_buffer("memory_table", memory_table, persistent=False)

    def at(self, grid: int) -> MemoryAttention:
        """The same module, with the same weights in memory, for frames of another grid."""
        other = shallow_copy(self)
        other._make_tables(grid)
        return other

    def forward(
        self, image: Tensor, image_pos: Tensor, memory: Tensor, codes: Tensor, num_pointers: int, mask: Tensor | None
    ) -> Tensor:
        """Conditions ``image`` (``[1 or B, N, C]`` tokens, sine code ``[1, N, C]``) on ``B`` memories, ``[B, N, C]``.

        ``memory`` is ``[B, K, memory_dim]``: whole frames, then ``num_pointers`` pointer tokens. Only keys receive its
        ``codes``. ``mask`` is ``[B, K]`` bool, False = ignore the token; None = all count.
        """
        tables = self._tables(memory.device)
        x = self.attend_image(image, image_pos)
        whole = Memory(memory, memory + codes, num_pointers, None if mask is None else mask[:, None, None, :])
        if len(memory) == 1 or not infers_on_cpu(memory.device):
            return self._after_first_self_attention(x, whole, tables)
        # One object at a time, so that intermediate results stay in the processor's cache.
        x, rows = x.expand(len(memory), -1, -1), [slice(index, index + 1) for index in range(len(memory))]
        return torch.cat([self._after_first_self_attention(x[row], whole.row(row), tables) for row in rows])

    def attend_image(self, image: Tensor, image_pos: Tensor) -> Tensor:
        """The first layer's self-attention, the same for all objects."""
        first = cast(MemoryAttentionLayer, self.layers[0])
        return first.attend_self(image + 0.1 * image_pos, self._tables(image.device)[0])

    def attend_memory(self, x: Tensor, memory: Memory) -> Tensor:
        """All that follows :meth:`attend_image`, whose result is ``x``."""
        return self._after_first_self_attention(x, memory, self._tables(x.device))

    def _tables(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Rotary tables of the frame and of a memory, in the form that :func:`rotate` prefers on ``device``."""
        if not infers_on_cpu(device):
            return self.table, self.memory_table
        cache = cache_of(self)
        return cache.get("frame", (self.table,), as_complex), cache.get("memory", (self.memory_table,), as_complex)

    def _after_first_self_attention(self, x: Tensor, memory: Memory, tables: tuple[Tensor, Tensor]) -> Tensor:
        for index, module in enumerate(self.layers):
            layer = cast(MemoryAttentionLayer, module)
            if index:
                x = layer.attend_self(x, tables[0])
            x = layer.feed_forward(layer.attend_memory(x, memory, tables))
        return self.norm(x)
