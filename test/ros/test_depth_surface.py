"""The depth under a mask as a place in space: known planes, spheres, wrong pixels, lenses."""

from __future__ import annotations

import math
import re

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from sam2_ros.ros.depth_surface import (
    Calibration,
    PixelRays,
    Surface,
    surface_pixels,
    valid_pixels,
    visible_surface,
)
from sam2_ros.tracking.types import BoolMask, CroppedMask

WIDTH, HEIGHT, FOCAL = 160, 120, 130.0
MATRIX = (FOCAL, 0.0, 79.5, 0.0, FOCAL, 59.5, 0.0, 0.0, 1.0)
RAYS = PixelRays.of(Calibration(WIDTH, HEIGHT, MATRIX))


def rectangle(x0: int, y0: int, x1: int, y1: int) -> BoolMask:
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[y0:y1, x0:x1] = True
    return mask


def surface(mask: BoolMask, depth: NDArray, rays: PixelRays = RAYS, **frame: NDArray) -> Surface:
    """Of a depth image in the mask's size."""
    cropped = CroppedMask.from_full(mask)
    x0, y0, x1, y1 = cropped.box
    crop = depth[y0:y1, x0:x1].astype(np.float32)
    return visible_surface(cropped, valid_pixels(cropped, crop), crop, rays, **frame)


def test_a_plane_lies_where_it_is() -> None:
    """Columns 100 to 139 around 119.5, rows 20 to 39 around 29.5, at 2 m; the percentiles leave out 4 % of the size."""
    found = surface(rectangle(100, 20, 140, 40), np.full((HEIGHT, WIDTH), 2.0))
    np.testing.assert_allclose(found.position, [40 / FOCAL * 2, -30 / FOCAL * 2, 2.0], atol=1e-6)
    np.testing.assert_allclose(found.center, found.position, atol=1e-6)
    np.testing.assert_allclose(found.extent, [39 / FOCAL * 2 * 0.96, 19 / FOCAL * 2 * 0.96, 0.0], rtol=0.06, atol=1e-6)
    assert found.points == 40 * 20


def test_zero_nan_and_infinity_are_no_depth() -> None:
    depth = np.full((HEIGHT, WIDTH), 1.5, np.float32)
    mask = rectangle(60, 40, 80, 60)
    depth[40, 60:80], depth[41, 60:80], depth[42, 60:80], depth[43, 60:80] = 0, np.nan, np.inf, -np.inf
    depth[44, 60] = -1.0
    found = surface(mask, depth)
    assert found.points == 20 * 20 - 4 * 20 - 1
    assert found.position[2] == pytest.approx(1.5)


def test_only_pixels_of_the_object_with_a_depth_count() -> None:
    mask = CroppedMask(np.array([[True, True, True], [True, True, False]]), 0, 0, WIDTH, HEIGHT)
    depth = np.array([[1e-3, 0.0, np.nan], [-1.0, np.inf, 1.0]], np.float32)
    assert valid_pixels(mask, depth).tolist() == [[True, False, False], [False, False, False]]


def test_background_under_the_mask_does_not_move_the_object() -> None:
    """A mask that is too large on every side: a third of its pixels are of the wall behind, or of a post in front."""
    for other in (0.6, 2.5):
        depth = np.full((HEIGHT, WIDTH), other, np.float32)
        depth[rectangle(60, 40, 100, 80)] = np.linspace(0.95, 1.05, 40 * 40).reshape(40, 40).ravel()
        found = surface(rectangle(56, 36, 104, 84), depth)
        assert found.points == 40 * 40
        np.testing.assert_allclose(found.position, [0.0, 0.0, 1.0], atol=0.005)


def test_many_points_are_told_from_a_part_of_them() -> None:
    """64 x 64 pixels are used as they are; from 160 x 120 an evenly spread part gives the same place."""
    random = np.random.default_rng(3)
    depth = 1.0 + random.normal(0, 0.003, (HEIGHT, WIDTH))
    found = surface(rectangle(0, 0, WIDTH, HEIGHT), depth)
    assert found.points > 0.99 * WIDTH * HEIGHT
    np.testing.assert_allclose(found.position, [0, 0, 1], atol=0.02)
    np.testing.assert_allclose(found.extent[:2], [0.96 * WIDTH / FOCAL, 0.96 * HEIGHT / FOCAL], rtol=0.03)


def test_another_frame_has_its_own_axes() -> None:
    """A camera that looks along the other frame's x axis, 1 m above its origin: z forward becomes x, x right -y."""
    rotation = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]], np.float64)
    found = surface(
        rectangle(100, 20, 140, 40), np.full((HEIGHT, WIDTH), 2.0), rotation=rotation, translation=np.array([0, 0, 1.0])
    )
    np.testing.assert_allclose(found.position, [2.0, -40 / FOCAL * 2, 1 + 30 / FOCAL * 2], atol=1e-6)
    assert found.distance == 2.0, "from the camera"
    assert found.extent[0] == pytest.approx(0, abs=1e-6) and found.extent[1] > found.extent[2] > 0


