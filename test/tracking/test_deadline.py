"""Where frames would miss the deadline, economies are made one by one, and taken back when there is time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from unittest import mock

from small_tracker import box, object_score, run, small_model, stepped

from sam2_ros.tracking import Tracker, TrackerConfig
from sam2_ros.tracking.deadline import CALM, ECONOMIES, JUDGED, Governor, Measures

DEADLINE = 0.1  # s


def after(governor: Governor, frames: int, milliseconds: float) -> tuple[str, ...]:
    for _ in range(frames):
        governor.took(milliseconds)
    return governor.economies


def test_one_economy_after_the_other() -> None:
    governor = Governor(DEADLINE)
    assert after(governor, JUDGED - 1, 150) == ()
    for count in (1, 2, 3, 3):
        assert after(governor, JUDGED, 150) == ECONOMIES[:count]
    assert Measures.at(0) == Measures()
    assert governor.measures == Measures.at(3)


def test_a_single_slow_frame_changes_nothing() -> None:
    governor = Governor(DEADLINE)
    for _ in range(20):
        after(governor, 2, 90)
        assert after(governor, 1, 500) == ()


def test_economies_are_taken_back_last_first() -> None:
    governor = Governor(DEADLINE)
    after(governor, 3 * JUDGED, 150)
    assert after(governor, 10 * CALM, 90) == ECONOMIES, "90 of 100 ms is no spare time"
    for count in (2, 1, 0):
        after(governor, CALM - 1, 20)
        assert after(governor, 1, 20) == ECONOMIES[:count]


def test_does_not_swing_at_the_edge() -> None:
    """With the economy a frame takes 60 ms, without it 120."""
    governor, changes = Governor(DEADLINE), 0
    before: tuple[str, ...] = ()
    for _ in range(2000):
        governor.took(60 if governor.economies else 120)
        changes += governor.economies != before
        before = governor.economies
    assert changes <= 14, "each time it is kept twice as long"


def test_without_a_deadline_nothing_is_economised() -> None:
    assert after(Governor(0.0), 100, 1e6) == ()


def slow(tracker: Tracker, seconds: float) -> Any:
    """The encoder of ``tracker`` takes ``seconds`` longer."""
    encode: Callable[..., Any] = tracker.model.encode_image

    def later(*args: Any) -> Any:
        time.sleep(seconds)
        return encode(*args)

    return mock.patch.object(tracker.model, "encode_image", later)


def test_the_tracker_makes_and_reports_them() -> None:
    tracker = Tracker(small_model(), TrackerConfig(max_objects=2, lost_after=2, search_every=3, deadline=2e-3))
    (one,) = stepped(tracker, [box()])
    sizes, memories = [], []
    preprocess, gather = tracker.model.preprocess, tracker.bank.gather

    def noted(*args: Any) -> Any:
        pixels = preprocess(*args)
        sizes.append(pixels.shape[-1])
        return pixels

    def remembered(*args: Any) -> Any:
        found = gather(*args)
        memories.append((found.tokens.shape[1] - found.num_pointers) // 64)
        return found

    with (
        slow(tracker, 3e-3),
        mock.patch.object(tracker.model, "preprocess", noted),
        mock.patch.object(tracker.bank, "gather", remembered),
    ):
        results = run(tracker, 1, 3 * JUDGED + 2)
    seen = [result.economies for result in results]
    assert seen[0] == () and seen[-1] == ECONOMIES
    assert [seen.index(ECONOMIES[:count]) for count in (1, 2, 3)] == [JUDGED - 1, 2 * JUDGED - 1, 3 * JUDGED - 1]
    assert sizes[0] == 128 and sizes[-1] == 96
    assert memories[2 * JUDGED - 2] == 1 + 6 and memories[-1] == 1 + 2, "fewer frames are attended to"
    assert results[-1].object(one).mask.area > 0, "the object is tracked on"


def test_a_lost_object_rests() -> None:
    tracker = Tracker(small_model(), TrackerConfig(max_objects=2, lost_after=1, search_every=2, deadline=1e-6))
    stepped(tracker, [box()])
    with object_score(tracker.model, -5.0):
        run(tracker, 1, 40)
        with mock.patch.object(tracker.bank, "gather", wraps=tracker.bank.gather) as looked:
            run(tracker, 41, 80)
    assert looked.call_count == 2, "every 20 frames instead of every 2"
