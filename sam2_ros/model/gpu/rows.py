"""What comes before and after attention on a GPU, row by row: Triton kernels. Needs ``triton``.

Channels that a rotary code turns in pairs lie apart here: the first of each pair in the first half, the second in the
second half. Queries and keys are permuted alike, so that their products stay what they are.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _project_keys(memory_ptr, code_ptr, time_ptr, count_ptr, weight_ptr, bias_ptr, cos_ptr, sin_ptr, out_ptr,
                  tokens, slots, out_batch,
                  ROWS: tl.constexpr, MEMORY_WIDTH: tl.constexpr, HALF: tl.constexpr):  # fmt: skip
    """A block of one frame's memory: its codes added, projected, and turned by the rotary code."""
    block, frame = tl.program_id(0), tl.program_id(1).to(tl.int64)
    one, slot = frame // slots, frame % slots
    if slot * tokens >= tl.load(count_ptr + one):
        return  # nobody looks at it
    row = block * ROWS + tl.arange(0, ROWS)
    there = (row < tokens)[:, None]
    channel, half = tl.arange(0, MEMORY_WIDTH), tl.arange(0, HALF)
    place = row[:, None] * MEMORY_WIDTH + channel[None, :]
    memory = tl.load(memory_ptr + frame * tokens * MEMORY_WIDTH + place, mask=there, other=0.0).to(tl.float32)
    memory += tl.load(code_ptr + place, mask=there, other=0.0)
    memory += tl.load(time_ptr + frame * MEMORY_WIDTH + channel)[None, :]
    weight_place = half[None, :] * MEMORY_WIDTH + channel[:, None]
    even_weight = tl.load(weight_ptr + weight_place)
    odd_weight = tl.load(weight_ptr + HALF * MEMORY_WIDTH + weight_place)
    given = memory.to(even_weight.dtype)
    even = tl.dot(given, even_weight) + tl.load(bias_ptr + half).to(tl.float32)[None, :]
    odd = tl.dot(given, odd_weight) + tl.load(bias_ptr + HALF + half).to(tl.float32)[None, :]
    turn = row[:, None] * HALF + half[None, :]
    cos = tl.load(cos_ptr + turn, mask=there, other=0.0)
    sin = tl.load(sin_ptr + turn, mask=there, other=0.0)
    out = out_ptr + one * out_batch + (slot * tokens + row[:, None]) * (2 * HALF) + half[None, :]
    tl.store(out, (even * cos - odd * sin).to(out_ptr.dtype.element_ty), mask=there)
    tl.store(out + HALF, (even * sin + odd * cos).to(out_ptr.dtype.element_ty), mask=there)


def project_keys(
    memory: Tensor, code: Tensor, time: Tensor, count: Tensor, weight: Tensor, bias: Tensor, table: Tensor, out: Tensor
) -> Tensor:
    """Writes the keys of stored frames into the first rows of ``out`` (``[B, S * HW or more, C]``), which is returned;
    only those of the first ``count`` tokens (int32 ``[B]``) are made.

    Args:
        memory: ``[B, S, HW, M]``.
        code: float32 ``[HW, M]`` position code of a frame.
        time: float32 ``[B, S, M]`` temporal code of each frame.
        weight, bias: ``[C, M]`` and ``[C]`` of the projection, its channels permuted as this module has them.
        table: float32 ``[2, HW, C / 2]``, see :func:`sam2_ros.model.position.rotary_table`.
    """
    batch, slots, tokens, memory_width = memory.shape
    width = len(weight)
    assert memory.is_contiguous() and time.is_contiguous() and weight.is_contiguous() and code.is_contiguous()
    assert out.is_contiguous() and out.shape[1] >= slots * tokens
    rows = 64
    _project_keys[(triton.cdiv(tokens, rows), batch * slots)](
        memory, code, time, count, weight, bias, table[0], table[1], out, tokens, slots, out.stride(0),
        ROWS=rows, MEMORY_WIDTH=memory_width, HALF=width // 2, num_warps=4,
    )  # fmt: skip
    return out


