"""Triton kernels for sums, norms and depthwise convolutions, all channels of a pixel at a time. Needs ``triton``."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sam2_ros.model.gpu.triton_helpers import gelu


@triton.jit
def _normed(x, weight_ptr, bias_ptr, channel, width, eps, GELU: tl.constexpr):
    """The layer norm of rows ``x``, whose channels beyond ``width`` are 0."""
    valid_channel = channel < width
    centred = tl.where(valid_channel[None, :], x - (tl.sum(x, 1) / width)[:, None], 0.0)
    scale = 1 / tl.sqrt(tl.sum(centred * centred, 1) / width + eps)
    weight = tl.load(weight_ptr + channel, mask=valid_channel, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + channel, mask=valid_channel, other=0.0).to(tl.float32)
    out = centred * scale[:, None] * weight[None, :] + bias[None, :]
    if GELU:
        out = gelu(out)
    return out


@triton.jit
def _add_norm(x_ptr, delta_ptr, weight_ptr, bias_ptr, sum_ptr, out_ptr, rows, x_rows, width, eps,
              ADDS: tl.constexpr, KEEPS: tl.constexpr, ROUNDS: tl.constexpr, GELU: tl.constexpr,
              ROWS: tl.constexpr, WIDTH: tl.constexpr):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, WIDTH)
    valid = (row < rows)[:, None] & (channel < width)[None, :]
    offset = row[:, None].to(tl.int64) * width + channel[None, :]
    x_offset = (row % x_rows)[:, None].to(tl.int64) * width + channel[None, :]
    x = tl.load(x_ptr + x_offset, mask=valid, other=0.0).to(tl.float32)
    if ADDS:
        x += tl.load(delta_ptr + offset, mask=valid, other=0.0).to(tl.float32)
        if ROUNDS:
            x = x.to(tl.bfloat16).to(tl.float32)
    if KEEPS:
        tl.store(sum_ptr + offset, x.to(sum_ptr.dtype.element_ty), mask=valid)
    out = _normed(x, weight_ptr, bias_ptr, channel, width, eps, GELU)
    tl.store(out_ptr + offset, out.to(out_ptr.dtype.element_ty), mask=valid)


def add_norm(
    x: Tensor, delta: Tensor | None, norm: Any, dtype: torch.dtype, keep: bool = True, gelu: bool = False
) -> tuple[Tensor, Tensor]:
    """``x + delta`` (``x`` itself without ``delta`` or ``keep``), and its layer norm (or GELU of that) in ``dtype``.

    Args:
        x: ``[..., C]``, contiguous; with ``delta`` it may lack the first axes, and is then repeated along them.
        delta: contiguous.
        norm: a module with ``weight``, ``bias`` and ``eps``.
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
def _with_code(x_ptr, code_ptr, x_out_ptr, sum_ptr, size, BLOCK: tl.constexpr):
    offset = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    first = tl.program_id(1).to(tl.int64) * size
    valid = offset < size
    x = tl.load(x_ptr + first + offset, mask=valid, other=0.0).to(tl.float32)
    code = tl.load(code_ptr + offset, mask=valid, other=0.0).to(tl.float32)
    kind = sum_ptr.dtype.element_ty
    tl.store(x_out_ptr + first + offset, x.to(kind), mask=valid)
    tl.store(sum_ptr + first + offset, (x + code).to(kind), mask=valid)


