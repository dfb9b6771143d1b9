"""Where the defaults differ from the official video predictor on purpose (docs/explanation/tracking.md)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from small_tracker import box, object_score, scene, small_model, stepped
from torch import Tensor
from video_reference import (
    TOLERANCE,
    Event,
    Pair,
    back_and_forth,
    build_pair,
    clicks,
    config_for,
    rectangle,
    run_reference,
    run_tracker,
    worst_difference,
)

from sam2_ros.model.sam2 import Sam2Model
from sam2_ros.tracking import EventCode, ObjectState, Prompt, PromptCode, PromptRequest, Tracker, TrackerConfig
from sam2_ros.tracking.mask_parts import masks_of
from sam2_ros.tracking.sights import Sight
from sam2_ros.tracking.trail import Trail
from sam2_ros.tracking.windows import Window


@pytest.fixture(scope="module")
def pair() -> Pair:
    return build_pair("tiny", "2.1", 128)


def correct(tracker: Tracker, object_id: int) -> str:
    answer = tracker.refine(PromptRequest(clicks((60, 60, 1), (20, 20, 0)), object_id))
    assert answer.code is PromptCode.OK, answer.message
    return answer.message


# -- corrections are conditioning frames, and last -----------------------------------------------------------


def test_a_correction_is_a_conditioning_frame(pair: Pair) -> None:
    """As in the official predictor with ``add_all_frames_to_correct_as_cond``, with which it was trained."""
    frames = back_and_forth(16)
    events = (
        Event(0, 1, rectangle(15, 60, 40, 100)),
        Event(4, 1, clicks((40, 80, 1), (90, 30, 0))),
        Event(4, 1, clicks((60, 80, 1))),
        Event(7, 1, clicks((30, 70, 1), (50, 90, 1))),
    )
    ours = run_tracker(pair, frames, events, config_for(True, reference_policy=False))
    plain = run_reference(pair, frames, events, post=True)
    with mock.patch.object(pair.reference, "add_all_frames_to_correct_as_cond", True):
        conditioning = run_reference(pair, frames, events, post=True)
    assert worst_difference(ours, conditioning) <= TOLERANCE
    assert worst_difference(ours, plain) > TOLERANCE


@pytest.mark.parametrize("reference_policy", [False, True])
def test_tracking_never_overwrites_a_correction(reference_policy: bool) -> None:
    tracker = Tracker(small_model(), TrackerConfig(max_objects=1, reference_policy=reference_policy))
    (one,) = stepped(tracker, [box()])
    for frame in range(1, 4):
        tracker.step(scene(frame), frame)
    correct(tracker, one)
    memory = tracker.bank.spatial[0, 1].clone()
    for frame in range(4, 30):
        tracker.step(scene(frame), frame)
    kept = tracker.bank.conditioning_frames[0].tolist()
    assert kept == ([0, -1, -1, -1] if reference_policy else [0, 3, -1, -1])
    if not reference_policy:
        assert memory.any()
        assert torch.equal(tracker.bank.spatial[0, 1], memory)


# -- prompted slots are bounded ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slots", "kept", "released"), [(1, [4], [0, 1, 2, 3]), (2, [0, 4], [1, 2, 3]), (3, [0, 3, 4], [1, 2])]
)
def test_the_first_prompt_stays_and_the_oldest_other_one_goes(slots: int, kept: list[int], released: list[int]) -> None:
    """With a single slot there is no other one, so the first goes."""
    tracker = Tracker(small_model(), TrackerConfig(max_objects=1, prompted_slots=slots))
    (one,) = stepped(tracker, [box()])
    messages, events = [], []
    for frame in range(1, 5):
        tracker.step(scene(frame), frame)
        messages.append(correct(tracker, one))
        events += [change for change in tracker.take_changes() if change.event == EventCode.PROMPT_RELEASED]
    assert sorted(tracker.bank.conditioning_frames[0].tolist()) == kept
    assert [change.reason for change in events] == [f"the prompt of frame {frame} was released" for frame in released]
    named = [frame for frame in released if any(f"its prompt of frame {frame} was released" in m for m in messages)]
    assert named == released
    assert "tracker.prompted_slots" in messages[-1]


# -- ages of prompted pointers are bounded -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "oldest"), [({}, 15), ({"max_pointer_age": 9}, 9), ({"reference_policy": True}, 40)]
)
def test_the_age_of_a_prompted_pointer_is_bounded(options: dict[str, int], oldest: int) -> None:
    """Training saw none older; only the reference policy lets it grow. Recent pointers keep their own ages."""
    model = small_model()
    tracker = Tracker(model, TrackerConfig(max_objects=1, **options))  # type: ignore[arg-type]
    stepped(tracker, [box()])
    for frame in range(1, 40):
        tracker.step(scene(frame), frame)
    seen: list[Tensor] = []
    code = model.pointer_code
    with mock.patch.object(model, "pointer_code", lambda ages: code(seen.append(ages) or ages)):  # type: ignore[func-returns-value]
        tracker.step(scene(40), 40)
    (ages,) = seen
    assert ages.tolist() == [[oldest, *range(1, 16)]]


# -- absence, defaults, endless streams ----------------------------------------------------------------------


@pytest.mark.parametrize("score", [0.0, -0.001, -5.0])
def test_a_score_of_zero_or_less_gives_an_empty_mask(score: float) -> None:
    """The official predictor hands out logits of -1024 instead."""
    model = small_model()
    tracker = Tracker(model, TrackerConfig(max_objects=1))
    stepped(tracker, [box()])
    with object_score(model, score):
        (one,) = tracker.step(scene(1), 1).objects
    assert one.object_score == pytest.approx(score)
    assert one.mask.area == 0 and one.mask.crop.shape == (0, 0) and one.mask.box == (0, 0, 0, 0)
    with object_score(model, 0.001):
        (one,) = tracker.step(scene(2), 2).objects
    assert one.mask.area > 0


def test_the_defaults_of_the_masks(pair: Pair) -> None:
    """Unstable masks give way and prompted memory is binary, as in the official post-processing; holes stay."""
    frames = back_and_forth(6)
    events = (Event(0, 1, clicks((30, 80, 1), (100, 20, 0))),)
    defaults = run_tracker(pair, frames, events, TrackerConfig(max_objects=4))
    assert (
        worst_difference(defaults, run_reference(pair, frames, events, True, num_frames=16, hole_area=0)) <= TOLERANCE
    )
    assert worst_difference(defaults, run_reference(pair, frames, events, False, num_frames=16)) > TOLERANCE


def test_a_stream_has_no_length(pair: Pair) -> None:
    """The official predictor scales pointer ages by the length of clips shorter than 16 frames; a stream never does."""
    frames, events = back_and_forth(10), (Event(0, 1, rectangle(15, 60, 40, 100)),)
    ours = run_tracker(pair, frames, events, config_for(True))
    for num_frames in (16, 1000):
        assert worst_difference(ours, run_reference(pair, frames, events, True, num_frames=num_frames)) <= TOLERANCE
    assert worst_difference(ours, run_reference(pair, frames, events, True, num_frames=10)) > TOLERANCE


def test_bounds_are_as_stated_for_slots_that_were_never_full() -> None:
    """A second prompt on the same frame takes that frame's slot; nothing is released."""
    tracker = Tracker(small_model(), TrackerConfig(max_objects=1, prompted_slots=2))
    (one,) = stepped(tracker, [box()])
    tracker.step(scene(1), 1)
    for _ in range(3):
        correct(tracker, one)
    assert tracker.bank.conditioning_frames[0].tolist() == [0, 1]
    assert not any(change.event == EventCode.PROMPT_RELEASED for change in tracker.take_changes())
    assert np.count_nonzero(tracker.bank.recent_frames[0] == 1) == 0  # and it does not count twice


