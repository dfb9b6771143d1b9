"""Which stored frame a prompt's stamp means."""

from __future__ import annotations

import pytest

from sam2_ros.tracking.frame_lookup import find_frame, seconds
from sam2_ros.tracking.types import PromptCode, PromptError

SECOND = 10**9
STORED = [10 * SECOND, 11 * SECOND, 13 * SECOND]


@pytest.mark.parametrize(
    ("stamp", "index"),
    [
        (0, 2),
        (10 * SECOND, 0),
        (10 * SECOND - SECOND // 2, 0),  # by the tolerance of half a second
        (11 * SECOND + SECOND // 2, 1),
        (13 * SECOND + SECOND // 2, 2),
        (10 * SECOND + SECOND // 2, 1),  # the newer of two
    ],
)
def test_the_nearest_frame_within_the_tolerance_is_meant(stamp: int, index: int) -> None:
    assert find_frame(STORED, stamp, 0.5) == index


def test_of_two_frames_at_equal_distance_the_newer_one_is_meant() -> None:
    assert find_frame([10, 20, 30], 25, 1.0) == 2
    assert find_frame([20, 10], 15, 1.0) == 1


@pytest.mark.parametrize(
    ("stored", "stamp", "code", "reason"),
    [
        ([], 5, PromptCode.NO_FRAME, "no frame was processed yet"),
        ([], 0, PromptCode.NO_FRAME, "no frame was processed yet"),
        (STORED, 9 * SECOND, PromptCode.TOO_OLD, "9.000000000 is gone; accepted: 10.000000000 to 13.000000000, give"),
        (
            STORED,
            12 * SECOND,
            PromptCode.NO_FRAME,
            "and the nearest stored one is 1.000 s from it; accepted: at most 0.5",
        ),
        (STORED, 14 * SECOND, PromptCode.NO_FRAME, "accepted: 10.000000000 to 13.000000000, give or take 0.5 s, or 0"),
        ([SECOND], 2 * SECOND, PromptCode.NO_FRAME, "accepted: 1.000000000, the newest, or 0; is the camera running?"),
        (STORED, 10 * SECOND - SECOND // 2 - 1, PromptCode.TOO_OLD, "9.499999999 is gone"),
    ],
)
def test_other_stamps_are_refused_with_what_is_accepted(
    stored: list[int], stamp: int, code: PromptCode, reason: str
) -> None:
    with pytest.raises(PromptError) as raised:
        find_frame(stored, stamp, 0.5)
    assert raised.value.code is code and reason in str(raised.value)


def test_stamps_are_read_as_seconds() -> None:
    assert seconds(1_800_000_000_000_000_007) == "1800000000.000000007"
