"""Late prompts: the result is as if they had come in time, and other objects do not change."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from sam2_reference import difference
from small_tracker import add, box, click, logits, rectangle, run, scene, small_model, stepped

from sam2_ros.inference import window_side
from sam2_ros.model import HIERA, ModelConfig, Sam2Model
from sam2_ros.model.checkpoint import read_checkpoint
from sam2_ros.model.weight_files import EMBEDDED
from sam2_ros.tracking import ObjectState, Prompt, PromptCode, PromptRequest, Tracker, TrackerConfig
from sam2_ros.tracking.history import most_bytes

SAME = 1e-4  # of max(1, greatest logit); a batch of another size rounds differently
K = 8  # stored frames before the newest
LATE = [1, 5, K - 1, K]
SECOND = 1_000_000_000
NOW = 12  # the newest frame when the late prompt comes; the object's own first prompt is on frame 1


def tracker_of(model: Sam2Model | None = None, **options: object) -> Tracker:
    settings = {"max_objects": 4, "history": K, "history_tolerance": 0.0, **options}
    return Tracker(model or small_model(), TrackerConfig(**settings))  # type: ignore[arg-type]


def play(tracker: Tracker, first: int, last: int) -> None:
    """Frames stamped with their number in seconds, from 1 s on."""
    for frame in range(first, last + 1):
        tracker.step(scene(frame), stamp(frame))


def stamp(frame: int) -> int:
    return (frame + 1) * SECOND


def agree(late: Tracker, in_time: Tracker, object_id: int, other_id: int | None = None) -> None:
    """Both give the same for the object, on this frame and the next ten, beyond every memory of the late prompt."""
    other_id = other_id or object_id
    for frame in range(NOW + 1, NOW + 11):
        assert difference(logits(late, object_id), logits(in_time, other_id)) <= SAME
        ours, theirs = late._objects[object_id], in_time._objects[other_id]
        assert ours.mask is not None and theirs.mask is not None
        assert np.count_nonzero(ours.mask.full() != theirs.mask.full()) <= 2  # a logit of zero, up to rounding
        assert ours.object_score == pytest.approx(theirs.object_score, abs=SAME)
        assert (ours.added_frame, ours.prompted) == (theirs.added_frame, theirs.prompted)
        areas = (ours.presence.areas, theirs.presence.areas)
        assert areas[0] == pytest.approx(areas[1], abs=1e-2)
        equal = {"areas": (), "prompted_area": 0.0}
        assert replace(ours.presence, **equal) == replace(theirs.presence, **equal)  # type: ignore[arg-type]
        play(late, frame, frame)
        play(in_time, frame, frame)


# -- equality with prompts in time ---------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", [box(), click(90, 40), rectangle(60, 15, 90, 45)], ids=["box", "click", "mask"])
@pytest.mark.parametrize("late", LATE)
def test_a_late_new_object_is_as_in_time(late: int, prompt: Prompt) -> None:
    delayed, in_time = tracker_of(), tracker_of()
    play(delayed, 0, NOW)
    (answer,) = delayed.add([PromptRequest(prompt)], stamp(NOW - late))
    assert answer.success, answer.message
    play(in_time, 0, NOW - late)
    (expected,) = in_time.add([PromptRequest(prompt)])
    play(in_time, NOW - late + 1, NOW)
    assert (answer.applied_stamp, answer.prompt_age, answer.frames_caught_up) == (stamp(NOW - late), late, late)
    assert answer.stamp_difference == 0
    assert answer.result is not None and expected.result is not None
    assert np.array_equal(answer.result.mask.full(), expected.result.mask.full())
    assert len(answer.candidates) == len(expected.candidates)
    agree(delayed, in_time, 1)


@pytest.mark.parametrize("prompt", [click(60, 60), box(20, 50, 70, 110), rectangle(20, 50, 60, 100)])
@pytest.mark.parametrize("late", LATE)
def test_a_late_correction_is_as_in_time(late: int, prompt: Prompt) -> None:
    """Click, box and mask; and it is a correction that one would notice."""
    delayed, in_time, uncorrected = tracker_of(), tracker_of(), tracker_of()
    for tracker in (delayed, in_time, uncorrected):
        play(tracker, 0, 1)
        add(tracker, box())
    play(delayed, 2, NOW)
    assert delayed.refine(PromptRequest(prompt, 1), stamp(NOW - late)).success
    play(in_time, 2, NOW - late)
    assert in_time.refine(PromptRequest(prompt, 1)).success
    play(in_time, NOW - late + 1, NOW)
    play(uncorrected, 2, NOW)
    assert difference(logits(uncorrected, 1), logits(in_time, 1)) > 10 * SAME
    assert delayed.bank.conditioning_frames.tolist() == in_time.bank.conditioning_frames.tolist()
    agree(delayed, in_time, 1)


def test_several_late_prompts_in_one_call_share_the_way_to_now() -> None:
    """Two new objects, a correction, and a second click for one of them. Objects may have masks of one thing: the
    others keep theirs when one is tracked again."""
    delayed, in_time = tracker_of(look_alikes=False), tracker_of(look_alikes=False)
    requests = [PromptRequest(click(90, 40)), PromptRequest(click(60, 60), 1), PromptRequest(rectangle(60, 15, 90, 45))]
    second = PromptRequest(click(70, 20, label=0), 2)
    for tracker in (delayed, in_time):
        play(tracker, 0, 1)
        add(tracker, box())
    play(delayed, 2, NOW)
    answers = delayed.add(requests, stamp(NOW - 5))
    assert delayed.refine(second, stamp(NOW - 5)).success
    play(in_time, 2, NOW - 5)
    in_time.add(requests)
    assert in_time.refine(second).success
    play(in_time, NOW - 4, NOW)
    assert [answer.object_id for answer in answers] == [2, 1, 3]
    assert delayed._objects[2].labels.tolist() == in_time._objects[2].labels.tolist() == [1, 0]
    for object_id in (1, 2, 3):
        assert difference(logits(delayed, object_id), logits(in_time, object_id)) <= SAME
    agree(delayed, in_time, 2)


def test_late_clicks_add_up_on_their_frame() -> None:
    """The second late click on a frame goes in with the first one and its mask."""
    delayed, in_time = tracker_of(), tracker_of()
    for tracker in (delayed, in_time):
        play(tracker, 0, 1)
        add(tracker, box())
    play(delayed, 2, NOW - 2)
    delayed.refine(PromptRequest(click(60, 60), 1), stamp(NOW - 5))
    play(delayed, NOW - 1, NOW)
    delayed.refine(PromptRequest(click(20, 20, label=0), 1), stamp(NOW - 5))
    play(in_time, 2, NOW - 5)
    in_time.refine(PromptRequest(click(60, 60), 1))
    in_time.refine(PromptRequest(click(20, 20, label=0), 1))
    play(in_time, NOW - 4, NOW)
    agree(delayed, in_time, 1)


def test_a_candidate_may_be_chosen_frames_later() -> None:
    delayed, in_time = tracker_of(), tracker_of()
    play(delayed, 0, NOW - 5)
    (offered,) = delayed.add([PromptRequest(click())])
    play(delayed, NOW - 4, NOW)
    answer = delayed.refine(PromptRequest(Prompt(candidate=2), 1), offered.applied_stamp)
    assert answer.success, answer.message
    assert answer.result is not None
    assert np.array_equal(answer.result.mask.full(), offered.candidates[1].mask.full())
    play(in_time, 0, NOW - 5)
    add(in_time, click(candidate=2))
    play(in_time, NOW - 4, NOW)
    agree(delayed, in_time, 1)
    # Only the newest candidates of an object are stored.
    assert delayed.refine(PromptRequest(click(60, 60), 1)).success
    refused = delayed.refine(PromptRequest(Prompt(candidate=1), 1), delayed.history.find(0).stamp - SECOND)
    assert refused.code is PromptCode.INVALID_PROMPT and "no candidates are stored" in refused.message


def test_a_hidden_object_is_corrected_as_in_time() -> None:
    """With a model that lets the memory of a hidden object wait: its clock is turned back, too."""
    delayed, in_time = (tracker_of(copy.copy(small_model())) for _ in range(2))

    def see_from(tracker: Tracker, iou: float) -> None:
        model = tracker.model
        assert isinstance(model, Sam2Model)
        model.config = replace(model.config, present_iou=iou)

    def see(tracker: Tracker, first: int, last: int) -> None:
        for frame in range(first, last + 1):
            hidden = frame in (6, 7, 9)
            see_from(tracker, 1.01 if hidden else 1e-6)
            play(tracker, frame, frame)
            assert (tracker._objects[1].state is ObjectState.OCCLUDED) == hidden

    for tracker in (delayed, in_time):
        play(tracker, 0, 1)
        add(tracker, box())
    see(delayed, 2, NOW)
    see_from(delayed, 1e-6)
    assert delayed.refine(PromptRequest(click(60, 60), 1), stamp(7)).success
    see(in_time, 2, 7)
    see_from(in_time, 1e-6)
    assert in_time.refine(PromptRequest(click(60, 60), 1)).success
    play(in_time, 8, NOW)
    agree(delayed, in_time, 1)


# -- the others ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("late", LATE)
def test_other_objects_do_not_change_by_a_bit(late: int) -> None:
    """Compared with a tracker that never gets the prompt, when it comes. Later logits are equal up to rounding: the
    corrected object holds one memory more, so the batch has another shape."""
    prompted, untouched = tracker_of(), tracker_of()
    for tracker in (prompted, untouched):
        play(tracker, 0, 1)
        add(tracker, box(), click(90, 40), rectangle(60, 15, 90, 45))
        play(tracker, 2, NOW)
    assert prompted.refine(PromptRequest(click(60, 60), 2), stamp(NOW - late)).success
    for object_id in (1, 3):
        assert torch.equal(logits(prompted, object_id), logits(untouched, object_id))
        row = prompted._objects[object_id].row
        assert torch.equal(prompted.bank.spatial[row], untouched.bank.spatial[row])
        assert torch.equal(prompted.bank.pointers[row], untouched.bank.pointers[row])
    for frame in range(NOW + 1, NOW + 8):
        for object_id in (1, 3):
            ours, theirs = prompted._objects[object_id].mask, untouched._objects[object_id].mask
            assert ours is not None and theirs is not None
            others = np.count_nonzero(ours.full() ^ theirs.full())  # pixels whose logit rounding takes over 0
            assert others <= (0 if frame == NOW + 1 else 2)
            assert difference(logits(prompted, object_id), logits(untouched, object_id)) <= 1e-5
        assert not torch.equal(logits(prompted, 2), logits(untouched, 2))
        play(prompted, frame, frame)
        play(untouched, frame, frame)


def test_a_late_new_object_leaves_the_others_alone() -> None:
    tracker = tracker_of()
    play(tracker, 0, 1)
    add(tracker, box(), click(90, 40))
    play(tracker, 2, NOW)
    before = [(logits(tracker, one).clone(), tracker.bank.spatial[one - 1].clone()) for one in (1, 2)]
    (answer,) = tracker.add([PromptRequest(rectangle(60, 15, 90, 45))], stamp(NOW - 5))
    assert answer.success
    for one, (mask, memory) in zip((1, 2), before, strict=True):
        assert torch.equal(logits(tracker, one), mask) and torch.equal(tracker.bank.spatial[one - 1], memory)


def test_no_image_is_encoded_again_and_all_share_each_pass() -> None:
    tracker = tracker_of(look_alikes=False)  # two objects with a mask of one thing would not both be remembered
    play(tracker, 0, NOW)
    calls: Counter[str] = Counter()
    handles = [
        small_model().get_submodule(name).register_forward_hook(lambda *_, name=name: calls.update([name]))
        for name in ("image_encoder", "memory_attention", "sam_mask_decoder", "memory_encoder")
    ]
    tracker.add([PromptRequest(box()), PromptRequest(box(40, 20, 90, 70))], stamp(NOW - 5))
    for handle in handles:
        handle.remove()
    assert calls == {"memory_attention": 5, "sam_mask_decoder": 6, "memory_encoder": 6}


# -- prompts that came in between ----------------------------------------------------------------------------


def test_a_newer_correction_stays() -> None:
    """A late prompt on an earlier frame does not touch it: tracking never overwrites a prompt."""
    tracker = tracker_of()
    play(tracker, 0, 1)
    add(tracker, box())
    play(tracker, 2, 8)
    tracker.refine(PromptRequest(rectangle(60, 15, 90, 45), 1))
    slot = tracker.bank.conditioning_frames[0].tolist().index(8)
    memory, mask = tracker.bank.spatial[0, slot].clone(), tracker.history.find(0).objects[1].logits
    play(tracker, 9, NOW)
    before = logits(tracker, 1).clone()
    assert tracker.refine(PromptRequest(click(60, 60), 1), stamp(5)).success
    assert tracker.bank.conditioning_frames[0].tolist() == [1, 8, 5, -1]
    assert torch.equal(tracker.bank.spatial[0, slot], memory)
    assert tracker.history.find(stamp(8)).objects[1].logits is mask
    assert not torch.equal(logits(tracker, 1), before)  # what follows knows of both


# -- events and states ---------------------------------------------------------------------------------------


# -- which frame ---------------------------------------------------------------------------------------------


# -- failure, memory -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("failing", [1, 3])
def test_a_failure_on_the_way_to_now_leaves_everything_as_it_was(failing: int) -> None:
    """In the prompt itself, or frames later."""
    tracker, untouched = tracker_of(), tracker_of()
    for each in (tracker, untouched):
        play(each, 0, 1)
        add(each, box())
        play(each, 2, NOW)
    encode, calls = small_model().encode_memory, iter(range(1, 100))

    def fail(*arguments: object) -> torch.Tensor:
        if next(calls) == failing:
            raise RuntimeError("out of memory")
        return encode(*arguments)  # type: ignore[arg-type]

    requests = [PromptRequest(click(60, 60), 1, "cup", "crockery", 0.5), PromptRequest(box())]
    tracker.take_changes()
    with mock.patch.object(small_model(), "encode_memory", fail), pytest.raises(RuntimeError, match="out of memory"):
        tracker.add(requests, stamp(NOW - 5))
    assert list(tracker._objects) == [1] and tracker.take_changes() == []
    known, wanted = (each._objects[1] for each in (tracker, untouched))
    assert (known.name, known.label, known.label_score) == (wanted.name, wanted.label, wanted.label_score)
    assert torch.equal(logits(tracker, 1), logits(untouched, 1))
    play(tracker, NOW + 1, NOW + 2)
    play(untouched, NOW + 1, NOW + 2)
    assert torch.equal(logits(tracker, 1), logits(untouched, 1))
    assert tracker.refine(requests[0], stamp(NOW - 5)).success


def history_bytes(tracker: Tracker) -> int:
    """Bytes of the stored features and of the objects' logits."""
    tensors: list[torch.Tensor] = []
    for stored in tracker.history._frames:
        tensors += stored.tensors
        for obj in stored.objects.values():
            tensors += [] if obj.logits is None else [obj.logits]
            tensors += [] if obj.candidates is None else [obj.candidates.logits]
    return sum(tensor.nbytes for tensor in tensors)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_history_keeps_within_its_bytes(dtype: str) -> None:
    tracker = Tracker(small_model(), TrackerConfig(max_objects=3, history=4), dtype)
    sizes = []
    for frame in range(30):
        tracker.step(scene(frame), stamp(frame))
        if frame in (0, 3, 5):
            add(tracker, click(60, 60 + frame))
        if frame in (8, 12, 14, 20):
            tracker.refine(PromptRequest(click(60, 60), 1), stamp(frame - 2))
        sizes.append(history_bytes(tracker))
        assert sizes[-1] <= tracker.history_bytes
    pixels, mask, fine = 8 * 8, 32 * 32 * 4, 4 if dtype == "float32" else 2
    colors = 16 * 3 * 4  # of the pixels in a cell, for the appearance
    frames = 5 * (pixels * (256 * (4 + 3 * fine) + colors) + 3 * mask)
    assert tracker.history_bytes == frames + 3 * 3 * mask
    assert sizes[19] == frames  # objects without candidates, everywhere
    for object_id in (1, 2, 3):
        tracker.remove(object_id)
    assert history_bytes(tracker) == frames - 5 * 3 * mask


