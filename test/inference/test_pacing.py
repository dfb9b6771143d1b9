"""When a free engine waits for the next image."""

from __future__ import annotations

import pytest

from sam2_ros.inference.pacing import Pace, seconds_to_wait


@pytest.mark.parametrize(
    ("age", "latency", "wait"),
    [
        (0.098, 0.195, 0.002),  # after its answer, the next image will have waited for 0.093 s only
        (0.05, 0.195, 0.0),  # too long to wait
        (0.098, 0.01, 0.0),  # an engine this fast loses too much of its rate
        (0.0, 0.195, 0.0),  # the image is new
        (0.09, 0.105, 0.0),  # after its answer, the next image will have waited no shorter
        (0.3, 0.195, 0.0),  # the camera has stopped
    ],
)
def test_it_waits_only_briefly_and_where_that_makes_masks_newer(age: float, latency: float, wait: float) -> None:
    assert seconds_to_wait(age, latency, 0.1) == pytest.approx(wait)


def test_period_and_latency_are_learned() -> None:
    pace, period = Pace(), 100_000_000
    for number in range(1, 10):
        pace.arrived(number * period)
        pace.processed(195_000_000)
        assert pace.seconds_to_wait(number * period + 98_000_000) == 0, "not known yet"
    pace.arrived(10 * period)
    assert pace.seconds_to_wait(10 * period + 98_000_000) == pytest.approx(0.002)
    pace.processed(10_000_000)
    assert pace.seconds_to_wait(10 * period + 98_000_000) == 0
