"""Velocities from positions: even motion, noise that is as large as it is said to be, gaps, jumps, and clocks."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from sam2_ros.ros.motion_filter import (
    ACCELERATION,
    HOLD,
    LEAST_ERROR,
    MOST_OUTLIERS,
    RELATIVE_ERROR,
    Measurement,
    Motion,
    MotionFilters,
)

PERIOD = 50_000_000  # ns
START = 1_700_000_000_000_000_000
SIZE = 0.1  # metres
VELOCITY = np.array([0.3, -0.1, 0.05])


def place(frame: float) -> NDArray[np.float64]:
    return np.array([0.1, 0.2, 0.5]) + VELOCITY * frame * PERIOD / 1e9


def step(
    filters: MotionFilters, frame: int, position: NDArray[np.float64] | None, living: bool = True, area: float = 900.0
) -> Motion | None:
    seen = {} if position is None else {7: Measurement(position, SIZE, area)}
    return filters.step(START + frame * PERIOD, "camera" if seen else "", seen, [7] if living else []).get(7)


def followed(frames: int) -> tuple[MotionFilters, Motion]:
    filters = MotionFilters()
    motion = None
    for frame in range(frames):
        motion = step(filters, frame, place(frame))
    assert motion is not None
    return filters, motion


def test_even_motion_is_found_and_the_first_position_has_no_velocity() -> None:
    filters = MotionFilters()
    assert step(filters, 0, place(0)) is None
    assert step(filters, 1, place(1)) is not None
    _, motion = followed(30)
    assert motion.frame == "camera"
    np.testing.assert_allclose(motion.velocity, VELOCITY, atol=1e-3)
    np.testing.assert_allclose(motion.position, place(29), atol=1e-4)


def test_errors_are_as_large_as_the_covariance_says() -> None:
    """Random motions of the assumed kind: the normalised squared error of six numbers is 6 in the mean."""
    rng = np.random.default_rng(0)
    seconds, errors = PERIOD / 1e9, []
    noise = ACCELERATION * np.array([[seconds**3 / 3, seconds**2 / 2], [seconds**2 / 2, seconds]])
    for _ in range(60):
        filters, state = MotionFilters(), np.stack([[0.0, 0.0, 0.5], rng.normal(0, 0.5, 3)])
        for frame in range(40):
            deviation = max(LEAST_ERROR, RELATIVE_ERROR * np.linalg.norm(state[0]))
            motion = step(filters, frame, state[0] + rng.normal(0, deviation, 3))
            if motion is not None and frame >= 5:
                error = np.concatenate([state[0] - motion.position, state[1] - motion.velocity])
                errors.append(error @ np.linalg.solve(motion.covariance, error))
            state = np.array([[1, seconds], [0, 1]]) @ state + np.linalg.cholesky(noise) @ rng.normal(0, 1, (2, 3))
    assert 5.0 < np.mean(errors) < 7.0


def test_a_hidden_object_goes_on_for_a_while_and_less_and_less_is_known() -> None:
    filters, before = followed(30)
    last = round(HOLD * 1e9 / PERIOD)
    for frame in range(30, 30 + last - 1):
        motion = step(filters, frame, None)
        assert motion is not None and motion.covariance[0, 0] > before.covariance[0, 0]
        before = motion
    np.testing.assert_allclose(before.position, place(28 + last), atol=5e-3)
    assert step(filters, 31 + last, None) is None
    assert step(filters, 32 + last, place(0)) is None, "a new filter, which has one position"


def test_a_wrong_position_is_left_out_and_a_jump_is_believed_when_it_lasts() -> None:
    filters, _ = followed(30)
    motion = step(filters, 30, place(30) + 1.0)
    assert motion is not None
    np.testing.assert_allclose(motion.position, place(30), atol=2e-3)
    motion = step(filters, 31, place(31))
    assert motion is not None
    np.testing.assert_allclose(motion.velocity, VELOCITY, atol=5e-3)
    for frame in range(32, 32 + MOST_OUTLIERS):
        motion = step(filters, frame, place(frame) + 1.0)
    assert motion is None, "it begins anew"
    for frame in range(32 + MOST_OUTLIERS, 60):
        motion = step(filters, frame, place(frame) + 1.0)
    assert motion is not None
    np.testing.assert_allclose(motion.position, place(59) + 1.0, atol=1e-3)


def test_the_part_beside_an_arm_does_not_drag_the_object_along() -> None:
    """An arm goes over it, and the middle of what is left moves to the right by up to 4 cm."""
    errors = []
    for area in (900.0, None):
        filters, motion = followed(30)
        for frame in range(30, 38):
            hidden = (frame - 29) / 10
            shifted = place(frame) + np.array([0.05 * hidden, 0, 0])
            moved = step(filters, frame, shifted, area=area or 900 * (1 - hidden))
            assert moved is not None
            motion = moved
        errors.append(abs(motion.velocity[0] - VELOCITY[0]))
    assert errors[1] < errors[0] / 2


def test_a_frame_that_comes_again_changes_nothing() -> None:
    filters, motion = followed(30)
    again = step(filters, 29, place(29) + 0.01)
    assert again is not None
    np.testing.assert_array_equal(again.position, motion.position)


@pytest.mark.parametrize("change", ["time goes back", "another frame", "removed"])
def test_what_begins_anew(change: str) -> None:
    filters, _ = followed(30)
    if change == "time goes back":
        assert step(filters, 10, place(10)) is None
    elif change == "another frame":
        assert not filters.step(START + 30 * PERIOD, "map", {7: Measurement(place(30), SIZE, 900.0)}, [7])
    else:
        assert step(filters, 30, None, living=False) is None
        assert step(filters, 31, place(31)) is None