def test_bytes_of_the_history_are_those_of_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "explanation" / "tracking.md").read_text(encoding="utf-8")
    for model, config in (
        ("embedded", read_checkpoint(EMBEDDED)[1]),
        ("tiny", ModelConfig("tiny", hiera=HIERA["tiny"])),
    ):
        row = ""
        for count in (1, 16):
            sizes = []
            for settings in (TrackerConfig(max_objects=count, window=window) for window in ("off", "on")):
                side = window_side(model, 0, settings) or config.image_size
                sizes.append(most_bytes(config, settings, "float32", side) / 2**20)
            row += f"| {sizes[0]:.0f} / {sizes[1]:.0f} MiB "
        assert f"{row}|" in text


def test_runs_with_and_without_a_history_are_equal() -> None:
    """What is stored changes nothing for prompts that come in time."""
    trackers = [tracker_of(history=length) for length in (0, 3, K)]
    for tracker in trackers:
        stepped(tracker, [box(), click(90, 40)])
        run(tracker, 1, 6)
        tracker.refine(PromptRequest(click(60, 60), 1))
        run(tracker, 7, 30)
    for tracker in trackers[1:]:
        for object_id in (1, 2):
            assert torch.equal(logits(tracker, object_id), logits(trackers[0], object_id))


def test_a_new_click_withdraws_the_candidates_of_stored_frames() -> None:
    tracker = tracker_of()
    play(tracker, 0, 5)
    (offered,) = tracker.add([PromptRequest(click())])
    assert len(offered.candidates) == 3
    play(tracker, 6, 7)
    assert tracker.refine(PromptRequest(click(60, 60), 1)).success
    refused = tracker.refine(PromptRequest(Prompt(candidate=1), 1), offered.applied_stamp)
    assert refused.code is PromptCode.INVALID_PROMPT and "no candidates are stored" in refused.message


def test_a_late_correction_keeps_the_name_and_the_label_of_now() -> None:
    tracker = tracker_of()
    play(tracker, 0, 1)
    (object_id,) = add(tracker, box())
    play(tracker, 2, NOW)
    tracker.rename(object_id, "mug", "dish", 0.75)
    assert tracker.refine(PromptRequest(click(90, 40), object_id), stamp(NOW - 5)).success
    newest = tracker.objects()
    assert newest is not None
    assert [(obj.name, obj.label, obj.label_score) for obj in newest.objects] == [("mug", "dish", 0.75)]