@pytest.mark.parametrize("reference_policy", [True, False])
def test_strays_are_left_out(reference_policy: bool) -> None:
    tracker = Tracker(small_model(), TrackerConfig(max_objects=1, reference_policy=reference_policy))
    stepped(tracker, [box()])
    (one,) = tracker._objects.values()
    one.trail = Trail().seen(0, (0.1, 0.4, 0.2, 0.5), 0.01)
    drawn = torch.full((1, 1, 100, 100), -3.0)
    drawn[0, 0, 40:50, 10:20] = drawn[0, 0, 40:50, 80:90] = 5.0
    newest = tracker.history.newest
    assert newest is not None
    view = tracker._viewer.whole_view(newest)
    assert tracker._propagation.follows is not reference_policy
    if not reference_policy:
        sight = Sight([one], view, torch.ones(1, dtype=torch.bool), torch.ones(1), masks_of(drawn))
        own = tracker._propagation._own_masks(drawn, sight, None)
        assert int((own.logits > 0).sum()) == 100


@pytest.mark.parametrize("reference_policy", [True, False])
def test_a_small_object_is_seen_through_a_window(reference_policy: bool) -> None:
    config = TrackerConfig(max_objects=1, window="on", reference_policy=reference_policy)
    tracker = Tracker(small_model(), config)
    stepped(tracker, [box(70, 50, 82, 60)])
    height, width = scene(0).shape[:2]
    (one,) = tracker._objects.values()
    assert one.window is not None
    assert (one.window == Window.whole(width, height)) is reference_policy


@pytest.mark.parametrize("reference_policy", [True, False])
def test_a_box_is_believed_more_than_the_memory(reference_policy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory says that the object is hidden; a box says where it is, and the tracked frames are forgotten."""
    remembered: list[torch.Tensor] = []
    with_memory, decode = Sam2Model.with_memory, Sam2Model.decode

    def remembering(model: Sam2Model, *given: Any) -> torch.Tensor:
        remembered.append(with_memory(model, *given))
        return remembered[-1]

    def decoding(model: Sam2Model, conditioned: torch.Tensor, *given: Any) -> Any:
        out = decode(model, conditioned, *given)
        score = -5.0 if any(conditioned is each for each in remembered) else 5.0
        logits = torch.full_like(out.logits, -3.0)
        logits[..., 10:20, 10:20] = 5.0
        return replace(out, logits=logits, object_score=torch.full_like(out.object_score, score))

    monkeypatch.setattr(Sam2Model, "with_memory", remembering)
    monkeypatch.setattr(Sam2Model, "decode", decoding)
    tracker = Tracker(small_model(), TrackerConfig(max_objects=1, reference_policy=reference_policy))
    height, width = scene(0).shape[:2]
    prompt = Prompt(box=np.array([width, height, 2 * width, 2 * height], np.float32) * np.float32(10 / 32))
    assert tracker.model.config.image_size == 128
    tracker.step(scene(0), 0)
    tracker.add([PromptRequest(prompt)])
    for frame in range(1, 4):
        (known,) = tracker.step(scene(frame), frame).objects
        assert known.state is ObjectState.OCCLUDED
    remembered_frames = tracker.bank.recent_frames[0].copy()
    answer = tracker.refine(PromptRequest(prompt, 1)).result
    assert answer is not None and bool(answer.mask.area) is not reference_policy
    assert 0 in tracker.bank.conditioning_frames[0]
    if reference_policy:
        assert (remembered_frames >= 0).any()
    else:
        assert (tracker.bank.recent_frames[0] < 0).all()
