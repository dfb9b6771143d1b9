"""Memory attention by the Triton kernels: the arithmetic of :class:`~sam2_ros.model.memory_attention.MemoryAttention`.

As under autocast, the residual stream is float32 and the inputs of matrix products are bfloat16. Attention averages the
memory at its own width and projects the mean. Keys are computed anew in every frame, which takes less time than to read
them from a cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sam2_ros.model import dispatch
from sam2_ros.model.padded import PaddedMemory
from sam2_ros.model.weight_cache import DerivedTensor, WeightCache

if TYPE_CHECKING:
    from sam2_ros.model.memory_attention import MemoryAttention, MemoryAttentionLayer

CUDNN_OBJECTS = 4  # with fewer, other kernels are faster than cuDNN's


def condition(
    attention: MemoryAttention, image: Tensor, image_pos: Tensor, code: Tensor, memory: PaddedMemory
) -> Tensor:
    """Conditions ``image`` (``[1, N, C]`` tokens, with ``image_pos``) on ``B`` memories, float32 ``[B, N, C]``.

    ``code`` (``[HW, memory_dim]``) is the position code of a stored frame.
    """
    from sam2_ros.model.gpu.key_kernels import rotate_
    from sam2_ros.model.gpu.norm_kernels import add_norm

    attend_memory = _MemoryReader(attention, code, memory)
    x, delta = (image.float() + 0.1 * image_pos).contiguous(), None
    for module in attention.layers:
        layer = cast("MemoryAttentionLayer", module)
        weights = layer.__dict__.setdefault("_gpu_weights", _Weights())
        x, normed = add_norm(x, delta, layer.norm1, dispatch.TRITON_DTYPE)
        together = rotate_(F.linear(normed, *weights.together(layer)), attention.table, heads=2)
        q, k, v = together.split(x.shape[2], dim=2)
        delta = layer.self_attn.out_proj(_attend(q, k, v))

        x, normed = add_norm(x, delta, layer.norm2, dispatch.TRITON_DTYPE)
        cross = layer.cross_attn_image
        q = rotate_(F.linear(normed, *weights.permuted(cross.q_proj)), attention.table, heads=1)
        delta = cross.out_of_values(attend_memory(q, *weights.permuted(cross.k_proj)), cross.v_proj, cross.out_proj)

        x, normed = add_norm(x, delta, layer.norm3, dispatch.TRITON_DTYPE)
        delta = layer.linear2(layer.linear1.relu(normed))
    return add_norm(x, delta, attention.norm, torch.float32, keep=False)[1]


class _MemoryReader:
    """Attends to one memory, layer by layer. One tensor of keys holds the frames' tokens, then the pointers'."""

    def __init__(self, attention: MemoryAttention, code: Tensor, memory: PaddedMemory) -> None:
        self.memory, self.table, self.code = memory, attention.memory_table, code.contiguous()
        self.frames, self.times = memory.frames.to(dispatch.TRITON_DTYPE), memory.times.contiguous()
        self.pointer_keys = (memory.pointers + memory.pointer_codes).to(dispatch.TRITON_DTYPE)
        self.values = torch.cat((self.frames.flatten(1, 2), memory.pointers.to(dispatch.TRITON_DTYPE)), dim=1)
        self.spatial = self.values.shape[1] - memory.pointers.shape[1]

    def __call__(self, q: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """The attended values, ``[B, N, memory_dim]``; ``weight`` and ``bias`` project the keys."""
        from sam2_ros.model.gpu.attention_kernels import Keys, attend
        from sam2_ros.model.gpu.key_kernels import project_keys

        memory, values, cut = self.memory, self.values, self.spatial
        keys = values.new_empty(*values.shape[:2], len(weight))
        project_keys(self.frames, self.code, self.times, memory.num_frame_tokens, weight, bias, self.table, keys)
        keys[:, cut:] = F.linear(self.pointer_keys, weight, bias)
        if memory.full and len(values) >= CUDNN_OBJECTS:
            # cuDNN gives its result the layout of the queries.
            return _attend(q.expand(len(values), -1, -1).contiguous(), keys, values)
        if memory.full:
            return attend(q, Keys(keys, values))
        frames = Keys(keys[:, :cut], values[:, :cut], memory.num_frame_tokens)
        return attend(q, frames, Keys(keys[:, cut:], values[:, cut:], memory.num_pointer_tokens))


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One head, ``[B, N, C]`` each. Of PyTorch's kernels, cuDNN's is the fastest with enough objects."""
    if q.device.type != "cuda":
        return F.scaled_dot_product_attention(q, k, v)
    first = SDPBackend.CUDNN_ATTENTION if len(q) >= CUDNN_OBJECTS else SDPBackend.FLASH_ATTENTION
    backends = (first, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)
    with sdpa_kernel(list(dict.fromkeys(backends)), set_priority=True):
        return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]


class _Weights(WeightCache):
    """A layer's weights in the order that the kernels need, computed once."""

    def __init__(self) -> None:
        self._cached: dict[object, tuple[DerivedTensor, DerivedTensor]] = {}

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for pair in self._cached.values() for tensor in pair)

    def __deepcopy__(self, memo: object) -> _Weights:
        return _Weights()

    def permuted(self, module: nn.Linear) -> tuple[Tensor, Tensor]:
        """Weight and bias with channels permuted for the rotary kernels."""
        return self._of(module, (module,), _apart, _apart)

    def together(self, layer: MemoryAttentionLayer) -> tuple[Tensor, Tensor]:
        """Queries, keys and values of the self-attention in one matrix product."""
        own = layer.self_attn

        def joined(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return torch.cat((_apart(q), _apart(k), v))

        return self._of(own, (own.q_proj, own.k_proj, own.v_proj), joined, joined)

    def _of(self, key: object, modules: tuple[nn.Linear, ...], weights: Any, biases: Any) -> tuple[Tensor, Tensor]:
        weight, bias = self._cached.setdefault(key, (DerivedTensor(), DerivedTensor()))
        return (
            weight.get(tuple(m.weight for m in modules), lambda *w: weights(*w).to(dispatch.TRITON_DTYPE).contiguous()),
            bias.get(tuple(m.bias for m in modules), lambda *b: biases(*b).to(dispatch.TRITON_DTYPE).contiguous()),
        )


def _apart(x: Tensor) -> Tensor:
    """The first rows of all pairs, then the second rows."""
    return torch.cat((x[0::2], x[1::2]))
