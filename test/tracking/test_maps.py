"""Maps are resampled alike by NumPy and by PyTorch."""

from __future__ import annotations

import pytest
from both_kinds import check

from sam2_ros.tracking import maps as of_maps


@pytest.mark.parametrize("size", [(64, 64), (19, 40), (5, 3), (8, 10)])
@pytest.mark.parametrize("antialias", [False, True])
def test_resized(size: tuple[int, int], antialias: bool) -> None:
    check(lambda maps: of_maps.resized(maps, *size, antialias=antialias), 2, 3, 12, 26, tolerance=1e-5)


@pytest.mark.parametrize("side", [1, 5, 8, 24])
def test_averaged(side: int) -> None:
    check(lambda maps: of_maps.averaged(maps, side), 2, 1, 24, 24)
    check(lambda maps: of_maps.averaged(maps, side), 3, 24, 30)


@pytest.mark.parametrize(
    ("scale", "shift"), [((0.5, 0.25), (0.1, -0.4)), ((2.0, 1.5), (0.3, 0.7)), ((1.0, 1.0), (0.0, 0.0))]
)
def test_sampled(scale: tuple[float, float], shift: tuple[float, float]) -> None:
    check(lambda maps: of_maps.sampled(maps, scale, shift, 20), 1, 2, 16, 24, tolerance=1e-5)
