"""Turns low-resolution mask logits into masks in the size of the image."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from sam2_ros.model.arrays import arange, device_of, float32, module_of, on_host, to_numpy, zeros
from sam2_ros.model.network import Array
from sam2_ros.tracking.maps import resized, sampled
from sam2_ros.tracking.transfer import upload
from sam2_ros.tracking.types import CroppedMask
from sam2_ros.tracking.windows import Window

FILLED_LOGIT = 0.1
OUTSIDE_LOGIT = -32.0  # of pixels outside of an object's window


def fill_holes(logits: Array, max_area: int) -> Array:
    """Gives 8-connected background regions of at most ``max_area`` pixels a small positive logit (``[B, 1, h, w]``)."""
    module, filled = module_of(logits), []
    for mask in logits[:, 0]:
        background = to_numpy(mask <= 0).astype(np.uint8)
        _, regions, stats, _ = cv2.connectedComponentsWithStats(background, connectivity=8)
        small = stats[:, cv2.CC_STAT_AREA] <= max_area
        small[0] = False  # label 0 is the foreground
        filled.append(module.where(upload(small[regions], device_of(mask)), FILLED_LOGIT, mask))
    return module.stack(filled)[:, None]


def suppress_overlap(logits: Array) -> Array:
    """Gives every pixel of ``[B, 1, H, W]`` to the object of the highest logit; lowers the others to -10 or below."""
    winner = logits.argmax(0)[None]
    index = arange(len(logits), logits)[:, None, None, None]
    return module_of(logits).where(winner == index, logits, logits.clip(None, -10.0))


def image_masks(logits: Array, height: int, width: int, non_overlap: bool) -> list[CroppedMask]:
    """Low-resolution logits ``[B, 1, h, w]`` → binary masks of ``height`` × ``width``, cropped. Up-samples bilinearly,
    threshold 0."""
    if non_overlap and len(logits) > 1:
        full = resized(logits, height, width)
        return [CroppedMask.from_full(mask) for mask in to_numpy(suppress_overlap(full)[:, 0] > 0)]
    if not on_host(logits):
        from sam2_ros.tracking.cuda_masks import pack_masks

        return [CroppedMask.from_packed(bits, width) for bits in to_numpy(pack_masks(logits, height, width))]
    return [_image_mask(mask, height, width) for mask in float32(logits)]


def masks_in_windows(
    logits: Sequence[Array], windows: Sequence[Window], height: int, width: int, non_overlap: bool
) -> list[CroppedMask]:
    """As :func:`image_masks`, of logits ``[1, h, w]`` that lie in ``windows`` of the image, in any sizes."""
    if not logits:
        return []
    whole = Window.whole(width, height)
    if all(window == whole for window in windows) and len({each.shape for each in logits}) == 1:
        return image_masks(module_of(logits[0]).stack(list(logits)), height, width, non_overlap)
    if not non_overlap or len(logits) == 1:
        return [
            image_masks(each[None], window.height, window.width, False)[0].within(window.x0, window.y0, width, height)
            for each, window in zip(logits, windows, strict=True)
        ]
    full = zeros((len(logits), 1, height, width), device_of(logits[0])) + OUTSIDE_LOGIT
    for row, each, (x0, y0, x1, y1) in zip(full, logits, windows, strict=True):
        row[:, y0:y1, x0:x1] = resized(float32(each[None]), y1 - y0, x1 - x0)[0]
    return [CroppedMask.from_full(mask) for mask in to_numpy(suppress_overlap(full)[:, 0] > 0)]


def moved(logits: Array, before: Window, now: Window, side: int) -> Array:
    """Logits ``[1, h, w]`` that lie in the window ``before``, resampled for the window ``now``, ``[1, side, side]``."""
    if before == now and logits.shape[-1] == side:
        return logits
    scale = now.width / before.width, now.height / before.height
    shift = (
        (now.x0 + now.x1 - before.x0 - before.x1) / before.width,
        (now.y0 + now.y1 - before.y0 - before.y1) / before.height,
    )
    # Around the window there is nothing: what is sampled there is 0.
    return sampled(logits[None] - OUTSIDE_LOGIT, scale, shift, side)[0] + OUTSIDE_LOGIT


def resampled(mask: CroppedMask, before: Window, now: Window, width: int, height: int) -> CroppedMask:
    """The mask that lies in the window ``before``, in ``width`` × ``height`` pixels of the window ``now``."""
    if not mask.crop.size:
        return CroppedMask.empty(width, height)
    if before == now and (mask.width, mask.height) == (width, height):
        return mask
    rows = _places(height, now.y0 - before.y0, now.height, mask.height / before.height) - mask.y
    columns = _places(width, now.x0 - before.x0, now.width, mask.width / before.width) - mask.x
    down = np.flatnonzero((rows >= 0) & (rows < mask.crop.shape[0]))
    across = np.flatnonzero((columns >= 0) & (columns < mask.crop.shape[1]))
    if not (len(down) and len(across)):
        return CroppedMask.empty(width, height)
    inner = CroppedMask.from_full(mask.crop[np.ix_(rows[down], columns[across])])
    return inner.within(int(across[0]), int(down[0]), width, height)


def without(mask: CroppedMask, others: Sequence[CroppedMask]) -> CroppedMask:
    """``mask`` less the pixels of ``others``, which are of the same image."""
    full = mask.full()
    for other in others:
        x0, y0, x1, y1 = other.box
        full[y0:y1, x0:x1] &= ~other.crop
    return CroppedMask.from_full(full)


def _image_mask(logits: Array, height: int, width: int) -> CroppedMask:
    if not bool((logits > 0).any()):  # up-sampling makes no logit positive
        return CroppedMask.empty(width, height)
    return CroppedMask.from_full(to_numpy(resized(logits[None], height, width)[0, 0] > 0))


def _places(count: int, begin: int, length: int, density: float) -> NDArray[np.int64]:
    """The pixels in which the middles of ``count`` pixels lie, which begin at ``begin`` and share ``length``."""
    return np.floor(((np.arange(count) + 0.5) * (length / count) + begin) * density).astype(np.int64)
