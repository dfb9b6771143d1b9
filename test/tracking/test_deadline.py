"""Where frames would miss the deadline, load is shed step by step, and the steps are taken back when there is time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from unittest import mock

from small_tracker import box, object_score, run, small_model, stepped

from sam2_ros.tracking import Tracker, TrackerConfig
from sam2_ros.tracking.deadline import CALM, JUDGED, SHEDDING_STEPS, LoadShedder, Workload

DEADLINE = 0.1  # s


def after(shedder: LoadShedder, frames: int, milliseconds: float) -> tuple[str, ...]:
    for _ in range(frames):
        shedder.took(milliseconds)
    return SHEDDING_STEPS[: shedder.level]


def test_one_step_after_the_other() -> None:
    shedder = LoadShedder(DEADLINE)
    assert after(shedder, JUDGED - 1, 150) == ()
    for count in (1, 2, 3, 3):
        assert after(shedder, JUDGED, 150) == SHEDDING_STEPS[:count]
    assert Workload.at(0) == Workload()
    assert shedder.level == 3


def test_no_more_steps_than_there_are() -> None:
    """An exported network has one input size."""
    shedder = LoadShedder(DEADLINE, steps=2)
    assert after(shedder, 10 * JUDGED, 150) == SHEDDING_STEPS[:2]


def test_a_single_slow_frame_changes_nothing() -> None:
    shedder = LoadShedder(DEADLINE)
    for _ in range(20):
        after(shedder, 2, 90)
        assert after(shedder, 1, 500) == ()


def test_steps_are_taken_back_last_first() -> None:
    shedder = LoadShedder(DEADLINE)
    after(shedder, 3 * JUDGED, 150)
    assert after(shedder, 10 * CALM, 90) == SHEDDING_STEPS, "90 of 100 ms is no spare time"
    for count in (2, 1, 0):
        after(shedder, CALM - 1, 20)
        assert after(shedder, 1, 20) == SHEDDING_STEPS[:count]


def test_does_not_swing_at_the_edge() -> None:
    """With a step a frame takes 60 ms, without it 120."""
    shedder, changes = LoadShedder(DEADLINE), 0
    before = 0
    for _ in range(2000):
        shedder.took(60 if shedder.level else 120)
        changes += shedder.level != before
        before = shedder.level
    assert changes <= 14, "each time the step stays twice as long"


def test_a_frame_of_exactly_the_deadline_is_in_time_and_of_its_spare_share_not_fast() -> None:
    shedder = LoadShedder(DEADLINE)
    assert after(shedder, 10 * JUDGED, 100) == ()
    assert [len(after(shedder, 1, took)) for took in (101, 50, 101, 50, 101)] == [0, 0, 0, 0, 1], "three of five"
    assert after(shedder, 3 * CALM, 70) == SHEDDING_STEPS[:1]
    assert after(shedder, CALM - 1, 69.9) == SHEDDING_STEPS[:1] and after(shedder, 1, 69.9) == ()


def released(frames: int, busy: int = 0) -> int:
    """Fast frames until a step is taken back that was needed again ``busy`` and three frames after it was taken back
    once, after ``frames`` fast ones."""
    shedder = LoadShedder(DEADLINE)
    for _ in range(frames):
        after(shedder, JUDGED, 150)
        while shedder.level:
            shedder.took(20)
    after(shedder, busy, 90)
    assert after(shedder, JUDGED, 150) == SHEDDING_STEPS[:1]
    count = 0
    while shedder.level:
        shedder.took(20)
        count += 1
    return count


def test_a_step_that_is_needed_again_soon_stays_twice_as_long() -> None:
    assert [released(times) for times in range(8)] == [30, 60, 120, 240, 480, 960, 960, 960]
    # Soon: within twice as many frames as the step was to stay.
    assert [released(1, busy) for busy in (56, 57)] == [60, 30]
    assert [released(2, busy) for busy in (116, 117)] == [120, 30]


def test_what_each_step_sheds() -> None:
    assert [Workload.at(level) for level in range(4)] == [
        Workload(1, None, 1.0), Workload(10, None, 1.0), Workload(10, 2, 1.0), Workload(10, 2, 0.7),
    ]  # fmt: skip


def test_without_a_deadline_nothing_is_shed() -> None:
    assert after(LoadShedder(0.0), 100, 1e6) == ()


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
    seen = [result.load_shedding for result in results]
    assert seen[0] == () and seen[-1] == SHEDDING_STEPS
    assert [seen.index(SHEDDING_STEPS[:count]) for count in (1, 2, 3)] == [JUDGED - 1, 2 * JUDGED - 1, 3 * JUDGED - 1]
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


def test_frames_of_an_older_level_do_not_count() -> None:
    """Frames that were encoded ahead, before the step was taken."""
    shedder = LoadShedder(DEADLINE)
    after(shedder, JUDGED, 150)
    for _ in range(2 * JUDGED):
        shedder.took(150, level=0)
    assert shedder.level == 1
    for _ in range(JUDGED):
        shedder.took(150, level=1)
    assert shedder.level == 2
