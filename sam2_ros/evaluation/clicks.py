"""Simulated clicks, made from labelled masks (``bool [H, W]``); points are pixel centres x, y."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from sam2_ros.evaluation.mask_metrics import Mask


def deepest_point(mask: Mask) -> NDArray[np.float32]:
    """The pixel of the mask that is farthest from everything outside it, ``float32 [2]`` x, y.

    Beyond the image is outside. Of equally deep pixels, the first from the top left is taken. The mask has at least one
    pixel.
    """
    depth = _depth(mask)
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return np.array([x, y], np.float32)


def correction(predicted: Mask, truth: Mask) -> tuple[NDArray[np.float32], int] | None:
    """The next click: the deepest point among the wrong pixels, and its label; None if nothing is wrong.

    Label 1 is for missed pixels, 0 for pixels too many. Of the two errors the deeper one is clicked, between equals the
    second. Source: RITM (Sofiiuk et al., 2021), which the experiments of SAM and SAM 2 follow.
    """
    missed, extra = truth & ~predicted, predicted & ~truth
    if not missed.any() and not extra.any():
        return None
    if float(_depth(missed).max()) > float(_depth(extra).max()):
        return deepest_point(missed), 1
    return deepest_point(extra), 0


def _depth(mask: Mask) -> NDArray[np.float32]:
    """Distance in pixels of each of the mask's pixels to the nearest one outside it."""
    padded = np.pad(mask, 1).astype(np.uint8)
    return np.asarray(cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1], np.float32)
