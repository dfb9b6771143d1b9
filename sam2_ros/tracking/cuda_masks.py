"""Masks of a GPU as bits, an eighth of the bytes that go to the host."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sam2_ros.model.dispatch import can_use_triton


def pack_masks(logits: Tensor, height: int, width: int) -> Tensor:
    """Masks of ``logits`` (``[B, 1, h, w]``) in the size of the image, as :func:`pack_bits` gives them."""
    if can_use_triton(logits):
        from sam2_ros.model.gpu.mask_packing_kernels import pack

        return pack(logits.float().contiguous(), height, width)
    if logits.shape[2:] != (height, width):
        logits = F.interpolate(logits.float(), (height, width), mode="bilinear", align_corners=False)
    return pack_bits(logits[:, 0] > 0)


def pack_bits(masks: Tensor) -> Tensor:
    """``masks`` (bool ``[B, H, W]``) as ``uint8 [B, H, ceil(W / 8)]`` on their device, the leftmost pixel as the
    highest bit; see :meth:`~sam2_ros.tracking.types.CroppedMask.from_packed`."""
    bits = F.pad(masks, (0, -masks.shape[2] % 8)).unflatten(2, (-1, 8))
    weights = 2 ** torch.arange(7, -1, -1, dtype=torch.uint8, device=masks.device)
    return (bits * weights).sum(dim=3, dtype=torch.uint8)
