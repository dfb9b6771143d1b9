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
_AXIS_BITS, _INDEX_BITS = 14, 21  # of the numbers that sort points by their cubes
_MOST_SORTED = 2**_INDEX_BITS
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
    data = array("B")
    for obj in objects:
        if obj.mask.crop.size:
            data.frombytes(_surface(obj, image, view, limits).view(np.uint8).data)
    return PointCloud2(
        header=Header(stamp=header.stamp, frame_id=view.frame), height=1, width=len(data) // POINT.itemsize,
        is_bigendian=False, fields=_FIELDS, point_step=POINT.itemsize, row_step=len(data), data=data, is_dense=True,
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
    pixels, _ = surface_pixels(valid, metres, _MOST_SORTED if limits.voxel else limits.points)
    places = points_of(pixels, metres, obj.mask, view.rays, view.transform).astype(np.float32)
    chosen = np.flatnonzero(np.isfinite(places).all(axis=0))
    if limits.voxel:
        chosen = chosen[_one_of_each_voxel(places.take(chosen, axis=1), limits.voxel)]
    chosen = chosen[:: max(1, -(-chosen.size // limits.points))]
    points = np.zeros(chosen.size, POINT)
    points["x"], points["y"], points["z"] = places.take(chosen, axis=1)
    height, width = valid.shape
    crop = image[obj.mask.y : obj.mask.y + height, obj.mask.x : obj.mask.x + width]
    packed = cv2.cvtColor(crop, cv2.COLOR_RGB2BGRA).view("<u4").ravel()
    points["rgb"] = (packed[pixels[chosen]] & 0xFFFFFF).view("<f4")  # without alpha, it is never NaN
    points["object_id"], points["visibility"] = obj.object_id, obj.visibility
    return points


def _one_of_each_voxel(places: NDArray[np.float32], side: float) -> NDArray[np.intp]:
    """Indices of the first one among the points ``[3, N]`` in each cube of a grid, in the order of the cubes.

    Cubes of less than a 16,000th of what they fill are larger than ``side``, so that their numbers have few bits.
    """
    if not places.size:
        return np.zeros(0, np.intp)
    cells = places.astype(np.float64)
    cells /= max(side, np.ptp(cells, axis=1).max() / (2**_AXIS_BITS - 2))
    cells -= np.floor(cells.min(axis=1, keepdims=True))
    x, y, z = cells.astype(np.int64)
    keys = (x << _AXIS_BITS | y) << _AXIS_BITS | z
    keys = np.sort(keys << _INDEX_BITS | np.arange(keys.size))  # in place of np.unique: one sort of plain numbers
    first = np.concatenate(([True], np.diff(keys >> _INDEX_BITS) > 0))
    return keys[first] & (_MOST_SORTED - 1)
