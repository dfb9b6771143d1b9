"""Memory attention by the Triton kernels: the arithmetic of :class:`~sam2_ros.model.memory_attention.MemoryAttention`.

As under autocast, sums are float32 and the inputs of matrix products are bfloat16. Attention averages the memory at its
own width and projects the mean. To compute keys anew in every frame takes less time than to read them from a cache.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sam2_ros.model import dispatch
from sam2_ros.model.layers import merged_linear
from sam2_ros.model.padded import PaddedMemory
from sam2_ros.model.weight_cache import cache_of

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

    attend_memory = _memory_reader(attention, code, memory)
    x, delta = (image.float() + 0.1 * image_pos).contiguous(), None
    for module in attention.layers:
        layer = cast("MemoryAttentionLayer", module)
        x, normed = add_norm(x, delta, layer.norm1, dispatch.TRITON_DTYPE)
        own = layer.self_attn
        together = rotate_(F.linear(normed, *_permuted(own.q_proj, own.k_proj, own.v_proj)), attention.table, heads=2)
        q, k, v = together.split(x.shape[2], dim=2)
        delta = own.out_proj(_attend(q, k, v))

        x, normed = add_norm(x, delta, layer.norm2, dispatch.TRITON_DTYPE)
        cross = layer.cross_attn_image
        q = rotate_(F.linear(normed, *_permuted(cross.q_proj)), attention.table, heads=1)
        delta = merged_linear(attend_memory(q, *_permuted(cross.k_proj)), cross.v_proj, cross.out_proj)

        x, normed = add_norm(x, delta, layer.norm3, dispatch.TRITON_DTYPE)
        delta = layer.linear2(layer.linear1.relu(normed))
    return add_norm(x, delta, attention.norm, torch.float32, keep=False)[1]


def _memory_reader(
    attention: MemoryAttention, code: Tensor, memory: PaddedMemory
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """A function that attends to ``memory``, layer by layer. Keys of the frames' tokens come before the pointers'."""
    from sam2_ros.model.gpu.attention_kernels import Keys, attend
    from sam2_ros.model.gpu.key_kernels import project_keys

    dtype, code, times = dispatch.TRITON_DTYPE, code.contiguous(), memory.times.contiguous()
    frames, pointer_keys = memory.frames.to(dtype), (memory.pointers + memory.pointer_codes).to(dtype)
    values = torch.cat((frames.flatten(1, 2), memory.pointers.to(dtype)), dim=1)
    cut = values.shape[1] - memory.pointers.shape[1]

    def attend_memory(q: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """The attended values, ``[B, N, memory_dim]``; ``weight`` and ``bias`` project the keys."""
        keys = values.new_empty(*values.shape[:2], len(weight))
        project_keys(frames, code, times, memory.num_frame_tokens, weight, bias, attention.memory_table, keys)
        keys[:, cut:] = F.linear(pointer_keys, weight, bias)
        if memory.full and len(values) >= CUDNN_OBJECTS:
            # cuDNN gives its result the layout of the queries.
            return _attend(q.expand(len(values), -1, -1).contiguous(), keys, values)
        if memory.full:
            return attend(q, Keys(keys, values))
        first = Keys(keys[:, :cut], values[:, :cut], memory.num_frame_tokens)
        return attend(q, first, Keys(keys[:, cut:], values[:, cut:], memory.num_pointer_tokens))

    return attend_memory


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One head, ``[B, N, C]`` each. Of PyTorch's kernels, cuDNN's is the fastest with enough objects."""
    if q.device.type != "cuda":
        return F.scaled_dot_product_attention(q, k, v)
    first = SDPBackend.CUDNN_ATTENTION if len(q) >= CUDNN_OBJECTS else SDPBackend.FLASH_ATTENTION
    backends = (first, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)
    with sdpa_kernel(list(dict.fromkeys(backends)), set_priority=True):
        return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]


def _permuted(*linears: nn.Linear) -> tuple[Tensor, Tensor]:
    """Weight and bias of one matrix product for all, with channels of the first two permuted for the rotary kernels."""
    dtype, cache = dispatch.TRITON_DTYPE, cache_of(linears[0])

    def compute(*tensors: Tensor) -> Tensor:
        # The first rows of all pairs, then the second rows.
        permuted = [torch.cat((x[0::2], x[1::2])) for x in tensors[:2]]
        return torch.cat((*permuted, *tensors[2:])).to(dtype).contiguous()

    return (
        cache.get(("permuted weight", len(linears), dtype), tuple(linear.weight for linear in linears), compute),
        cache.get(("permuted bias", len(linears), dtype), tuple(linear.bias for linear in linears), compute),
    )
