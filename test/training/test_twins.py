"""Clips with twins: exact, and the same for the same seed."""

from __future__ import annotations

import numpy as np

from sam2_ros.training.twins import twins_clip


def test_equal_seeds_give_equal_clips() -> None:
    first, again, other = (twins_clip(seed, 5, 160, 120) for seed in (3, 3, 4))
    assert np.array_equal(first.frames, again.frames) and np.array_equal(first.labels, again.labels)
    assert not np.array_equal(first.frames[0], other.frames[0])


def test_twins_cross_and_part() -> None:
    labels = twins_clip(0, 9, 160, 120).labels
    left = [[float(np.nonzero(label == twin)[1].mean()) for twin in (1, 2)] for label in labels]
    assert left[0][0] < left[0][1] and left[-1][0] > left[-1][1]
    areas = [[np.count_nonzero(label == twin) for twin in (1, 2)] for label in labels]
    assert areas[0][0] == areas[0][1] == areas[-1][0] == areas[-1][1]  # nothing hides them at first and at last
    assert areas[4][0] < areas[4][1] == areas[0][1]  # the second passes before the first
