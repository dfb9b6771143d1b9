"""Functions that several Triton kernels share. Needs ``triton``."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def gelu(x):
    """The exact one, by the error function."""
    return 0.5 * x * (1 + tl.math.erf(x * 0.7071067811865476))


@triton.jit
def neighbours(index, scale, side):
    """For bilinear resizing (``align_corners=False``): the two source pixels of target pixels ``index`` on one axis.

    Returns the pixel before, the pixel after, and the weight of the latter. ``side`` is the size of the source, and
    ``scale`` that size divided by the target's.
    """
    place = tl.maximum((index.to(tl.float32) + 0.5) * scale - 0.5, 0.0)
    low = place.to(tl.int32)
    part = place - low.to(tl.float32)
    low = tl.minimum(low, side - 1)
    return low, tl.minimum(low + 1, side - 1), part
