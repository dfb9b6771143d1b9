"""Turns low-resolution mask logits into masks in the size of the image."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sam2_ros.model.dispatch import can_use_triton
from sam2_ros.tracking.types import CroppedMask
from sam2_ros.tracking.windows import Window

FILLED_LOGIT = 0.1
OUTSIDE_LOGIT = -32.0  # of pixels outside of an object's window


def fill_holes(logits: Tensor, max_area: int) -> Tensor:
    """Gives 8-connected background regions of at most ``max_area`` pixels a small positive logit (``[B, 1, h, w]``)."""
    filled = []
    for mask in logits[:, 0]:
        background = (mask <= 0).cpu().numpy().astype(np.uint8)
        _, regions, stats, _ = cv2.connectedComponentsWithStats(background, connectivity=8)
        small = stats[:, cv2.CC_STAT_AREA] <= max_area
        small[0] = False  # label 0 is the foreground
        filled.append(torch.where(torch.from_numpy(small[regions]).to(mask.device), FILLED_LOGIT, mask))
    return torch.stack(filled)[:, None]


def suppress_overlap(logits: Tensor) -> Tensor:
    """Gives every pixel of ``[B, 1, H, W]`` to the object of the highest logit; lowers the others to -10 or below."""
    winner = logits.argmax(dim=0, keepdim=True)
    index = torch.arange(len(logits), device=logits.device)[:, None, None, None]
    return torch.where(winner == index, logits, logits.clamp(max=-10.0))


def image_masks(logits: Tensor, height: int, width: int, non_overlap: bool) -> list[CroppedMask]:
    """Low-resolution logits ``[B, 1, h, w]`` → binary masks of ``height`` × ``width``, cropped. Up-samples bilinearly,
    threshold 0."""
    if non_overlap and len(logits) > 1:
        full = F.interpolate(logits, (height, width), mode="bilinear", align_corners=False)
        return [CroppedMask.from_full(mask) for mask in (suppress_overlap(full)[:, 0] > 0).cpu().numpy()]
    if logits.device.type != "cpu":
        return [CroppedMask.from_packed(bits, width) for bits in pack_masks(logits, height, width).cpu().numpy()]
    return [_image_mask(mask, height, width) for mask in logits.float()]


def masks_in_windows(
    logits: Sequence[Tensor], windows: Sequence[Window], height: int, width: int, non_overlap: bool
) -> list[CroppedMask]:
    """As :func:`image_masks`, of logits ``[1, h, w]`` that lie in ``windows`` of the image, in any sizes."""
    whole = Window.whole(width, height)
    if all(window == whole for window in windows) and len({each.shape for each in logits}) == 1:
        return image_masks(torch.stack(list(logits)), height, width, non_overlap)
    if not non_overlap or len(logits) == 1:
        return [
            image_masks(each[None], window.height, window.width, False)[0].within(window.x0, window.y0, width, height)
            for each, window in zip(logits, windows, strict=True)
        ]
    full = torch.full((len(logits), 1, height, width), OUTSIDE_LOGIT, device=logits[0].device)
    for row, each, (x0, y0, x1, y1) in zip(full, logits, windows, strict=True):
        size = y1 - y0, x1 - x0
        row[:, y0:y1, x0:x1] = F.interpolate(each[None].float(), size, mode="bilinear", align_corners=False)[0]
    return [CroppedMask.from_full(mask) for mask in (suppress_overlap(full)[:, 0] > 0).cpu().numpy()]


def moved(logits: Tensor, before: Window, now: Window, side: int) -> Tensor:
    """Logits ``[1, h, w]`` that lie in the window ``before``, resampled for the window ``now``, ``[1, side, side]``."""
    if before == now and logits.shape[-1] == side:
        return logits
    theta = torch.tensor(
        [
            [now.width / before.width, 0, (now.x0 + now.x1 - before.x0 - before.x1) / before.width],
            [0, now.height / before.height, (now.y0 + now.y1 - before.y0 - before.y1) / before.height],
        ],
        device=logits.device,
    )
    places = F.affine_grid(theta[None], [1, 1, side, side], align_corners=False)
    # Around the window there is nothing: what grid_sample takes there is 0.
    return F.grid_sample(logits[None] - OUTSIDE_LOGIT, places, align_corners=False)[0] + OUTSIDE_LOGIT


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


def _image_mask(logits: Tensor, height: int, width: int) -> CroppedMask:
    if not bool((logits > 0).any()):  # up-sampling makes no logit positive
        return CroppedMask.empty(width, height)
    full = F.interpolate(logits[None], (height, width), mode="bilinear", align_corners=False)
    return CroppedMask.from_full((full[0, 0] > 0).numpy())