def with_code(x: Tensor, code: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """``x`` and ``x + code``, both in ``dtype``, in one pass; contiguous, ``code`` of batch 1."""
    assert x.is_contiguous() and code.is_contiguous() and x.shape[1:] == code.shape[1:] and len(code) == 1
    rounded, total = (torch.empty(x.shape, dtype=dtype, device=x.device) for _ in range(2))
    block = 1024
    _with_code[(triton.cdiv(code.numel(), block), len(x))](
        x, code, rounded, total, code.numel(), BLOCK=block, num_warps=4
    )
    return rounded, total


@triton.jit
def _add_gelu(x_ptr, delta_ptr, out_ptr, size, x_step, BLOCK: tl.constexpr):
    offset = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    obj = tl.program_id(1).to(tl.int64)
    valid = offset < size
    out = tl.load(x_ptr + obj * x_step + offset, mask=valid, other=0.0).to(tl.float32)
    out += tl.load(delta_ptr + obj * size + offset, mask=valid, other=0.0).to(tl.float32)
    out = gelu(out)
    tl.store(out_ptr + obj * size + offset, out.to(out_ptr.dtype.element_ty), mask=valid)


def add_gelu(x: Tensor, delta: Tensor) -> Tensor:
    """``gelu(x + delta)`` in the dtype of ``delta``; contiguous, the first axis of ``x`` may have length 1."""
    assert x.is_contiguous() and delta.is_contiguous() and x.shape[1:] == delta.shape[1:]
    out, block, size = torch.empty_like(delta), 1024, delta[0].numel()
    _add_gelu[(triton.cdiv(size, block), len(delta))](
        x, delta, out, size, 0 if len(x) == 1 else size, BLOCK=block, num_warps=4
    )
    return out


@triton.jit
def _add_scaled(x_ptr, y_ptr, scale_ptr, sum_ptr, out_ptr, rows, KEEPS: tl.constexpr,
                ROWS: tl.constexpr, WIDTH: tl.constexpr):  # fmt: skip
    row, channel = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDTH)
    valid = (row < rows)[:, None]
    offset = row[:, None].to(tl.int64) * WIDTH + channel[None, :]
    x = tl.load(x_ptr + offset, mask=valid, other=0.0).to(tl.float32)
    y = tl.load(y_ptr + offset, mask=valid, other=0.0).to(tl.float32)
    x += y * tl.load(scale_ptr + channel).to(tl.float32)[None, :]
    if KEEPS:
        tl.store(sum_ptr + offset, x, mask=valid)
    tl.store(out_ptr + offset, x.to(out_ptr.dtype.element_ty), mask=valid)


def add_scaled(x: Tensor, y: Tensor, scale: Tensor, dtype: torch.dtype, keep: bool = True) -> tuple[Tensor, Tensor]:
    """``x + scale * y`` in float32 (``x`` itself unless ``keep``) and in ``dtype``.

    ``x`` and ``y`` are ``[..., C]``, contiguous, ``scale`` is ``[C]``; C is a power of two.
    """
    assert x.is_contiguous() and y.is_contiguous() and x.shape == y.shape
    width = x.shape[-1]
    rows, block = x.numel() // width, max(1, 2048 // width)
    total = torch.empty(x.shape, dtype=torch.float32, device=x.device) if keep else x
    out = torch.empty(x.shape, dtype=dtype, device=x.device)
    _add_scaled[(triton.cdiv(rows, block),)](
        x, y, scale, total, out, rows, KEEPS=keep, ROWS=block, WIDTH=width, num_warps=4
    )
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
        row = tl.zeros_like(x) + from_y  # not a scalar: Triton's interpreter cannot broadcast a scalar mask
        inside = (row >= 0) & (row < height)
        line = x_ptr + (image * height + from_y) * columns * WIDTH
        for tap_x in range(SIDE):
            from_x = x + tap_x - SIDE // 2
            valid = (inside & (from_x >= 0) & (from_x < columns))[:, None]
            value = tl.load(line + from_x[:, None] * WIDTH + channel[None, :], mask=valid, other=0.0)
            tap = tl.load(taps_ptr + (tap_y * SIDE + tap_x) * WIDTH + channel)
            acc += value.to(tl.float32) * tap.to(tl.float32)[None, :]
    acc += tl.load(shift_ptr + channel).to(tl.float32)[None, :]
    acc = acc.to(out_ptr.dtype.element_ty).to(tl.float32)  # rounded as a convolution's output
    out = _normed(acc, weight_ptr, bias_ptr, channel, WIDTH, eps, False)
    offset = out_ptr + ((image * height + y) * columns + x[:, None]) * WIDTH + channel[None, :]
    tl.store(offset, out.to(out_ptr.dtype.element_ty), mask=(x < columns)[:, None])


def depthwise_norm(x: Tensor, taps: Tensor, shift: Tensor, norm: Any) -> Tensor:
    """A depthwise convolution of ``[B, H, W, C]`` that keeps the size and adds ``shift`` ``[C]``, then a layer norm.

    ``x`` and ``taps`` (``[K * K, C]``) are contiguous; C is a power of two, K is odd.
    """
    batch, height, columns, width = x.shape
    assert x.is_contiguous() and taps.is_contiguous()
    out, pixels = torch.empty_like(x), 16
    _depthwise_norm[(triton.cdiv(columns, pixels), batch * height)](
        x, taps, shift, norm.weight, norm.bias, out, height, columns, norm.eps,
        SIDE=int(len(taps) ** 0.5), PIXELS=pixels, WIDTH=width, num_warps=4,
    )  # fmt: skip
    return out
