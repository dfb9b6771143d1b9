"""How many windows of a frame the network looks through, and in which size. Free of torch.

Every window is seen in the network's usual size: in a smaller one it finds small objects much worse. What the encoder
may see in a frame is a budget in pixels. :data:`TURNS` times as many windows as it allows take turns; the mask of an
object that rests moves on at its speed.
"""

from __future__ import annotations

import math

OVER = 1.05  # times the budget that may be taken
TURNS = 3  # frames within which every window is looked through
MAX_LOOKS = 8  # windows of a frame that are encoded
MAX_PIXELS = 1920 * 1080  # of a stored image; larger ones are stored smaller


def default_budget(side: int, objects: int) -> int:
    """The pixels that the encoder may see unless the user says: a window for each of ``objects``."""
    return side * side * max(1, min(MAX_LOOKS, objects))


def input_side(side: int, budget: int) -> int:
    """Side of the input for a window, pixels: ``side``, that of the network's usual input, or less if the budget is."""
    return max(64, min(side, 32 * int(math.sqrt(OVER * budget) / 32)))


def most_looks(side: int, budget: int) -> int:
    """The most windows of a frame that are encoded; at least one."""
    return max(1, min(MAX_LOOKS, int(OVER * budget) // input_side(side, budget) ** 2))


def most_pixels(side: int, budget: int) -> int:
    """The most pixels that the encoder sees in a frame."""
    return most_looks(side, budget) * input_side(side, budget) ** 2
