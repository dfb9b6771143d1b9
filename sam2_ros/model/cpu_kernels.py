"""Matrix products, convolutions and attention that are faster on CPUs than PyTorch's own, for inference.

With AVX-512, PyTorch's float32 matrix products and its attention leave half of the vector units idle, except on Intel's
processors. oneDNN, which is part of PyTorch, uses them all. On Intel's processors PyTorch's attention is the fastest
wherever keys are as wide as values.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK_ELEMENTS = 2**21  # attention weights at a time: as many as stay in the processor's cache
ONEDNN_QUERIES = 128  # attention in float32 with fewer queries is not worth the calls of oneDNN, one for each head


def _is_from_intel() -> bool:
    """Whether this is an Intel processor; False where the system does not say."""
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False


IS_FROM_INTEL = _is_from_intel()
# Whether oneDNN's kernels are the fast ones here and PyTorch has the operators that reach them
HAS_ONEDNN: bool = (
    torch.backends.mkldnn.is_available()
    and torch.backends.cpu.get_cpu_capability() == "AVX512"
    and all(hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_convolution_pointwise"))
)
# oneDNN's arguments for the activation that follows in the same pass
_ACTIVATIONS: dict[str, tuple[str, list[Any], str]] = {
    "": ("none", [], ""), "gelu": ("gelu", [], "none"), "relu": ("relu", [], "")
}  # fmt: skip


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "") -> Tensor:
    """See :func:`.dispatch.linear`; ``weight`` is a contiguous matrix or the transpose of one."""
    # Without contiguous rows, oneDNN takes a kernel that is a thousand times slower.
    return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, *_ACTIVATIONS[activation])


def convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: tuple[Any, Any, Any, int], activation: str
) -> Tensor:
    """A 2-D convolution, then the activation. ``geometry``: lists of padding, stride and dilation; groups.

    PyTorch itself chooses by the number of threads, and with one thread takes a slower kernel.
    """
    return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *geometry, *_ACTIVATIONS[activation])


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """See :func:`.dispatch.attention`."""
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill_(~mask, -torch.inf)
    narrow_values = q.shape[3] != v.shape[3]
    each = None if mask is None else mask.expand(*q.shape[:3], k.shape[2])  # a view
    if narrow_values and q.shape[1] == 1 and (IS_FROM_INTEL or q.dtype == torch.bfloat16):
        return _attention_by_blocks(q, k, v, each)
    if not IS_FROM_INTEL or narrow_values:
        if q.dtype == torch.bfloat16:
            return _attention_by_matmul(q, k, v, each)
        if q.dtype == torch.float32 and q.shape[2] >= ONEDNN_QUERIES:
            return _attention_by_heads(q, k, v, each)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def _attention_by_blocks(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """One head, a block of queries at a time, so that the attention weights stay in the processor's cache."""
    batch, _, queries, width = q.shape
    out = q.new_empty(batch, 1, queries, v.shape[3])
    blocks = max(1, round(queries * k.shape[2] / (2 * BLOCK_ELEMENTS if IS_FROM_INTEL else BLOCK_ELEMENTS)))
    rows = -(-queries // blocks)
    scratch = q.new_empty(rows, k.shape[2])
    for b in range(batch):
        # ``@`` would copy the transposed keys.
        scaled, keys, values = q[b, 0] * width**-0.5, k[b, 0].T, v[b, 0]
        for first in range(0, queries, rows):
            part = slice(first, min(first + rows, queries))
            weights = scratch[: part.stop - first]
            torch.mm(scaled[part], keys, out=weights)
            if mask is not None:
                weights += mask[b, 0, part]
            torch.softmax(weights, dim=-1, out=weights)
            torch.mm(weights, values, out=out[b, 0, part])
    return out


def _attention_by_heads(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """One head at a time, so that oneDNN multiplies two matrices each time."""
    batch, heads, queries, width = q.shape
    out = q.new_empty(batch, heads, queries, v.shape[3])
    rows = max(1, BLOCK_ELEMENTS // k.shape[2])
    for b in range(batch):
        for h in range(heads):
            keys, values = k[b, h].contiguous(), v[b, h].contiguous().T
            scaled = q[b, h] * width**-0.5
            for first in range(0, queries, rows):
                part = slice(first, first + rows)
                logits = linear(scaled[part], keys, None)
                if mask is not None:
                    logits += mask[b, h, part]
                out[b, h, part] = linear(logits.softmax(dim=-1), values, None)
    return out


def _attention_by_matmul(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """All heads at once, a block of queries at a time."""
    batch, heads, queries, width = q.shape
    rows = max(1, BLOCK_ELEMENTS // k.shape[2])
    if batch * heads * queries * k.shape[2] <= 4 * BLOCK_ELEMENTS:
        return _softmax_rows(q * width**-0.5, k, v, mask)
    out = q.new_empty(batch, heads, queries, v.shape[3])
    for b in range(batch):
        for first in range(0, queries, rows):
            part = slice(first, first + rows)
            bias = None if mask is None else mask[b, :, part]
            out[b, :, part] = _softmax_rows(q[b, :, part] * width**-0.5, k[b], v[b], bias)
    return out


def _softmax_rows(scaled: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    logits = scaled @ k.transpose(-2, -1)
    if mask is not None:
        logits += mask
    return logits.softmax(dim=-1) @ v
