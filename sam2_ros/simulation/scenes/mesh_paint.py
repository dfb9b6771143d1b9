"""The colours of a textured mesh at points of its surface, for the camera that casts rays."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from sam2_ros.media.errors import UserError
from sam2_ros.simulation.scenes.models import TEXTURE

_SPOTS = 14  # on each triangle


@cache
def mesh_paint(path: Path) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """A function from points ``[N, 3]`` on a mesh, in its own coordinates, to colours ``[N, 3]``, RGB from 0 to 1.

    It answers with the texture at the nearest of many spots on the triangles.

    Raises:
        UserError: the mesh has no triangles with texture, or there is no texture.
    """
    points, places = list[list[str]](), list[list[str]]()
    corners = list[list[list[str]]]()
    for words in (line.split() for line in path.read_text(encoding="utf-8").splitlines()):
        if words[:1] == ["v"]:
            points.append(words[1:4])
        elif words[:1] == ["vt"]:
            places.append(words[1:3])
        elif words[:1] == ["f"] and len(words) == 4:
            corners.append([word.split("/")[:2] for word in words[1:]])
    image = cv2.imread(str(path.with_name(TEXTURE)), cv2.IMREAD_COLOR)
    try:
        indices = np.array(corners, np.int64) - 1  # [F, 3, 2]
        vertices, pixels = np.array(points, np.float64)[indices[..., 0]], np.array(places, np.float64)[indices[..., 1]]
        if image is None:
            raise ValueError("no texture")
        height, width = image.shape[:2]
    except (ValueError, IndexError) as error:
        raise UserError(
            f"{path}: no usable mesh ({error}); accepted: triangles with texture coordinates, and {TEXTURE} beside it"
        ) from error
    weights = np.random.default_rng(0).dirichlet(np.ones(3), _SPOTS)
    spots = np.einsum("sc,fcd->fsd", weights, vertices).reshape(-1, 3)
    u, v = np.einsum("sc,fcd->fsd", weights, pixels).reshape(-1, 2).T
    rows = np.clip(((1 - v % 1) * height).astype(np.int64), 0, height - 1)
    colors = image[rows, np.clip((u % 1 * width).astype(np.int64), 0, width - 1), ::-1].astype(np.float32) / 255
    tree = KDTree(spots)

    def paint(at: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(colors[tree.query(at)[1]])

    return paint
