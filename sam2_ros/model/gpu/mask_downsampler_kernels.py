"""Triton kernels for the first two levels of the memory encoder's mask downsampler. Needs ``triton``.

These levels have one and four channels at the network's input size (1024 × 1024). cuDNN pads them to eight, which takes
longer than the convolutions. Here the logits are scaled up where they are read, so that no map of the full size is ever
stored.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from sam2_ros.model.gpu.triton_helpers import gelu, neighbours

FIRST, SECOND = 4, 16  # channels of the two levels


@triton.jit
def _first_level(logit_ptr, binary_ptr, weight_ptr, out_ptr, side, gain, shift, eps,
                 BINARY: tl.constexpr, PIXELS: tl.constexpr):  # fmt: skip
    """Some pixels at half the input's side, all four channels.

    Logits are scaled up by 4, made probabilities (or 0 and 1), convolved with stride 2, normed over the channels, then
    GELU. ``weight_ptr``: 9 taps of 4, then bias, norm's weight and norm's bias of 4 each.
    """
    half = 2 * side
    obj = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    valid = pixel < half * half
    y, x = pixel // half, pixel % half
    logits = logit_ptr + obj * side * side
    binary = 0
    if BINARY:
        binary = tl.load(binary_ptr + obj).to(tl.int32)
    a = tl.zeros((PIXELS,), tl.float32) + tl.load(weight_ptr + 36)
    b = tl.zeros((PIXELS,), tl.float32) + tl.load(weight_ptr + 37)
    c = tl.zeros((PIXELS,), tl.float32) + tl.load(weight_ptr + 38)
    d = tl.zeros((PIXELS,), tl.float32) + tl.load(weight_ptr + 39)
    for tap_y in tl.static_range(3):
        full_y = 2 * y + tap_y - 1
        low_y, next_y, part_y = neighbours(full_y, 0.25, side)
        for tap_x in tl.static_range(3):
            full_x = 2 * x + tap_x - 1
            low_x, next_x, part_x = neighbours(full_x, 0.25, side)
            inside = valid & (full_y >= 0) & (full_x >= 0)  # the last tap of the last pixel is the input's last pixel
            upper = tl.load(logits + low_y * side + low_x, mask=inside, other=0.0) * (1 - part_x)
            upper += tl.load(logits + low_y * side + next_x, mask=inside, other=0.0) * part_x
            lower = tl.load(logits + next_y * side + low_x, mask=inside, other=0.0) * (1 - part_x)
            lower += tl.load(logits + next_y * side + next_x, mask=inside, other=0.0) * part_x
            logit = upper * (1 - part_y) + lower * part_y
            value = 1 / (1 + tl.exp(-logit))
            if BINARY:
                value = tl.where(binary != 0, tl.where(logit > 0, 1.0, 0.0), value)
            value = tl.where(inside, value * gain + shift, 0.0)
            value = value.to(out_ptr.dtype.element_ty).to(tl.float32)  # as it enters the convolution
            tap = weight_ptr + (tap_y * 3 + tap_x) * 4
            a += value * tl.load(tap)
            b += value * tl.load(tap + 1)
            c += value * tl.load(tap + 2)
            d += value * tl.load(tap + 3)
    mean = (a + b + c + d) * 0.25
    a, b, c, d = a - mean, b - mean, c - mean, d - mean
    scale = 1 / tl.sqrt((a * a + b * b + c * c + d * d) * 0.25 + eps)
    a = gelu(a * scale * tl.load(weight_ptr + 40) + tl.load(weight_ptr + 44))
    b = gelu(b * scale * tl.load(weight_ptr + 41) + tl.load(weight_ptr + 45))
    c = gelu(c * scale * tl.load(weight_ptr + 42) + tl.load(weight_ptr + 46))
    d = gelu(d * scale * tl.load(weight_ptr + 43) + tl.load(weight_ptr + 47))
    out = tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), (PIXELS, 4))
    offset = out_ptr + (obj * half * half + pixel[:, None]) * 4 + tl.arange(0, 4)[None, :]
    tl.store(offset, out.to(out_ptr.dtype.element_ty), mask=valid[:, None])


@triton.jit
def _second_level(x_ptr, taps_ptr, weight_ptr, out_ptr, side, eps, PIXELS: tl.constexpr):
    """Some pixels, all 16 channels: a convolution with stride 2, normed over the channels, then GELU.

    The convolution is one matrix product of 3 × 3 × 4 (padded to 64) numbers a pixel. ``weight_ptr``: bias, norm's
    weight and norm's bias of 16 each.
    """
    obj = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    valid = pixel < side * side
    y, x = pixel // side, pixel % side
    number, channel = tl.arange(0, 64), tl.arange(0, 16)
    tap = number // 4
    from_y = 2 * y[:, None] + (tap // 3 - 1)[None, :]
    from_x = 2 * x[:, None] + (tap % 3 - 1)[None, :]
    inside = valid[:, None] & (number < 36)[None, :] & (from_y >= 0) & (from_x >= 0)
    half = 2 * side
    offset = x_ptr + obj * half * half * 4 + (from_y * half + from_x) * 4 + (number % 4)[None, :]
    given = tl.load(offset, mask=inside, other=0.0)
    taps = tl.load(taps_ptr + number[:, None] * 16 + channel[None, :])
    out = tl.dot(given, taps) + tl.load(weight_ptr + channel)[None, :]
    centred = out - (tl.sum(out, 1) / 16)[:, None]
    scale = 1 / tl.sqrt(tl.sum(centred * centred, 1) / 16 + eps)
    weight, bias = tl.load(weight_ptr + 16 + channel), tl.load(weight_ptr + 32 + channel)
    out = gelu(centred * scale[:, None] * weight[None, :] + bias[None, :])
    offset = out_ptr + (obj * side * side + pixel[:, None]) * 16 + channel[None, :]
    tl.store(offset, out.to(out_ptr.dtype.element_ty), mask=valid[:, None])


@dataclass(frozen=True)
class LevelWeights:
    """Weights of both levels as the kernels read them, by :func:`pack_first` and :func:`pack_taps`."""

    first: Tensor  # float32 [48]
    taps: Tensor  # [64, 16]
    second: Tensor  # float32 [48]


def pack_first(dtype: torch.dtype, weight: Tensor, bias: Tensor, norm_weight: Tensor, norm_bias: Tensor) -> Tensor:
    """``LevelWeights.first`` of a convolution 1 → 4 (``[4, 1, 3, 3]``) and its norm; taps rounded to ``dtype``."""
    taps = weight.to(dtype).float().flatten(1).T.flatten()
    return torch.cat((taps, bias.float(), norm_weight.float(), norm_bias.float())).contiguous()


def pack_taps(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """``LevelWeights.taps`` of a convolution 4 → 16 (``[16, 4, 3, 3]``)."""
    taps = torch.zeros(64, SECOND, dtype=dtype, device=weight.device)
    taps[:36] = weight.permute(2, 3, 1, 0).reshape(36, SECOND).to(dtype)
    return taps


def mask_levels(
    logits: Tensor, binarize: Tensor | None, weights: LevelWeights, gain: float, shift: float, eps: tuple[float, float]
) -> Tensor:
    """The first two levels of :meth:`.memory_encoder.MaskDownSampler.of_logits`, ``[B, s, s, 16]``.

    ``logits`` (float32 ``[B, 1, s, s]``, contiguous) have a quarter of the input's side. ``eps`` is that of each norm.
    The result has the dtype of the ``taps``.
    """
    batch, side = len(logits), logits.shape[3]
    assert logits.is_contiguous() and logits.shape[2] == side and logits.dtype == torch.float32
    dtype, pixels = weights.taps.dtype, 256
    between = torch.empty(batch, 2 * side, 2 * side, FIRST, dtype=dtype, device=logits.device)
    _first_level[(triton.cdiv(4 * side * side, pixels), batch)](
        logits, binarize, weights.first, between, side, gain, shift, eps[0],
        BINARY=binarize is not None, PIXELS=pixels, num_warps=4,
    )  # fmt: skip
    out = torch.empty(batch, side, side, SECOND, dtype=dtype, device=logits.device)
    pixels = 128
    _second_level[(triton.cdiv(side * side, pixels), batch)](
        between, weights.taps, weights.second, out, side, eps[1], PIXELS=pixels, num_warps=4
    )
    return out
