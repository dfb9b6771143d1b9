"""Memory attention: the current frame's features look at the memory bank (SAM 2 paper, section 4 and D.1)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from sam2_ros.model.kernels import Derived, Linear, infers_on_cpu
from sam2_ros.model.layers import Attention
from sam2_ros.model.position import as_turns, rotary_table, rotate, rotate_


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
        q, k = (_turned(attention.split_heads(p(normed)), table) for p in (attention.q_proj, attention.k_proj))
        return x + attention.attend(q, k, attention.split_heads(attention.v_proj(normed)))

    def attend_memory(
        self,
        x: Tensor,
        memory: Tensor,
        keys: Tensor,
        num_pointers: int,
        table: Tensor,
        memory_table: Tensor,
        mask: Tensor | None,
    ) -> Tensor:
        attention = self.cross_attn_image
        q = _turned(attention.split_heads(attention.q_proj(self.norm2(x))), table)
        k = attention.k_proj(keys)
        spatial = k.shape[1] - num_pointers
        # Every stored frame repeats the same grid; pointers have no place in it.
        frames = k[:, :spatial].unflatten(1, (-1, memory_table.shape[-2]))
        if torch.is_grad_enabled():
            k = torch.cat((rotate(frames, memory_table).flatten(1, 2), k[:, spatial:]), dim=1)
        else:
            rotate_(frames, memory_table)
        return x + attention.attend_narrow(q, attention.split_heads(k), memory, mask)

    def feed_forward(self, x: Tensor) -> Tensor:
        return x + self.linear2(self.linear1.relu(self.norm3(x)))


def _turned(x: Tensor, table: Tensor) -> Tensor:
    """``x``, which nobody else has, rotated."""
    if not infers_on_cpu(x.device):
        return rotate(x, table)
    rotate_(x, table)
    return x


class MemoryAttention(nn.Module):
    """Image features, conditioned on each object's memory.

    What does not depend on the object, that is the first layer's self-attention and the query of its cross-attention,
    is worked out once and broadcast: exact, and the larger part of the cost per object of that layer.
    """

    table: Tensor
    memory_table: Tensor

    def __init__(self, dim: int, memory_dim: int, hidden: int, num_layers: int, grid: int, pool: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(MemoryAttentionLayer(dim, memory_dim, hidden) for _ in range(num_layers))
        self.norm = nn.LayerNorm(dim)
        self.register_buffer("table", rotary_table(dim, grid), persistent=False)
        self.register_buffer("memory_table", rotary_table(dim, grid, pool), persistent=False)
        self.turns = Derived(), Derived()

    def forward(
        self,
        image: Tensor,
        image_pos: Tensor,
        memory: Tensor,
        memory_pos: Tensor,
        num_pointers: int,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Conditions ``image`` on ``B`` memories.

        Args:
            image: ``[1 or B, N, C]`` tokens of the current frame.
            image_pos: ``[1, N, C]`` sine code.
            memory: ``[B, K, memory_dim]``, whole frames first, then ``num_pointers`` pointer tokens.
            memory_pos: ``[B, K, memory_dim]`` code, added to keys only.
            num_pointers: pointer tokens at the end.
            mask: ``[B, K]`` bool, False where a token is to be ignored; None: all count.

        Returns:
            ``[B, N, C]``.
        """
        first = cast(MemoryAttentionLayer, self.layers[0])
        tables = self._tables(memory.device)
        x = first.attend_self(image + 0.1 * image_pos, tables[0])
        keys = memory + memory_pos
        attention_mask = None if mask is None else mask[:, None, None, :]
        if not self._in_turn(memory):
            return self._attend(x, memory, keys, num_pointers, tables, attention_mask)
        each = [slice(index, index + 1) for index in range(len(memory))]
        return torch.cat(
            [
                self._attend(
                    x if len(x) == 1 else x[one], memory[one], keys[one], num_pointers, tables,
                    attention_mask if attention_mask is None or len(attention_mask) == 1 else attention_mask[one],
                )
                for one in each
            ]
        )  # fmt: skip

    @staticmethod
    def _in_turn(memory: Tensor) -> bool:
        """One object at a time: what lies between two steps then stays in a processor's cache."""
        return len(memory) > 1 and not torch.is_grad_enabled() and memory.device.type == "cpu"

    def _tables(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Rotary tables of the frame and of a memory, as :func:`rotate` wants them there."""
        if not infers_on_cpu(device):
            return self.table, self.memory_table
        return self.turns[0].of((self.table,), as_turns), self.turns[1].of((self.memory_table,), as_turns)

    def _attend(
        self,
        x: Tensor,
        memory: Tensor,
        keys: Tensor,
        num_pointers: int,
        tables: tuple[Tensor, Tensor],
        mask: Tensor | None,
    ) -> Tensor:
        """All that follows the first layer's self-attention."""
        for index, module in enumerate(self.layers):
            layer = cast(MemoryAttentionLayer, module)
            if index:
                x = layer.attend_self(x, tables[0])
            x = layer.attend_memory(x, memory, keys, num_pointers, *tables, mask)
            x = layer.feed_forward(x)
        return self.norm(x)
