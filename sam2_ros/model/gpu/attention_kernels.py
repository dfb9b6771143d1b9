"""Attention on a GPU by Triton. Needs ``triton``, which PyTorch for GPUs installs.

One head. Keys and values may differ in width, and each object may have its own number of keys. With few queries,
several programs share the keys of one object (as in Dao et al., "Flash-Decoding", 2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2_E = 1.4426950408889634
PARALLEL = 132  # programs that a data-centre GPU runs at a time; with fewer blocks of queries, split the keys


@triton.jit
def _look(q, k_base, v_base, stride_k, stride_v, start, count, acc, top, total, scale, MASKED: tl.constexpr,
          BLOCK: tl.constexpr, WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr):  # fmt: skip
    """Adds one block of keys to the running maximum and sum of the weights and the weighted sum of the values."""
    index = start + tl.arange(0, BLOCK)
    channel, value_channel = tl.arange(0, WIDTH), tl.arange(0, VALUE_WIDTH)
    k_offset = k_base + index[:, None].to(tl.int64) * stride_k + channel[None, :]
    v_offset = v_base + index[:, None].to(tl.int64) * stride_v + value_channel[None, :]
    if MASKED:
        k = tl.load(k_offset, mask=(index < count)[:, None], other=0.0)
        v = tl.load(v_offset, mask=(index < count)[:, None], other=0.0)
    else:
        k = tl.load(k_offset)
        v = tl.load(v_offset)
    logits = tl.dot(q, tl.trans(k)) * scale
    if MASKED:
        logits = tl.where((index < count)[None, :], logits, float("-inf"))
    new_top = tl.maximum(top, tl.max(logits, 1))
    weight = tl.math.exp2(logits - new_top[:, None])
    rescale = tl.math.exp2(top - new_top)
    total = total * rescale + tl.sum(weight, 1)
    acc = acc * rescale[:, None]
    acc = tl.dot(weight.to(v.dtype), v, acc)
    return acc, new_top, total


@triton.jit
def _attend(q_ptr, k_ptr, v_ptr, count_ptr, k2_ptr, v2_ptr, count2_ptr, out_ptr, partial_ptr, lse_ptr,
            queries, keys, keys2, scale, splits,
            q_batch, q_row, k_batch, k_row, v_batch, v_row, k2_batch, k2_row, v2_batch, v2_row, out_batch, out_row,
            COUNTED: tl.constexpr, SECOND: tl.constexpr, DIVIDED: tl.constexpr,
            ROWS: tl.constexpr, BLOCK: tl.constexpr, BLOCK2: tl.constexpr,
            WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr):  # fmt: skip
    """A block of queries of one object, over one share of the first keys; share 0 also has the second keys."""
    block, obj, share = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2)
    row = block * ROWS + tl.arange(0, ROWS)
    channel, value_channel = tl.arange(0, WIDTH), tl.arange(0, VALUE_WIDTH)
    valid = row < queries
    q = tl.load(q_ptr + obj * q_batch + row[:, None] * q_row + channel[None, :], mask=valid[:, None], other=0.0)
    acc = tl.zeros((ROWS, VALUE_WIDTH), tl.float32)
    top = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)

    if SECOND:  # a compile-time constant  # noqa: SIM102
        if share == 0:
            count2 = tl.load(count2_ptr + obj)
            k_base, v_base = k2_ptr + obj * k2_batch, v2_ptr + obj * v2_batch
            for start in range(0, count2, BLOCK2):
                acc, top, total = _look(q, k_base, v_base, k2_row, v2_row, start, count2, acc, top, total, scale,
                                        True, BLOCK2, WIDTH, VALUE_WIDTH)  # fmt: skip

    count = keys
    if COUNTED:
        count = tl.load(count_ptr + obj)
    per_share = tl.cdiv(tl.cdiv(count, BLOCK), splits) * BLOCK
    low = share * per_share
    high = tl.minimum(count, low + per_share)
    whole = low + tl.maximum(high - low, 0) // BLOCK * BLOCK
    k_base, v_base = k_ptr + obj * k_batch, v_ptr + obj * v_batch
    for start in range(low, whole, BLOCK):
        acc, top, total = _look(q, k_base, v_base, k_row, v_row, start, count, acc, top, total, scale,
                                False, BLOCK, WIDTH, VALUE_WIDTH)  # fmt: skip
    for start in range(whole, high, BLOCK):
        acc, top, total = _look(q, k_base, v_base, k_row, v_row, start, count, acc, top, total, scale,
                                True, BLOCK, WIDTH, VALUE_WIDTH)  # fmt: skip

    acc = acc / tl.where(total > 0, total, 1.0)[:, None]
    if DIVIDED:
        lse = tl.where(total > 0, top + tl.math.log2(tl.where(total > 0, total, 1.0)), float("-inf"))
        offset = (share * tl.num_programs(1) + obj) * queries + row
        tl.store(lse_ptr + offset, lse, mask=valid)
        tl.store(partial_ptr + offset[:, None] * VALUE_WIDTH + value_channel[None, :], acc, mask=valid[:, None])
    else:
        offset = out_ptr + obj * out_batch + row[:, None] * out_row + value_channel[None, :]
        tl.store(offset, acc.to(out_ptr.dtype.element_ty), mask=valid[:, None])


@triton.jit
def _combine(partial_ptr, lse_ptr, out_ptr, rows, splits, ROWS: tl.constexpr, VALUE_WIDTH: tl.constexpr):
    """Combines the means of all shares, weighted by their sums; ``rows`` are the queries of all objects."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    valid = row < rows
    channel = tl.arange(0, VALUE_WIDTH)
    top = tl.full((ROWS,), float("-inf"), tl.float32)
    for share in range(splits):
        top = tl.maximum(top, tl.load(lse_ptr + share * rows + row, mask=valid, other=0.0))
    acc = tl.zeros((ROWS, VALUE_WIDTH), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    for share in range(splits):
        lse = tl.load(lse_ptr + share * rows + row, mask=valid, other=0.0)
        weight = tl.where(lse == float("-inf"), 0.0, tl.math.exp2(lse - top))
        offset = partial_ptr + (share * rows + row[:, None]).to(tl.int64) * VALUE_WIDTH + channel[None, :]
        acc += weight[:, None] * tl.load(offset, mask=valid[:, None], other=0.0)
        total += weight
    acc = acc / tl.where(total > 0, total, 1.0)[:, None]
    offset = out_ptr + row[:, None].to(tl.int64) * VALUE_WIDTH + channel[None, :]
    tl.store(offset, acc.to(out_ptr.dtype.element_ty), mask=valid[:, None])


@dataclass(frozen=True)
class Tile:
    """The work of one program: rows of queries and keys at a time, warps, and stages of the pipeline."""

    rows: int = 128
    keys: int = 64
    warps: int = 8
    stages: int = 3


@cache
def tile_of(device: torch.device) -> Tile:
    """The fastest tile that fits into the shared memory of ``device``.

    With 256 channels of keys and 64 of values, the larger tile takes 184 KiB of 227 on Hopper and 144 KiB of 163 on an
    A100. The smaller one takes 72 KiB of the 99 on desktop GPUs.
    """
    index = torch.cuda.current_device() if device.index is None else device.index
    properties: dict[str, int] = triton.runtime.driver.active.utils.get_device_properties(index)
    return Tile() if properties["max_shared_mem"] >= 160 * 1024 else Tile(rows=64, keys=64, warps=4, stages=2)


@dataclass(frozen=True)
class Keys:
    """Keys ``[B, K, C]`` and values ``[B, K, D]``; only the first ``count`` (int32 ``[B]``) of each object, or all."""

    keys: Tensor
    values: Tensor
    count: Tensor | None = None


def attend(q: Tensor, first: Keys, second: Keys | None = None, tile: Tile | None = None, splits: int = 0) -> Tensor:
    """Softmax attention with one head, ``[B, N, D]`` in the dtype of ``q`` (``[1 or B, N, C]``, contiguous channels).

    C and D are powers of two. ``first`` holds most of the keys, ``second`` a few more with a ``count``. ``splits``
    shares of the first keys run in parallel; 0 = as many as fill a GPU.
    """
    tile = tile or (tile_of(q.device) if q.device.type == "cuda" else Tile())
    batch, queries, width, value_width = len(first.keys), *q.shape[1:], first.values.shape[2]
    assert all(x.stride(2) == 1 for x in (q, first.keys, first.values))
    blocks = triton.cdiv(queries, tile.rows)
    if not splits:
        splits = max(1, min(16, PARALLEL // (blocks * batch), first.keys.shape[1] // (4 * tile.keys)))
    out = torch.empty(batch, queries, value_width, dtype=q.dtype, device=q.device)
    partial = lse = out
    if divided := splits > 1:
        partial = torch.empty(splits, batch, queries, value_width, dtype=torch.float32, device=q.device)
        lse = torch.empty(splits, batch, queries, dtype=torch.float32, device=q.device)
    other = second or first
    assert second is None or second.count is not None
    _attend[(blocks, batch, splits)](
        q, first.keys, first.values, first.count, other.keys, other.values, other.count, out, partial, lse,
        queries, first.keys.shape[1], other.keys.shape[1], width**-0.5 * LOG2_E, splits,
        0 if len(q) == 1 else q.stride(0), q.stride(1),
        first.keys.stride(0), first.keys.stride(1), first.values.stride(0), first.values.stride(1),
        other.keys.stride(0), other.keys.stride(1), other.values.stride(0), other.values.stride(1),
        out.stride(0), out.stride(1),
        COUNTED=first.count is not None, SECOND=second is not None, DIVIDED=divided,
        ROWS=tile.rows, BLOCK=tile.keys, BLOCK2=32, WIDTH=width, VALUE_WIDTH=value_width,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    if divided:
        rows = batch * queries
        _combine[(triton.cdiv(rows, 32),)](partial, lse, out, rows, splits, ROWS=32, VALUE_WIDTH=value_width)
    return out