@triton.jit
def _rotate(x_ptr, cos_ptr, sin_ptr, tokens, rows, row_stride, head_stride, ROWS: tl.constexpr, HALF: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = (row < rows)[:, None]
    half = tl.arange(0, HALF)
    place = x_ptr + row[:, None].to(tl.int64) * row_stride + tl.program_id(1) * head_stride + half[None, :]
    even = tl.load(place, mask=there, other=0.0).to(tl.float32)
    odd = tl.load(place + HALF, mask=there, other=0.0).to(tl.float32)
    turn = (row % tokens)[:, None] * HALF + half[None, :]
    cos = tl.load(cos_ptr + turn, mask=there, other=0.0)
    sin = tl.load(sin_ptr + turn, mask=there, other=0.0)
    tl.store(place, (even * cos - odd * sin).to(x_ptr.dtype.element_ty), mask=there)
    tl.store(place + HALF, (even * sin + odd * cos).to(x_ptr.dtype.element_ty), mask=there)


def rotate_(x: Tensor, table: Tensor, heads: int) -> Tensor:
    """Turns the first ``heads * C`` channels of ``x`` (``[B, N, ...]``, contiguous) in place by a rotary ``table``
    (float32 ``[2, N, C / 2]``)."""
    rows, half, block = x.shape[0] * x.shape[1], table.shape[2], 16
    assert x.is_contiguous() and table.is_contiguous()
    _rotate[(triton.cdiv(rows, block), heads)](
        x, table[0], table[1], x.shape[1], rows, x.shape[2], 2 * half, ROWS=block, HALF=half, num_warps=4
    )
    return x


@triton.jit
def _normed(x, weight_ptr, bias_ptr, channel, width, eps, GELU: tl.constexpr):
    """The layer norm of rows ``x``, whose channels beyond ``width`` are 0."""
    known = channel < width
    centred = tl.where(known[None, :], x - (tl.sum(x, 1) / width)[:, None], 0.0)
    scale = 1 / tl.sqrt(tl.sum(centred * centred, 1) / width + eps)
    weight = tl.load(weight_ptr + channel, mask=known, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + channel, mask=known, other=0.0).to(tl.float32)
    out = centred * scale[:, None] * weight[None, :] + bias[None, :]
    if GELU:
        out = 0.5 * out * (1 + tl.math.erf(out * 0.7071067811865476))
    return out


@triton.jit
def _add_norm(x_ptr, delta_ptr, weight_ptr, bias_ptr, sum_ptr, out_ptr, rows, x_rows, width, eps,
              ADDS: tl.constexpr, KEEPS: tl.constexpr, ROUNDS: tl.constexpr, GELU: tl.constexpr,
              ROWS: tl.constexpr, WIDTH: tl.constexpr):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, WIDTH)
    there = (row < rows)[:, None] & (channel < width)[None, :]
    place = row[:, None].to(tl.int64) * width + channel[None, :]
    x_place = (row % x_rows)[:, None].to(tl.int64) * width + channel[None, :]
    x = tl.load(x_ptr + x_place, mask=there, other=0.0).to(tl.float32)
    if ADDS:
        x += tl.load(delta_ptr + place, mask=there, other=0.0).to(tl.float32)
        if ROUNDS:
            x = x.to(tl.bfloat16).to(tl.float32)
    if KEEPS:
        tl.store(sum_ptr + place, x.to(sum_ptr.dtype.element_ty), mask=there)
    out = _normed(x, weight_ptr, bias_ptr, channel, width, eps, GELU)
    tl.store(out_ptr + place, out.to(out_ptr.dtype.element_ty), mask=there)


