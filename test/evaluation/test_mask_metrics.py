"""J and F on masks whose values are known, and against the published evaluator."""

import cv2
import numpy as np
import published
import pytest

from sam2_ros.evaluation.clicks import correction, deepest_point
from sam2_ros.evaluation.mask_metrics import boundary_f, boundary_map, jaccard


def box(height: int, width: int, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((height, width), np.bool_)
    mask[y0:y1, x0:x1] = True
    return mask


def test_region_similarity_is_intersection_over_union() -> None:
    a, b = box(10, 10, 0, 0, 4, 4), box(10, 10, 2, 0, 6, 4)
    assert jaccard(a, b) == 8 / 24
    assert jaccard(a, np.zeros_like(a)) == 0.0
    assert jaccard(np.zeros_like(a), np.zeros_like(a)) == 1.0


def test_boundary_is_one_pixel_wide_and_the_image_edge_is_none() -> None:
    edges = boundary_map(box(8, 8, 2, 2, 6, 6))
    assert np.argwhere(edges).min() == 1 and np.argwhere(edges).max() == 5
    assert not edges[2:5, 2:5].any()
    assert not boundary_map(np.ones((5, 7), np.bool_)).any()


def test_boundary_measure_forgives_what_lies_within_the_tolerance() -> None:
    # A diagonal of 500 pixels: boundaries up to 4 pixels apart match.
    a = box(300, 400, 100, 100, 200, 200)
    assert boundary_f(a, box(300, 400, 104, 100, 204, 200)) == 1.0
    assert boundary_f(a, box(300, 400, 105, 100, 205, 200)) < 1.0
    assert boundary_f(a, np.zeros_like(a)) == 0.0
    assert boundary_f(np.zeros_like(a), np.zeros_like(a)) == 1.0


def masks(rng: np.random.Generator, height: int, width: int, kind: str) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    if kind == "blobs":
        for _ in range(3):
            center = (int(rng.integers(width)), int(rng.integers(height)))
            axes = (int(rng.integers(1, width // 3 + 2)), int(rng.integers(1, height // 3 + 2)))
            cv2.ellipse(mask, center, axes, float(rng.integers(180)), 0, 360, 1, -1)
    elif kind == "lines":
        for _ in range(4):
            ends = rng.integers(0, (width, height), (2, 2)).tolist()
            cv2.line(mask, ends[0], ends[1], 1, 1)
    elif kind == "noise":
        mask[:] = rng.random((height, width)) < 0.3
    elif kind == "full":
        mask[:] = 1
    return np.asarray(mask > 0)


@pytest.mark.parametrize("size", [(1, 40), (7, 5), (61, 83), (120, 160), (480, 854), (719, 1283)])
def test_metrics_equal_the_published_evaluator(size: tuple[int, int]) -> None:
    published.load()
    from vos_benchmark.evaluator import Evaluator

    rng = np.random.default_rng(7)
    kinds = ("blobs", "lines", "noise", "full", "empty")
    for kind in kinds:
        for other in kinds:
            predicted, truth = masks(rng, *size, kind), masks(rng, *size, other)
            theirs = Evaluator()
            theirs.objects_in_gt = {1}
            theirs.feed_frame(predicted.astype(np.uint8), truth.astype(np.uint8))
            j, f = theirs.conclude()
            assert jaccard(predicted, truth) == pytest.approx(j[1] / 100, abs=1e-12), (kind, other)
            assert boundary_f(predicted, truth) == pytest.approx(f[1] / 100, abs=1e-12), (kind, other)


def test_the_deepest_point_is_the_middle_of_the_thickest_part() -> None:
    mask = box(60, 80, 10, 20, 31, 41) | box(60, 80, 31, 28, 70, 33)
    assert deepest_point(mask).tolist() == [20.0, 30.0]
    # The image's edge bounds the object as the background does.
    assert deepest_point(np.ones((21, 21), np.bool_)).tolist() == [10.0, 10.0]
    assert deepest_point(box(60, 80, 79, 59, 80, 60)).tolist() == [79.0, 59.0]


def test_a_correction_clicks_the_deeper_error() -> None:
    truth = box(60, 80, 10, 10, 40, 40)
    assert correction(truth, truth) is None
    missed = correction(truth & box(60, 80, 0, 0, 25, 60), truth)
    assert missed is not None and missed[1] == 1
    assert missed[0].tolist() == deepest_point(truth & box(60, 80, 25, 0, 80, 60)).tolist()
    extra = correction(truth | box(60, 80, 55, 10, 76, 31), truth)
    assert extra is not None and (extra[1], extra[0].tolist()) == (0, [65.0, 20.0])
    nothing = correction(np.zeros_like(truth), truth)
    assert nothing is not None and (nothing[1], nothing[0].tolist()) == (1, deepest_point(truth).tolist())
