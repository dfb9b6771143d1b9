"""What several of the Triton kernels are made of. Needs ``triton``."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def gelu(x):
    """The exact one, by the error function."""
    return 0.5 * x * (1 + tl.math.erf(x * 0.7071067811865476))


@triton.jit
def neighbours(index, scale, side):
    """Where pixels ``index`` of a resized axis lie on the one of ``side`` pixels that it is resized from (bilinear,
    ``align_corners=False``): the pixel before, the one after, and the latter's weight. ``scale``: old size by new."""
    place = tl.maximum((index.to(tl.float32) + 0.5) * scale - 0.5, 0.0)
    low = place.to(tl.int32)
    part = place - low.to(tl.float32)
    low = tl.minimum(low, side - 1)
    return low, tl.minimum(low + 1, side - 1), part
