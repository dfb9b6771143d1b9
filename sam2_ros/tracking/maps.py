"""Resamples maps ``[..., h, w]``, tensors of PyTorch or arrays of NumPy. Free of torch."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from sam2_ros.model.arrays import is_numpy, module_of
from sam2_ros.model.network import Array
from sam2_ros.model.resize import along, averaging, weights


def resized(maps: Array, height: int, width: int, antialias: bool = False) -> Array:
    """``float32 [B, C, h, w]`` → ``[B, C, height, width]``, bilinear; the corners of the maps meet. ``antialias``
    averages where a side shrinks."""
    if not is_numpy(maps):
        resize = module_of(maps).nn.functional.interpolate
        return resize(maps, (height, width), mode="bilinear", align_corners=False, antialias=antialias)
    if antialias and (height < maps.shape[2] or width < maps.shape[3]):
        return along(weights(maps.shape[2], height), weights(maps.shape[3], width), maps)
    flat = maps.reshape(-1, *maps.shape[2:])
    out = [cv2.resize(each, (width, height), interpolation=cv2.INTER_LINEAR) for each in flat]
    return np.stack(out).reshape(*maps.shape[:2], height, width)


def averaged(maps: Array, side: int) -> Array:
    """``float32 [..., h, w]`` → ``[..., side, side]``: the mean of the pixels that each cell touches."""
    if is_numpy(maps):
        return along(averaging(maps.shape[-2], side), averaging(maps.shape[-1], side), maps)
    return module_of(maps).nn.functional.adaptive_avg_pool2d(maps, side)


def sampled(maps: Array, scale: tuple[float, float], shift: tuple[float, float], side: int) -> Array:
    """``float32 [B, C, h, w]`` → ``[B, C, side, side]``: the part whose sides are ``scale`` times those of the maps
    (x, y), its middle moved by ``shift`` times half of their sides. Bilinear; 0 around the maps."""
    if is_numpy(maps):
        across, down = (
            _hats(((scale[axis] * _middles(side) + shift[axis] + 1) * count - 1) / 2, count)
            for axis, count in enumerate((maps.shape[3], maps.shape[2]))
        )
        return along(down, across, maps)
    torch = module_of(maps)
    theta = [[scale[0], 0.0, shift[0]], [0.0, scale[1], shift[1]]]
    grid = torch.nn.functional.affine_grid(
        torch.tensor(theta, device=maps.device)[None], [1, 1, side, side], align_corners=False
    )
    return torch.nn.functional.grid_sample(maps, grid, align_corners=False)


def _middles(count: int) -> NDArray[np.float64]:
    """Middles of ``count`` cells between -1 and 1."""
    return (2 * np.arange(count) + 1) / count - 1


def _hats(places: NDArray[Any], count: int) -> csr_array:
    """Weights ``[len(places), count]`` of the pixels beside each place, 1 where a pixel lies there."""
    return csr_array(np.maximum(0, 1 - np.abs(np.arange(count) - places[:, None])).astype(np.float32))