def add_norm(
    x: Tensor, delta: Tensor | None, norm: Any, dtype: torch.dtype, keep: bool = True, gelu: bool = False
) -> tuple[Tensor, Tensor]:
    """``x + delta`` (``x`` itself without ``delta``), and its layer norm in ``dtype``.

    Args:
        x: ``[..., C]``, contiguous; with ``delta`` its first axis may have length 1 where that of ``delta`` is longer.
        delta: contiguous.
        norm: has ``weight``, ``bias`` and ``eps`` of a layer norm over C.
        dtype: of the normed.
        keep: the sum is wanted; else ``x`` is returned in its place.
        gelu: the norm's GELU is wanted instead.
    """
    like = x if delta is None else delta
    width = like.shape[-1]
    rows, x_rows = like.numel() // width, x.numel() // width
    assert x.is_contiguous() and like.is_contiguous()
    keep = keep and delta is not None
    kind = torch.promote_types(x.dtype, like.dtype)
    out = torch.empty(like.shape, dtype=dtype, device=x.device)
    total = torch.empty(like.shape, dtype=kind, device=x.device) if keep else x
    padded = triton.next_power_of_2(width)
    block = max(1, 2048 // padded)
    _add_norm[(triton.cdiv(rows, block),)](
        x, like, norm.weight, norm.bias, total, out, rows, x_rows, width, norm.eps,
        ADDS=delta is not None, KEEPS=keep, ROUNDS=kind == torch.bfloat16, GELU=gelu, ROWS=block, WIDTH=padded,
        num_warps=4,
    )  # fmt: skip
    return total, out


@triton.jit
def _depthwise_norm(x_ptr, taps_ptr, shift_ptr, weight_ptr, bias_ptr, out_ptr, height, columns, eps,
                    SIDE: tl.constexpr, PIXELS: tl.constexpr, WIDTH: tl.constexpr):  # fmt: skip
    """Some pixels of a row, all channels of each."""
    image, y = tl.program_id(1).to(tl.int64) // height, tl.program_id(1) % height
    x = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.arange(0, WIDTH)
    acc = tl.zeros((PIXELS, WIDTH), tl.float32)
    for tap_y in range(SIDE):
        from_y = y + tap_y - SIDE // 2
        inside = (from_y >= 0) & (from_y < height)
        line = x_ptr + (image * height + from_y) * columns * WIDTH
        for tap_x in range(SIDE):
            from_x = x + tap_x - SIDE // 2
            there = (inside & (from_x >= 0) & (from_x < columns))[:, None]
            value = tl.load(line + from_x[:, None] * WIDTH + channel[None, :], mask=there, other=0.0)
            tap = tl.load(taps_ptr + (tap_y * SIDE + tap_x) * WIDTH + channel)
            acc += value.to(tl.float32) * tap.to(tl.float32)[None, :]
    acc += tl.load(shift_ptr + channel).to(tl.float32)[None, :]
    acc = acc.to(out_ptr.dtype.element_ty).to(tl.float32)  # as a convolution gives it
    out = _normed(acc, weight_ptr, bias_ptr, channel, WIDTH, eps, False)
    place = out_ptr + ((image * height + y) * columns + x[:, None]) * WIDTH + channel[None, :]
    tl.store(place, out.to(out_ptr.dtype.element_ty), mask=(x < columns)[:, None])


def depthwise_norm(x: Tensor, taps: Tensor, shift: Tensor, norm: Any) -> Tensor:
    """A depthwise convolution that keeps the size, and the layer norm of what it gives over the channels.

    Args:
        x: ``[B, H, W, C]``, contiguous; C is a power of two.
        taps: ``[K * K, C]``, contiguous; K is odd.
        shift: ``[C]``, added to the convolution.
        norm: as in :func:`add_norm`.
    """
    batch, height, columns, width = x.shape
    assert x.is_contiguous() and taps.is_contiguous()
    out, pixels = torch.empty_like(x), 16
    _depthwise_norm[(triton.cdiv(columns, pixels), batch * height)](
        x, taps, shift, norm.weight, norm.bias, out, height, columns, norm.eps,
        SIDE=int(len(taps) ** 0.5), PIXELS=pixels, WIDTH=width, num_warps=4,
    )  # fmt: skip
    return out
