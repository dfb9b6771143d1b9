"""Point clouds of tracked objects, and the depth image without them."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import Image, PointCloud2, PointField
from std_msgs.msg import Header

from sam2_ros.ros.depth_input import DepthView
from sam2_ros.ros.depth_surface import points_of, surface_pixels, valid_pixels
from sam2_ros.ros.messages import image_message
from sam2_ros.tracking.types import FrameResult, ObjectResult

# A point as it is sent. "rgb" are the three colours in one number, read as float32: what RViz and PCL expect.
POINT = np.dtype([(name, "<f4") for name in ("x", "y", "z", "rgb")] + [("object_id", "<u4"), ("visibility", "<f4")])
_FIELDS = [
    PointField(name=name, offset=4 * index, datatype=PointField.UINT32 if name == "object_id" else PointField.FLOAT32,
               count=1)
    for index, name in enumerate(("x", "y", "z", "rgb", "object_id", "visibility"))
]  # fmt: skip
MARGIN = 2  # pixels around a mask that are blanked too: there depth cameras mix object and background


@dataclass(frozen=True)
class CloudLimits:
    """How many points a cloud may have."""

    points: int  # of one object; of more, an evenly spread part is sent
    voxel: float  # metres; one point for each cube of this side; 0: all of them


def cloud(
    objects: Iterable[ObjectResult], image: NDArray[np.uint8], view: DepthView, limits: CloudLimits, header: Header
) -> PointCloud2:
    """The visible surfaces of ``objects``, without depth that is far from their median (``depth_surface``).

    Args:
        image: of the frame, RGB ``[H, W, 3]``.
        header: of the frame; the cloud has its stamp, and the frame of the positions.
    """
    parts = [_surface(obj, image, view, limits) for obj in objects if obj.mask.crop.size]
    points = np.concatenate([np.zeros(0, POINT), *parts])
    data = array("B")
    data.frombytes(points.tobytes())
    return PointCloud2(
        header=Header(stamp=header.stamp, frame_id=view.frame), height=1, width=points.size, is_bigendian=False,
        fields=_FIELDS,
        point_step=POINT.itemsize, row_step=POINT.itemsize * points.size, data=data, is_dense=True,
    )  # fmt: skip


def depth_without_objects(result: FrameResult, view: DepthView, header: Header) -> Image:
    """The depth image in its own encoding, 0 (no depth) where an object is seen and :data:`MARGIN` around it."""
    rows = np.array(view.rows, view.rows.dtype.newbyteorder("<"))
    seen = np.zeros(rows.shape, np.uint8)
    for obj in result.objects:
        height, width = obj.mask.crop.shape
        seen[obj.mask.y : obj.mask.y + height, obj.mask.x : obj.mask.x + width] |= obj.mask.crop
    side = 2 * MARGIN + 1
    rows[cv2.dilate(seen, np.ones((side, side), np.uint8)) > 0] = 0
    return image_message(rows, header, "16UC1" if rows.dtype.kind == "u" else "32FC1")


def _surface(obj: ObjectResult, image: NDArray[np.uint8], view: DepthView, limits: CloudLimits) -> NDArray[np.void]:
    """The points of one object, of type :data:`POINT`."""
    metres = view.metres(obj.mask)
    valid = valid_pixels(obj.mask, metres)
    if not valid.any():
        return np.zeros(0, POINT)
    rows, columns, _ = surface_pixels(valid, metres, metres.size if limits.voxel else limits.points)
    places = points_of(rows, columns, metres[rows, columns], obj.mask, view.rays, view.transform)
    finite = np.isfinite(places).all(axis=1)
    if limits.voxel:
        finite &= _first_of_each_voxel(places, limits.voxel)
    chosen = np.flatnonzero(finite)
    chosen = chosen[:: max(1, -(-chosen.size // limits.points))]
    points = np.zeros(chosen.size, POINT)
    points["x"], points["y"], points["z"] = places[chosen].T
    red, green, blue = image[rows[chosen] + obj.mask.y, columns[chosen] + obj.mask.x].astype(np.uint32).T
    points["rgb"] = (red << 16 | green << 8 | blue).view(np.float32)
    points["object_id"], points["visibility"] = obj.object_id, obj.visibility
    return points


def _first_of_each_voxel(places: NDArray[np.float64], side: float) -> NDArray[np.bool_]:
    """Whether a point ``[N, 3]`` is the first in its cube of a grid."""
    with np.errstate(invalid="ignore"):
        cells = np.floor(np.nan_to_num(places / side)).clip(-(2**20), 2**20 - 1).astype(np.int64) + 2**20
    keys = (cells[:, 0] << 42) | (cells[:, 1] << 21) | cells[:, 2]
    first = np.zeros(len(places), np.bool_)
    first[np.unique(keys, return_index=True)[1]] = True
    return first
