"""Visibility, calibration and identity switches on rows whose answers are known."""

from __future__ import annotations

from typing import Any

import pytest

from sam2_ros.evaluation.identity import count_switches, switches
from sam2_ros.evaluation.presence import calibration, visibility_score
from sam2_ros.evaluation.results import Row, SequenceResult


def row(frame: int, area: int | None, state: str = "visible", visibility: float = 0.9, **values: Any) -> Row:
    base: dict[str, Any] = {
        "object": 1,
        "frame": frame,
        "name": str(frame),
        "prompted": frame == 0,
        "object_score": 1.0,
    }
    base |= {"predicted_iou": 0.9, "area": 100, "j": 1.0, "f": 1.0}
    return Row(**{**base, "state": state, "visibility": visibility, "truth_area": area, **values})


def result(*rows: Row) -> SequenceResult:
    return SequenceResult("clip", 10, 10, len(rows), rows, ())


def test_absent_and_present_frames_are_counted_after_the_prompt() -> None:
    score = visibility_score(
        [
            result(
                row(0, 100),  # the prompt: not counted
                row(1, 100),
                row(2, 4, "occluded", 0.1),  # less than 5 % of the median: neither
                row(3, 0, "occluded", 0.1),
                row(4, 0, "visible", 0.9),  # a false sighting
                row(5, None, "occluded", 0.1),  # no label
                row(6, 5, "lost", 0.0),  # 5 % is present: a false absence
                row(7, 100),
                row(8, 0, "lost", 0.0),  # the last frame counts
            )
        ]
    )
    assert (score.present, score.absent, score.not_counted) == (3, 3, 1)
    assert (score.called_absent, score.absent_found, score.present_found) == (3, 2, 2)
    assert score.absent_precision == pytest.approx(2 / 3) and score.absent_recall == pytest.approx(2 / 3)
    assert score.present_recall == pytest.approx(2 / 3)
    nothing = visibility_score([result(row(0, 100), row(1, 90))])
    assert nothing.absent_precision is None and nothing.absent_recall is None and nothing.present_recall == 1.0


def test_the_least_area_follows_the_median_and_the_option() -> None:
    rows = [row(0, 200), row(1, 200), row(2, 30), row(3, 200)]
    assert visibility_score([result(*rows)]).present == 3
    assert visibility_score([result(*rows)], 0.2).not_counted == 1


def test_calibration_error_is_the_mean_distance_to_the_share() -> None:
    # Ten frames at 0.95, of which eight were true; ten at 0.05, of which one was.
    error, bins = calibration([0.95] * 10 + [0.05] * 10, [True] * 8 + [False] * 2 + [True] + [False] * 9)
    assert error == pytest.approx((0.15 + 0.05) / 2)
    assert [count for _, _, count in bins] == [10, 10]
    assert calibration([1.0, 0.0], [True, False])[0] == 0.0
    assert calibration([], []) == (None, ())


def test_a_switch_is_a_jump_from_one_object_to_another() -> None:
    own: dict[str, Any] = {"j": 0.8, "other": None, "other_iou": 0.0}
    stolen = {"j": 0.1, "other": 2, "other_iou": 0.7}
    third = {"j": 0.0, "other": 3, "other_iou": 0.6}
    weak = {"j": 0.1, "other": 2, "other_iou": 0.4}
    empty = {"j": 0.0, "other": None, "other_iou": 0.0}

    def frames(*values: dict[str, Any]) -> list[Row]:
        return [row(t, 100, **value) for t, value in enumerate(values)]

    assert switches(frames(own, stolen, stolen, own, stolen)) == [1, 4]
    assert switches(frames(own, empty, stolen)) == [2]
    assert switches(frames(own, stolen, third)) == [1, 2]
    assert switches(frames(own, weak, own)) == []
    assert switches(frames(stolen, own)) == []  # it never was on its own before
    assert switches([*frames(own), row(1, None, j=None)]) == []
    other = [row(t, 100, object=2, **value) for t, value in enumerate((own, third))]
    assert count_switches(result(*frames(own, stolen), *other)) == 2


def test_an_absent_object_that_is_rightly_not_shown_is_not_at_home() -> None:
    stolen: dict[str, Any] = {"j": 0.1, "other": 2, "other_iou": 0.7}
    absent: dict[str, Any] = {"j": 1.0}
    assert switches([row(0, 100, **stolen), row(1, 0, **absent), row(2, 100, **stolen)]) == []
    assert switches([row(0, 100), row(1, 0, **absent), row(2, 100, **stolen)]) == [2]
