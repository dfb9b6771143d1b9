"""Makes glibc keep freed memory of images and tensors; with other C libraries nothing happens.

By default it returns each large block to the kernel at once, and the next block costs page faults again.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

# Environment variables for child processes: glibc reads them when a process starts.
VARIABLES = {
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "1073741824",
    "MALLOC_TOP_PAD_": "67108864",
    # One heap for all threads: a thread's own heap has 64 MiB at most, and other threads cannot reuse its free memory.
    "MALLOC_ARENA_MAX": "1",
}
# mallopt's, malloc.h
_OPTIONS = {
    "MALLOC_TRIM_THRESHOLD_": -1, "MALLOC_TOP_PAD_": -2, "MALLOC_MMAP_THRESHOLD_": -3, "MALLOC_ARENA_MAX": -8
}  # fmt: skip
_LARGEST_THRESHOLD = 32 * 2**20  # older versions refuse a larger M_MMAP_THRESHOLD
_RESERVED_AT_ONCE = 16 * 2**20  # small enough that no version takes the block straight from the kernel


def keep_freed_memory() -> None:
    """Applies :data:`VARIABLES` to this process, except those that its environment already sets."""
    if "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", ""):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or Windows
        return
    for name, value in VARIABLES.items():
        if name not in os.environ and not mallopt(_OPTIONS[name], int(value)):
            mallopt(_OPTIONS[name], min(int(value), _LARGEST_THRESHOLD))


def give_back_freed_memory() -> None:
    """Returns to the kernel what was freed and is kept: for a process that has freed a network."""
    with suppress(AttributeError, OSError, TypeError):  # another C library, or Windows
        ctypes.CDLL(None).malloc_trim(0)


def reserve(size: int) -> None:
    """Takes ``size`` bytes from the kernel for later use.

    Gaps between blocks make the heap grow during the first thousands of frames, by a known amount. A process that
    reserves that amount does not grow later.
    """
    import numpy as np  # not at the top: the command line starts without it

    blocks = [np.ones(_RESERVED_AT_ONCE, np.uint8) for _ in range(-(-size // _RESERVED_AT_ONCE))]  # writes every page
    blocks.clear()
