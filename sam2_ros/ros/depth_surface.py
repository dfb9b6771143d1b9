"""The position and extent of an object from the depth under its mask, by robust statistics. Free of ROS.

Coordinates are in the camera's optical frame (REP-103: x right, y down, z forward), metres.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from sam2_ros.tracking.types import BoolMask, CroppedMask

Pixels = NDArray[np.intp]
Transform = tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]  # rotation and translation; None: as it is

_MAD_TO_SIGMA = 1.4826  # of a normal distribution
_OUTLIER_SIGMAS = 3.0
_LEAST_TOLERANCE = 0.02  # metres: smaller deviations are no outliers, because a flat object has no spread
_EXTENT_PERCENTILES = (2.0, 98.0)
_ENOUGH_POINTS = 4096  # of more points, an evenly spread part is used
# How many coefficients each lens model may have, as OpenCV reads them.
_PINHOLE = (4, 5, 8, 12, 14)
_COEFFICIENTS = {"": _PINHOLE, "plumb_bob": _PINHOLE, "rational_polynomial": _PINHOLE, "equidistant": (4,)}


@dataclass(frozen=True)
class Calibration:
    """A pinhole camera as ``sensor_msgs/CameraInfo`` describes it.

    ``matrix`` is the intrinsic matrix K, row by row; ``distortion`` the coefficients D of ``model`` (``plumb_bob`` and
    ``rational_polynomial`` as OpenCV orders them, ``equidistant`` for a fisheye lens). All zero: no distortion.
    """

    width: int
    height: int
    matrix: tuple[float, ...]
    distortion: tuple[float, ...] = ()
    model: str = ""


@dataclass(frozen=True)
class PixelRays:
    """Where the ray of every pixel's centre meets the plane z = 1: ``float32 [H, W]`` each."""

    x: NDArray[np.float32]
    y: NDArray[np.float32]

    @classmethod
    def of(cls, calibration: Calibration) -> PixelRays:
        """
        Raises:
            ValueError: the camera is not calibrated, a number is not finite, or the lens model is not supported.
        """
        matrix = np.asarray(calibration.matrix, np.float64).reshape(3, 3)
        distortion = np.asarray(calibration.distortion, np.float64)
        for name, numbers in (("the intrinsic matrix", matrix), ("the distortion", distortion)):
            if not np.isfinite(numbers).all():
                raise ValueError(f"{name} holds {numbers[~np.isfinite(numbers)][0]}; accepted: finite numbers")
        if not (matrix[0, 0] > 0 and matrix[1, 1] > 0):
            raise ValueError(
                f"the focal lengths are {matrix[0, 0]:g} and {matrix[1, 1]:g}: the camera isn't calibrated"
            )
        bent = bool(distortion.any())
        if bent and calibration.model not in _COEFFICIENTS:
            raise ValueError(
                f"distortion model '{calibration.model}' is not supported; accepted: plumb_bob, rational_polynomial, "
                "equidistant, or rectified images"
            )
        if bent and distortion.size not in (counts := _COEFFICIENTS[calibration.model]):
            raise ValueError(
                f"distortion model '{calibration.model}' came with {distortion.size} coefficients; accepted: "
                f"{', '.join(map(str, counts))}, or rectified images"
            )
        shape = (calibration.height, calibration.width)
        pixels = np.indices(shape, np.float64)[::-1].reshape(2, -1).T[:, None]  # [H * W, 1, 2], x and y
        fisheye = bent and calibration.model == "equidistant"
        undistort = cv2.fisheye.undistortPoints if fisheye else cv2.undistortPoints
        with np.errstate(over="ignore", invalid="ignore"):  # positions that are no numbers are refused later
            rays = np.asarray(undistort(pixels, matrix, distortion if bent else None), np.float32)
        return cls(*np.ascontiguousarray(rays[:, 0].T).reshape(2, *shape))


@dataclass(frozen=True)
class Surface:
    """The visible surface of an object, along the axes of the frame of its points."""

    position: NDArray[np.float64]  # [3] metres, median of each coordinate
    center: NDArray[np.float64]  # [3] metres, of the box that extent describes
    extent: NDArray[np.float64]  # [3] metres, from the 2nd to the 98th percentile of each coordinate
    points: int  # valid depth pixels, without outliers
    distance: float  # metres along the optical axis, median


def valid_pixels(mask: CroppedMask, depth: NDArray[np.float32]) -> BoolMask:
    """The object's pixels in a mask's crop that have a finite, positive depth in metres: ``bool [h, w]``."""
    with np.errstate(invalid="ignore"):
        return np.asarray(mask.crop & np.isfinite(depth) & (depth > 0))


def visible_surface(
    mask: CroppedMask,
    valid: BoolMask,
    depth: NDArray[np.float32],
    rays: PixelRays,
    rotation: NDArray[np.float64] | None = None,
    translation: NDArray[np.float64] | None = None,
) -> Surface:
    """The surface under a mask, without pixels whose depth is far from the median, as at the mask's border.

    Far is more than 2 cm and more than three standard deviations, estimated from the median absolute deviation.

    Args:
        mask: in the size of the depth image.
        valid: ``[h, w]``, the pixels of the mask's crop to use; at least one.
        depth: ``[h, w]``, metres along the optical axis.
        rays: of the whole image.
        rotation, translation: ``[3, 3]`` and ``[3]``: a point p becomes ``rotation @ p + translation``.
    """
    pixels, count = surface_pixels(valid, depth, _ENOUGH_POINTS)
    points = points_of(pixels, depth, mask, rays, (rotation, translation))
    low, middle, high = np.percentile(points, [_EXTENT_PERCENTILES[0], 50.0, _EXTENT_PERCENTILES[1]], axis=1)
    return Surface(middle, (low + high) / 2, high - low, count, float(np.median(depth.ravel()[pixels])))


def surface_pixels(valid: BoolMask, depth: NDArray[np.float32], most: int) -> tuple[Pixels, int]:
    """The crop's pixels that belong to one surface, counted row by row, and how many there are.

    Args:
        valid: ``[h, w]``, at least one.
        depth: ``[h, w]``, metres.
        most: of more pixels, an evenly spread part is returned.
    """
    pixels = np.flatnonzero(valid)
    z = depth.ravel()[pixels]
    some = z[:: -(-z.size // _ENOUGH_POINTS)]
    median = np.median(some)
    deviation = float(np.median(np.abs(some - median)))
    near = np.flatnonzero(np.abs(z - median) <= max(_OUTLIER_SIGMAS * _MAD_TO_SIGMA * deviation, _LEAST_TOLERANCE))
    return pixels[near[:: -(-near.size // most)]], near.size


def points_of(
    pixels: Pixels, depth: NDArray[np.float32], mask: CroppedMask, rays: PixelRays, transform: Transform
) -> NDArray[np.float64]:
    """Pixels of a mask's crop, counted row by row, in space: ``[3, N]`` metres.

    Args:
        depth: of the crop, ``[h, w]`` metres.
        rays: of the whole image.
    """
    width = mask.crop.shape[1]
    in_image = pixels + pixels // width * (mask.width - width) + (mask.y * mask.width + mask.x)
    points = np.empty((3, pixels.size))
    points[2] = depth.ravel()[pixels]
    for slopes, axis in ((rays.x, points[0]), (rays.y, points[1])):
        np.multiply(slopes.ravel()[in_image], points[2], out=axis)
    rotation, translation = transform
    return points if rotation is None or translation is None else rotation @ points + translation[:, None]
