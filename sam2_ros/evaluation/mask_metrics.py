"""Region similarity J and boundary measure F of DAVIS, in NumPy and OpenCV.

Source: Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation", CVPR 2016,
section 4, with the constants of its published evaluator, which later data sets (MOSE, LVOS, SA-V) took over. Masks are
``bool [H, W]``, values are fractions in [0, 1].
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from sam2_ros.tracking.types import CroppedMask

Mask = NDArray[np.bool_]
BOUNDARY_TOLERANCE = 0.008  # of the image's diagonal


def jaccard(predicted: Mask, truth: Mask) -> float:
    """Intersection over union of two masks of one shape; 1 if both are empty."""
    union = np.count_nonzero(predicted | truth)
    return 1.0 if union == 0 else np.count_nonzero(predicted & truth) / union


def boundary_map(mask: Mask) -> Mask:
    """The mask's boundary, one pixel wide: pixels that differ from their right, lower or lower-right neighbour.

    The last row has a right neighbour alone, the last column a lower one. So the map lies half a pixel up and left of
    the real border, and the image's edge is no boundary.
    """
    edges = np.zeros_like(mask)
    edges[:, :-1] |= mask[:, :-1] ^ mask[:, 1:]
    edges[:-1, :] |= mask[:-1, :] ^ mask[1:, :]
    edges[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return edges


def boundary_f(predicted: Mask, truth: Mask, tolerance: float = BOUNDARY_TOLERANCE) -> float:
    """F measure of the two boundaries: the harmonic mean of their precision and recall.

    A boundary pixel is right if the other boundary has one within ``ceil(tolerance × diagonal)`` pixels (Euclidean, of
    the whole image). The result is 1 if both masks have no boundary, 0 if only one has.
    """
    radius = math.ceil(tolerance * float(np.linalg.norm(predicted.shape)))
    x0, y0, x1, y1 = CroppedMask.from_full(predicted | truth).box
    if x1 == 0:
        return 1.0
    # The box of both masks with a pixel around it is all that the boundary maps depend on.
    area = slice(max(0, y0 - 1), y1 + 1), slice(max(0, x0 - 1), x1 + 1)
    ours, theirs = boundary_map(predicted[area]), boundary_map(truth[area])
    count_ours, count_theirs = np.count_nonzero(ours), np.count_nonzero(theirs)
    if count_ours == 0 or count_theirs == 0:
        return float(count_ours == count_theirs)
    precision = np.count_nonzero(ours & _near(theirs, radius)) / count_ours
    recall = np.count_nonzero(theirs & _near(ours, radius)) / count_theirs
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


def _near(pixels: Mask, radius: int) -> Mask:
    """Dilation by the disk x² + y² ≤ radius². The exact distance transform's time does not grow with the radius."""
    distance = cv2.distanceTransform((~pixels).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # Squared distances are whole numbers; half a step above radius² no rounding of the root matters.
    return np.asarray(distance < math.sqrt(radius * radius + 0.5))
