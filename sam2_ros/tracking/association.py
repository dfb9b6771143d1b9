"""Which detection is which track: optimal assignment on the overlap of boxes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Boxes = NDArray[np.float64]  # [N, 4] x0, y0, x1, y1, edges in pixels
_IMPOSSIBLE = 1e6  # cost of a pair beyond the gate


def intersections(first: Boxes, second: Boxes) -> NDArray[np.float64]:
    """Common area of every box of ``first`` with every one of ``second``, ``[N, M]``, square pixels."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    sides = np.clip(high - low, 0, None)
    common: NDArray[np.float64] = sides[..., 0] * sides[..., 1]
    return common


def areas(boxes: Boxes) -> NDArray[np.float64]:
    """``[N]`` square pixels."""
    area: NDArray[np.float64] = np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), axis=1)
    return area


def ious(first: Boxes, second: Boxes) -> NDArray[np.float64]:
    """Intersection over union of every pair, ``[N, M]``."""
    common = intersections(first, second)
    union = areas(first)[:, None] + areas(second)[None] - common
    return common / np.maximum(union, 1e-9)


def coverages(first: Boxes, second: Boxes) -> NDArray[np.float64]:
    """Common area of every pair as a share of the smaller box, ``[N, M]``: 1 where one lies in the other."""
    smaller = np.minimum(areas(first)[:, None], areas(second)[None])
    return intersections(first, second) / np.maximum(smaller, 1e-9)


def distances(first: Boxes, second: Boxes) -> NDArray[np.float64]:
    """Between the middles of every pair, as a multiple of the diagonal of the box of ``second``, ``[N, M]``."""
    middles, others = (first[:, :2] + first[:, 2:]) / 2, (second[:, :2] + second[:, 2:]) / 2
    diagonals = np.maximum(np.hypot(*(second[:, 2:] - second[:, :2]).T), 1.0)
    away: NDArray[np.float64] = np.hypot(*np.moveaxis(middles[:, None] - others[None], 2, 0)) / diagonals[None]
    return away


def assign(costs: NDArray[np.float64], allowed: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Pairs (row, column) of least total cost among those ``allowed``, as many pairs as possible first.

    The Hungarian method (Kuhn 1955), as SORT uses it (Bewley et al. 2016). Both arrays are ``[N, M]``, costs lie in
    [0, 1000].
    """
    if not costs.size:
        return []
    rows, columns = linear_sum_assignment(np.where(allowed, costs, _IMPOSSIBLE))
    return [(int(row), int(column)) for row, column in zip(rows, columns, strict=True) if allowed[row, column]]
