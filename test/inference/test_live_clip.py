"""When images come and answers are ready, by hand-worked timelines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest

from sam2_ros.evaluation.mask_metrics import jaccard
from sam2_ros.inference.clip_tracker import ClipTracker, Tracked
from sam2_ros.inference.live_clip import LiveClip, LiveFrame
from sam2_ros.inference.null import NullBackend
from sam2_ros.media.frame_sources import Frame
from sam2_ros.media.prompts_file import FramePrompt
from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.types import CroppedMask, ObjectState, Prompt

SIZE = (48, 64)  # height, width


def frames(count: int) -> list[Frame]:
    """A square that moves right by 2 pixels an image, on noise that stands."""
    made = []
    noise = np.random.default_rng(3).integers(60, 110, (*SIZE, 3), np.uint8)
    for index in range(count):
        rgb = noise.copy()
        rgb[16:32, 8 + 2 * index : 24 + 2 * index] = noise[:16, :16] + 110
        made.append(Frame(index, f"{index:05d}", 0, rgb))
    return made


def square(index: int) -> np.ndarray:
    mask = np.zeros(SIZE, np.bool_)
    mask[16:32, 8 + 2 * index : 24 + 2 * index] = True
    return mask


def play(
    count: int, latency: float, deadline: float | None = None, prompts: Sequence[int] = (0,), kind: str = "mask"
) -> tuple[LiveClip, list[LiveFrame]]:
    """``count`` images, ten a second; one object prompted on each of the images ``prompts``, by its mask or box."""

    def prompt(index: int) -> Prompt:
        mask = square(index)
        box = np.array(CroppedMask.from_full(mask).box, np.float32)
        return Prompt(mask=mask) if kind == "mask" else Prompt(box=box)

    wanted = [FramePrompt(index, number, prompt(index)) for number, index in enumerate(prompts, 1)]
    clip = LiveClip(ClipTracker(NullBackend(TrackerConfig(max_objects=4)), wanted), 10.0, latency, deadline)
    return clip, list(clip.run(frames(count)))


def worked_on(clip: LiveClip) -> list[int]:
    return [answer.frame.index for answer in clip.answers]


def known(shown: Sequence[LiveFrame]) -> list[int | None]:
    """For each image the image of the newest answer at its deadline."""
    return [live.network.frame.index if live.network else None for live in shown]


def carried_from(shown: Sequence[LiveFrame]) -> list[int | None]:
    return [round(live.carried.network_stamp / 1e8) if live.carried else None for live in shown]


@pytest.mark.parametrize(
    ("latency", "deadline", "worked", "at_deadline", "at_arrival"),
    [
        # Ready in time: every image is worked on; its own mask is there at the deadline, the one before on arrival.
        (0.05, 0.1, [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5], [None, 0, 1, 2, 3, 4]),
        (0.05, 0.0, [0, 1, 2, 3, 4, 5], [None, 0, 1, 2, 3, 4], [None, 0, 1, 2, 3, 4]),
        # Two periods exactly: the image that comes when the engine is free is taken. Answers at 0.2, 0.4.
        (0.2, 0.1, [0, 2, 4], [None, 0, 0, 2, 2, 4], [None, None, 0, 0, 2, 2]),
        # 0.15 s: image 1 waits from 0.1 to 0.15, is ready at 0.3; 3 comes then, is ready at 0.45; then 4 waits.
        (0.15, 0.0, [0, 1, 3, 4], [None, None, 0, 1, 1, 3], [None, None, 0, 1, 1, 3]),
        # 0.199 s: image 1 has waited for 0.099 s, and image 2 comes a millisecond later.
        (0.199, 0.0, [0, 2, 4], [None, None, 0, 0, 2, 2], [None, None, 0, 0, 2, 2]),
        # Slower than the clip: one answer only, at 0.45.
        (0.45, 0.1, [0, 4], [None, None, None, None, 0, 0], [None, None, None, None, None, 0]),
        # No time at all.
        (0.0, 0.0, [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5], [None, 0, 1, 2, 3, 4]),
    ],
)
def test_timeline(
    latency: float, deadline: float, worked: list[int], at_deadline: list[int | None], at_arrival: list[int | None]
) -> None:
    clip, shown = play(6, latency, deadline, kind="box")
    assert [live.frame.index for live in shown] == list(range(6))
    assert worked_on(clip) == worked
    assert known(shown) == at_deadline
    assert carried_from(shown) == at_arrival


def test_an_engine_without_a_given_latency_is_waited_for_by_its_last_one() -> None:
    """0.19 s: image 1 has waited for 0.09 s when the engine is free, and image 2 comes 10 ms later."""

    class Timed(ClipTracker):
        def run(self, frames: Iterable[Frame]) -> Iterator[Tracked]:
            yield from (replace(tracked, seconds=0.19) for tracked in super().run(frames))

    engine = Timed(NullBackend(TrackerConfig(max_objects=1)), [FramePrompt(0, 1, Prompt(mask=square(0)))])
    clip = LiveClip(engine, 10.0)
    list(clip.run(frames(7)))
    assert worked_on(clip) == [0, 2, 4, 6]


def test_the_deadline_is_one_period_unless_it_is_given() -> None:
    assert known(play(4, 0.08)[1]) == known(play(4, 0.08, 0.1)[1]) == [0, 1, 2, 3]


def test_an_image_with_a_prompt_is_worked_on_although_newer_ones_come() -> None:
    clip, shown = play(12, 0.35, prompts=(0, 5))
    assert worked_on(clip) == [0, 3, 5, 10]
    assert [len(live.network.result.objects) if live.network else 0 for live in shown][-3:] == [1, 2, 2]


def test_the_carried_mask_follows_the_square_that_the_network_saw() -> None:
    _, shown = play(4, 0.2, 0.0)
    last = shown[-1]
    assert last.carried is not None and last.network is not None
    assert (last.network.frame.index, last.carried.frames) == (0, 3)
    assert jaccard(last.network.result.objects[0].mask.full(), square(3)) < 0.5
    assert jaccard(last.carried.result.objects[0].mask.full(), square(3)) > 0.85


def test_the_mask_of_a_prompt_is_carried_before_the_first_answer() -> None:
    _, shown = play(12, 0.35, 0.0, prompts=(0, 5))
    for live in shown:
        index = live.frame.index
        assert live.carried is not None
        squares = [obj.mask.full() for obj in live.carried.result.objects]
        assert len(squares) == (1 if index < 5 else 2)
        if index != 4:  # the engine, which holds masks still, answers for the first one after 0.35 s
            assert jaccard(squares[-1], square(index)) > 0.8, index
    assert shown[0].carried is not None and shown[0].network is None
    (obj,) = shown[0].carried.result.objects
    assert (obj.state, obj.object_score) == (ObjectState.VISIBLE, 0.0)
    assert obj.visibility == obj.predicted_iou == 1.0, "a mask of the user's own"
    assert not play(3, 0.35, 0.0, kind="box")[1][-1].carried, "what a box means is for the network to say"


def test_equal_runs_give_equal_masks() -> None:
    once, again = play(8, 0.2)[1], play(8, 0.2)[1]
    for a, b in zip(once, again, strict=True):
        assert (a.carried is None) == (b.carried is None)
        if a.carried and b.carried:
            for one, other in zip(a.carried.result.objects, b.carried.result.objects, strict=True):
                assert np.array_equal(one.mask.full(), other.mask.full())
