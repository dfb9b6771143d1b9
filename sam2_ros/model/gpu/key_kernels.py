"""Triton kernels for the keys and queries of attention. Needs ``triton``.

The rotary code rotates pairs of channels. Here the first channels of all pairs form the first half, the second channels
the second half. Queries and keys are permuted alike, which leaves their products unchanged.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

PROGRAMS = 1024  # that keep a data-centre GPU busy


@triton.jit
def _project_keys(memory_ptr, code_ptr, time_ptr, count_ptr, weight_ptr, bias_ptr, cos_ptr, sin_ptr, out_ptr,
                  tokens, slots, frames, out_batch,
                  ROWS: tl.constexpr, MEMORY_WIDTH: tl.constexpr, HALF: tl.constexpr, PART: tl.constexpr):  # fmt: skip
    """Adds codes to the same block of several frames, projects it to some channels of both halves and rotates these.

    What all frames share is read once.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    valid = (row < tokens)[:, None]
    channel, half = tl.arange(0, MEMORY_WIDTH), tl.program_id(2) * PART + tl.arange(0, PART)
    offset = row[:, None] * MEMORY_WIDTH + channel[None, :]
    code = tl.load(code_ptr + offset, mask=valid, other=0.0)
    weight_offset = half[None, :] * MEMORY_WIDTH + channel[:, None]
    even_weight = tl.load(weight_ptr + weight_offset)
    odd_weight = tl.load(weight_ptr + HALF * MEMORY_WIDTH + weight_offset)
    even_bias = tl.load(bias_ptr + half).to(tl.float32)[None, :]
    odd_bias = tl.load(bias_ptr + HALF + half).to(tl.float32)[None, :]
    turn = row[:, None] * HALF + half[None, :]
    cos = tl.load(cos_ptr + turn, mask=valid, other=0.0)
    sin = tl.load(sin_ptr + turn, mask=valid, other=0.0)
    for frame in range(tl.program_id(1), frames, tl.num_programs(1)):
        obj, slot = frame // slots, frame % slots
        if slot * tokens < tl.load(count_ptr + obj):  # attention ignores the others
            memory = memory_ptr + tl.cast(frame, tl.int64) * tokens * MEMORY_WIDTH
            given = tl.load(memory + offset, mask=valid, other=0.0).to(tl.float32) + code
            given += tl.load(time_ptr + frame * MEMORY_WIDTH + channel)[None, :]
            given = given.to(even_weight.dtype)
            even = tl.dot(given, even_weight) + even_bias
            odd = tl.dot(given, odd_weight) + odd_bias
            out = out_ptr + tl.cast(obj, tl.int64) * out_batch
            out += (slot * tokens + row[:, None]) * (2 * HALF) + half[None, :]
            tl.store(out, (even * cos - odd * sin).to(out_ptr.dtype.element_ty), mask=valid)
            tl.store(out + HALF, (even * sin + odd * cos).to(out_ptr.dtype.element_ty), mask=valid)


def project_keys(
    memory: Tensor, code: Tensor, time: Tensor, count: Tensor, weight: Tensor, bias: Tensor, table: Tensor, out: Tensor
) -> Tensor:
    """Writes the keys of stored frames into the first rows of ``out`` (``[B, S * HW or more, C]``) and returns it.

    Args:
        memory, code, time: ``[B, S, HW, M]``; ``[HW, M]`` of a frame; ``[B, S, M]`` of each frame (both float32).
        count: int32 ``[B]``; only keys of the first ``count`` tokens are written.
        weight, bias: ``[C, M]`` and ``[C]`` of the projection, with permuted channels (see above).
        table: float32 ``[2, HW, C / 2]``, see :func:`sam2_ros.model.position.rotary_table`.
    """
    batch, slots, tokens, memory_width = memory.shape
    width = len(weight)
    assert memory.is_contiguous() and time.is_contiguous() and weight.is_contiguous() and code.is_contiguous()
    assert out.is_contiguous() and out.shape[1] >= slots * tokens
    rows, frames, half = 64, batch * slots, width // 2
    part = min(half, 64)  # more would not fit into registers
    blocks, parts = triton.cdiv(tokens, rows), half // part
    _project_keys[(blocks, min(frames, triton.cdiv(PROGRAMS, blocks * parts)), parts)](
        memory, code, time, count, weight, bias, table[0], table[1], out, tokens, slots, frames, out.stride(0),
        ROWS=rows, MEMORY_WIDTH=memory_width, HALF=half, PART=part, num_warps=8,
    )  # fmt: skip
    return out


@triton.jit
def _rotate(x_ptr, cos_ptr, sin_ptr, tokens, rows, row_stride, head_stride, ROWS: tl.constexpr, HALF: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    valid = (row < rows)[:, None]
    half = tl.arange(0, HALF)
    offset = x_ptr + row[:, None].to(tl.int64) * row_stride + tl.program_id(1) * head_stride + half[None, :]
    even = tl.load(offset, mask=valid, other=0.0).to(tl.float32)
    odd = tl.load(offset + HALF, mask=valid, other=0.0).to(tl.float32)
    turn = (row % tokens)[:, None] * HALF + half[None, :]
    cos = tl.load(cos_ptr + turn, mask=valid, other=0.0)
    sin = tl.load(sin_ptr + turn, mask=valid, other=0.0)
    tl.store(offset, (even * cos - odd * sin).to(x_ptr.dtype.element_ty), mask=valid)
    tl.store(offset + HALF, (even * sin + odd * cos).to(x_ptr.dtype.element_ty), mask=valid)


def rotate_(x: Tensor, table: Tensor, heads: int) -> Tensor:
    """Rotates the first ``heads * C`` channels of ``x`` (``[B, N, ...]``, contiguous) in place.

    ``table`` is float32 ``[2, N, C / 2]``.
    """
    rows, half, block = x.shape[0] * x.shape[1], table.shape[2], 16
    assert x.is_contiguous() and table.is_contiguous()
    _rotate[(triton.cdiv(rows, block), heads)](
        x, table[0], table[1], x.shape[1], rows, x.shape[2], 2 * half, ROWS=block, HALF=half, num_warps=4
    )
    return x
