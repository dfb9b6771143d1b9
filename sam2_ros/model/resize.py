"""Resizes images as PyTorch's antialiased bilinear interpolation does. Free of torch."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array


def resized(image: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
    """RGB ``uint8 [H, W, 3]`` → ``float32 [3, size, size]`` of the same range."""
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return np.ascontiguousarray(image.transpose(2, 0, 1), np.float32)
    rows = weights(height, size) @ image.reshape(height, -1).astype(np.float32)
    columns = np.ascontiguousarray(rows.T).reshape(width, -1)
    found = (weights(width, size) @ columns).reshape(size, 3, size)
    return np.ascontiguousarray(found.transpose(1, 2, 0))


@lru_cache(maxsize=16)
def weights(count: int, size: int) -> csr_array:
    """Weights ``[size, count]`` of pixels along one side: triangles as wide as two pixels of the coarser grid."""
    scale = count / size
    reach = max(scale, 1.0)
    centre = (np.arange(size) + 0.5) * scale
    first = np.maximum((centre - reach + 0.5).astype(np.int64), 0)
    last = np.minimum((centre + reach + 0.5).astype(np.int64), count)
    taps = np.arange(int((last - first).max()))
    places = first[:, None] + taps
    found = np.maximum(1 - np.abs(places + 0.5 - centre[:, None]) / reach, 0) * (places < last[:, None])
    found /= found.sum(axis=1, keepdims=True)
    index = np.repeat(np.arange(size), len(taps)), np.minimum(places, count - 1).ravel()
    return csr_array((found.ravel().astype(np.float32), index), shape=(size, count))


@lru_cache(maxsize=64)
def averaging(before: int, after: int) -> csr_array:
    """Weights ``[after, before]`` of the pixels that each cell touches, along one side."""
    first, last = np.arange(after) * before // after, -(-np.arange(1, after + 1) * before // after)
    inside = (np.arange(before) >= first[:, None]) & (np.arange(before) < last[:, None])
    return csr_array(inside / inside.sum(axis=1, keepdims=True), dtype=np.float32)


def along(down: csr_array, across: csr_array, maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """``down @ map @ acrossᵀ`` for each map."""
    flat = maps.reshape(-1, *maps.shape[-2:])
    rows = down @ flat.transpose(1, 0, 2).reshape(flat.shape[1], -1)  # [h', N w]
    rows = rows.reshape(-1, *flat.shape[::2])  # [h', N, w]
    out = across @ rows.transpose(2, 1, 0).reshape(flat.shape[2], -1)  # [w', N h']
    out = out.reshape(-1, len(flat), down.shape[0]).transpose(1, 2, 0)
    return np.ascontiguousarray(out).reshape(*maps.shape[:-2], down.shape[0], across.shape[0])
