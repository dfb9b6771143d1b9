"""How the C library is to keep the memory of images and tensors (glibc; elsewhere nothing happens).

By itself it gives the memory of each large block back to the kernel at once, to fault it in again for the next one.
"""

from __future__ import annotations

import ctypes
import os

# Environment variables, which a process reads when it starts: for those that are started from here.
VARIABLES = {
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "1073741824",
    "MALLOC_TOP_PAD_": "67108864",
    # One heap for all threads: those of its own that a thread gets are of 64 MiB at most, and what is warmed up in one
    # thread is there for the next.
    "MALLOC_ARENA_MAX": "1",
}
# mallopt's, malloc.h
_OPTIONS = {
    "MALLOC_TRIM_THRESHOLD_": -1, "MALLOC_TOP_PAD_": -2, "MALLOC_MMAP_THRESHOLD_": -3, "MALLOC_ARENA_MAX": -8
}  # fmt: skip
_LARGEST_THRESHOLD = 32 * 2**20  # of M_MMAP_THRESHOLD in older versions, which refuse more
_RESERVED_AT_ONCE = 16 * 2**20  # less than from where on any version takes blocks from the kernel one by one


def keep_freed_memory() -> None:
    """Sets this process as :data:`VARIABLES` would have; what its environment says already is left alone."""
    if "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", ""):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or Windows
        return
    for name, value in VARIABLES.items():
        if name not in os.environ and not mallopt(_OPTIONS[name], int(value)):
            mallopt(_OPTIONS[name], min(int(value), _LARGEST_THRESHOLD))


def reserve(size: int) -> None:
    """Takes ``size`` bytes from the kernel for later.

    The gaps between blocks let a heap grow for some thousand frames, by some known amount. A process that has it from
    the beginning stays as large as it is.
    """
    import numpy as np  # the command line answers without

    blocks = [np.ones(_RESERVED_AT_ONCE, np.uint8) for _ in range(-(-size // _RESERVED_AT_ONCE))]  # each page written
    blocks.clear()