@pytest.mark.parametrize(
    ("model", "coefficients"),
    [("plumb_bob", (-0.2, 0.05, 0.001, -0.002, 0.0)), ("equidistant", (-0.02, 0.01, 0.0, 0.0))],
)
def test_rays_undo_the_lens(model: str, coefficients: tuple[float, ...]) -> None:
    rays = PixelRays.of(Calibration(WIDTH, HEIGHT, MATRIX, coefficients, model))
    picked = [(0, 0), (59, 79), (30, 120), (119, 159)]
    points = np.array([[rays.x[row, column], rays.y[row, column], 1.0] for row, column in picked]).reshape(-1, 1, 3)
    zero, matrix = np.zeros(3), np.reshape(MATRIX, (3, 3))
    project = cv2.fisheye.projectPoints if model == "equidistant" else cv2.projectPoints
    pixels, _ = project(points, zero, zero, matrix, np.array(coefficients))
    np.testing.assert_allclose(np.asarray(pixels).reshape(-1, 2), [(c, r) for r, c in picked], atol=0.01)


def test_what_is_no_calibration_is_refused_with_a_reason() -> None:
    with pytest.raises(ValueError, match="isn't calibrated"):
        PixelRays.of(Calibration(WIDTH, HEIGHT, (0.0,) * 9))
    with pytest.raises(ValueError, match="'division' is not supported; accepted: plumb_bob"):
        PixelRays.of(Calibration(WIDTH, HEIGHT, MATRIX, (0.1,), "division"))


@pytest.mark.parametrize(
    ("model", "coefficients", "reason"),
    [
        ("equidistant", (0.1,) * 5, "'equidistant' came with 5 coefficients; accepted: 4, or rectified"),
        ("plumb_bob", (5.0, 0.0), "'plumb_bob' came with 2 coefficients; accepted: 4, 5, 8, 12, 14"),
        ("plumb_bob", (0.1,) * 10, "came with 10 coefficients"),
        ("rational_polynomial", (0.1,) * 500, "came with 500 coefficients"),
        ("plumb_bob", (0.1, math.nan, 0.0, 0.0, 0.0), "the distortion holds nan; accepted: finite"),
        ("equidistant", (math.inf, 0.0, 0.0, 0.0), "the distortion holds inf"),
    ],
)
def test_an_odd_distortion_is_refused_with_a_reason(model: str, coefficients: tuple[float, ...], reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        PixelRays.of(Calibration(WIDTH, HEIGHT, MATRIX, coefficients, model))


def test_an_intrinsic_matrix_of_finite_numbers_is_asked_for() -> None:
    with pytest.raises(ValueError, match="the intrinsic matrix holds nan"):
        PixelRays.of(Calibration(WIDTH, HEIGHT, (*MATRIX[:2], math.nan, *MATRIX[3:])))


@pytest.mark.parametrize("focal", [(0.0, FOCAL), (FOCAL, 0.0), (-FOCAL, FOCAL), (FOCAL, -FOCAL)])
def test_both_focal_lengths_are_needed(focal: tuple[float, float]) -> None:
    matrix = (focal[0], 0.0, 79.5, 0.0, focal[1], 59.5, 0.0, 0.0, 1.0)
    with pytest.raises(ValueError, match=f"the focal lengths are {focal[0]:g} and {focal[1]:g}: the camera isn't"):
        PixelRays.of(Calibration(WIDTH, HEIGHT, matrix))


@pytest.mark.parametrize(
    ("spread", "off", "belongs"),
    [
        (0.0, 0.0195, True), (0.0, 0.0205, False), (0.0, -0.0205, False),  # of something flat: 2 cm
        (0.1, 0.44, True), (0.1, 0.45, False), (0.1, -0.45, False),  # else three standard deviations, 0.4448 m
    ],
)  # fmt: skip
def test_what_is_far_from_the_median_is_another_surface(spread: float, off: float, belongs: bool) -> None:
    """A third of the pixels are ``spread`` nearer, a third as much farther, and one is ``off``."""
    depth = np.full((HEIGHT, WIDTH), 3.0)
    depth[:, ::3] -= spread
    depth[:, 1::3] += spread
    depth[45, 65] = 3.0 + off
    assert surface(rectangle(60, 40, 81, 61), depth).points == 441 - (not belongs)


@pytest.mark.parametrize("most", [100, 4096, 19199, 19200])
def test_a_part_of_the_pixels_is_spread_evenly(most: int) -> None:
    depth = np.full((HEIGHT, WIDTH), 2.0, np.float32)
    pixels, count = surface_pixels(np.ones((HEIGHT, WIDTH), np.bool_), depth, most)
    assert count == WIDTH * HEIGHT and most / 2 <= pixels.size <= most
    assert len(set(np.diff(pixels))) == 1 and pixels[0] == 0 and pixels[-1] > 0.98 * count


def test_the_box_of_an_object_leaves_its_farthest_points_out() -> None:
    """Two of a hundred on each side; the position is the median."""
    depth = np.full((HEIGHT, WIDTH), 2.0)
    slope = np.linspace(0.0, 0.3, 100)
    depth[50, 10:110] = 2.0 + slope
    found = surface(rectangle(10, 50, 110, 51), depth)
    low, middle, high = np.percentile(2.0 + slope, [2, 50, 98])
    assert found.position[2] == pytest.approx(middle) == found.distance
    assert (found.center[2], found.extent[2]) == (pytest.approx((low + high) / 2), pytest.approx(high - low))
