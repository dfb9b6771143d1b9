"""A Triton kernel that scales masks to the size of the image and packs them, one bit a pixel. Needs ``triton``."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sam2_ros.model.gpu.triton_helpers import neighbours


# Without this, Triton would compile another kernel at a camera's first image whose size 16 divides.
@triton.jit(do_not_specialize=["height", "width", "row_bytes", "scale_y", "scale_x"])
def _pack(logit_ptr, out_ptr, side_y, side_x, height, width, row_bytes, scale_y, scale_x, BYTES: tl.constexpr):
    """Some bytes of one mask: eight pixels each, the leftmost the highest bit."""
    obj = tl.program_id(1).to(tl.int64)
    byte = tl.program_id(0) * BYTES + tl.arange(0, BYTES)
    bit = tl.arange(0, 8)
    valid = byte < height * row_bytes
    y, x = byte // row_bytes, (byte % row_bytes)[:, None] * 8 + bit[None, :]
    inside = valid[:, None] & (x < width)
    low_y, next_y, part_y = neighbours(y, scale_y, side_y)
    low_x, next_x, part_x = neighbours(x, scale_x, side_x)
    logits = logit_ptr + obj * side_y * side_x
    upper_row, lower_row = (low_y * side_x)[:, None], (next_y * side_x)[:, None]
    upper = tl.load(logits + upper_row + low_x, mask=inside, other=0.0) * (1 - part_x)
    upper += tl.load(logits + upper_row + next_x, mask=inside, other=0.0) * part_x
    lower = tl.load(logits + lower_row + low_x, mask=inside, other=0.0) * (1 - part_x)
    lower += tl.load(logits + lower_row + next_x, mask=inside, other=0.0) * part_x
    logit = upper * (1 - part_y[:, None]) + lower * part_y[:, None]
    bits = tl.where(inside & (logit > 0), (1 << (7 - bit))[None, :], 0)
    tl.store(out_ptr + obj * height * row_bytes + byte, tl.sum(bits, 1).to(tl.uint8), mask=valid)


def pack(logits: Tensor, height: int, width: int) -> Tensor:
    """As :func:`sam2_ros.tracking.masks.pack_masks`; ``logits`` are float32 and contiguous."""
    batch, _, side_y, side_x = logits.shape
    assert logits.is_contiguous() and logits.dtype == torch.float32
    row_bytes, count = -(-width // 8), 128
    out = torch.empty(batch, height, row_bytes, dtype=torch.uint8, device=logits.device)
    _pack[(triton.cdiv(height * row_bytes, count), batch)](
        logits, out, side_y, side_x, height, width, row_bytes, side_y / height, side_x / width, BYTES=count, num_warps=4
    )
    return out
