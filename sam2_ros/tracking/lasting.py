"""Memory for what lives for some frames.

Between blocks that live for a moment, hundreds of MiB in a frame on a CPU, one that stays keeps the C library from
giving out what is free around it as one piece, so that the process grows. What stays therefore gets pages of its own.
"""

from __future__ import annotations

import mmap

import torch
from torch import Tensor

SMALLEST = 2**14  # bytes: smaller ones leave no gap that matters


def lasting(tensor: Tensor) -> Tensor:
    """A copy of ``tensor``, with its strides if it is dense; its pages go back to the system when it goes."""
    size = tensor.numel() * tensor.element_size()
    if tensor.device.type != "cpu" or size < SMALLEST or not hasattr(mmap, "MAP_PRIVATE"):
        return tensor.clone()
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    flat = torch.frombuffer(pages, dtype=tensor.dtype)
    strides = torch.empty_like(tensor, device="meta").stride()  # of a dense tensor its own, else those of a clone
    return flat.as_strided(tensor.shape, strides).copy_(tensor)
