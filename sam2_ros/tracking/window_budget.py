"""How many windows of a frame the network looks through, and in which size. Free of torch.

A single window and large ones are seen in the network's usual size, others in :data:`SMALLER` of its side. Sizes change
seldom, because an object's memories have the size in which it was seen. What the encoder may see in a frame is a budget
in pixels. Twice as many windows as it allows take turns: an object rests about every second frame, and its mask moves
on at its speed. That costs less than to see it smaller, or in another scale than that of its memories.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

SMALLER = 5 / 7  # of the network's side: in which several windows are seen
LARGE = 0.6  # share of the frame's sides from which on a window is seen in the usual size
MORE = 0.2  # of a whole frame's pixels: what the encoder may see more for each object, unless the user says
OVER = 1.05  # times the budget that fixed sizes may take
TURNS = 2  # frames within which every window is looked through
MAX_LOOKS = 8  # windows of a frame that are encoded


def default_budget(side: int, objects: int) -> int:
    """The pixels that the encoder may see so that a frame takes no longer than a whole one, with ``objects`` tracked.

    An object that is seen in :data:`SMALLER` of the side takes half of the time of one in the whole frame.
    """
    return round(side * side * (1 + MORE * objects))


def smaller_side(side: int) -> int:
    """Side of the input for each of several windows, pixels, where ``side`` is that of the network's usual input."""
    return max(64, 32 * round(SMALLER * side / 32))


def most_pixels(side: int, budget: int) -> int:
    """The most pixels that the encoder sees in a frame."""
    return max(64 * 64, min(int(OVER * budget), MAX_LOOKS * side * side))


def input_sides(shares: Sequence[float], side: int, budget: int, turns: int = TURNS) -> list[int]:
    """Side of the input for each window of a frame; empty if there may not be so many.

    Args:
        shares: of the frame's sides that the windows have.
        side: of the network's usual input, pixels.
        budget: pixels that the encoder may see in a frame. A single window is seen smaller if need be.
        turns: frames within which each is encoded once.
    """
    most = most_pixels(side, budget)
    if len(shares) == 1:
        return [max(64, min(side, 32 * int(math.sqrt(most) / 32)))]
    large = side if side * side <= most else smaller_side(side)
    sides = [large if share >= LARGE else smaller_side(side) for share in shares]
    fit = max(sides) ** 2 <= most and sum(one * one for one in sides) <= turns * most
    return sides if fit and len(sides) <= turns * MAX_LOOKS else []
