"""The tracker with windows: what it gains, and that everything else works with it."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_tracker import small_model

from sam2_ros.model import load_model
from sam2_ros.model.network import MASK_BIAS, MASK_SCALE, ChosenMask
from sam2_ros.model.sam2 import Sam2Model
from sam2_ros.tracking import (
    FrameResult,
    ObjectState,
    Prompt,
    PromptCode,
    PromptRequest,
    Tracker,
    TrackerConfig,
    lost,
    propagation,
    viewer,
    windows,
)
from sam2_ros.tracking.camera_motion import STANDING, CameraMotion
from sam2_ros.tracking.objects import LiveObject
from sam2_ros.tracking.shared_model import SharedModel
from sam2_ros.tracking.types import CroppedMask
from sam2_ros.tracking.windows import Window

WIDTH, HEIGHT = 960, 720
SIZE = 24  # of the small object, pixels


@lru_cache(maxsize=1)
def embedded() -> Sam2Model:
    return load_model("embedded")


@lru_cache(maxsize=1)
def _background() -> NDArray[np.uint8]:
    noise = np.random.default_rng(1).integers(40, 200, (18, 24, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC), np.uint8)


def place(index: int, start: tuple[int, int] = (200, 300), step: tuple[int, int] = (7, 3)) -> tuple[int, int]:
    return start[0] + step[0] * index, start[1] + step[1] * index


def picture(index: int, *centres: tuple[int, int]) -> tuple[NDArray[np.uint8], list[NDArray[np.bool_]]]:
    """A textured background with a small two-coloured disc at each of ``centres``; the image and the discs' masks."""
    image, masks = _background().copy(), []
    for x, y in centres:
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        cv2.circle(mask, (x, y), SIZE // 2, 1, -1)
        image[mask > 0] = (230, 60, 40)
        cv2.circle(image, (x, y), SIZE // 4, (250, 220, 60), -1)
        masks.append(mask > 0)
    return image, masks


def iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float((one & other).sum() / max(1, (one | other).sum()))


def tracker_of(window: str = "on", model: Sam2Model | None = None, **options: Any) -> Tracker:
    options = {"max_objects": 3, "window_budget": 0.0} | options  # every object on every frame
    return Tracker(model or small_model(), TrackerConfig(window=window, **options))


def seen_through(tracker: Tracker, object_id: int) -> Window:
    window = tracker._objects[object_id].window
    assert window is not None
    return window


# -- the embedded model, on a small object -------------------------------------------------------------------


def mean_iou(window: str) -> float:
    tracker, found = tracker_of(window, embedded()), []
    for index in range(6):
        image, (mask,) = picture(index, place(index))
        result = tracker.step(image, index + 1)
        if index == 0:
            assert tracker.add([PromptRequest(Prompt(mask=mask))])[0].success
        else:
            found.append(iou(result.objects[0].mask.full(), mask))
            assert result.objects[0].mask.full().shape == (HEIGHT, WIDTH)
    return float(np.mean(found))


def test_a_small_object_is_outlined_better_through_a_window() -> None:
    off, auto = mean_iou("off"), mean_iou("auto")
    assert auto > 0.8 and auto > off + 0.05, (off, auto)


@pytest.mark.parametrize("kind", ["box", "click", "mask"])
def test_every_kind_of_prompt_meets_the_object(kind: str) -> None:
    tracker = tracker_of(model=embedded())
    image, (mask, other) = picture(0, (300, 200), (700, 560))
    tracker.step(image, 1)
    prompts = {
        "box": Prompt(box=np.array([287, 187, 313, 213], np.float32)),
        "click": Prompt(points=np.array([[292, 200]], np.float32), labels=np.array([1], np.int32)),
        "mask": Prompt(mask=mask),
    }
    (answer,) = tracker.add([PromptRequest(prompts[kind])])
    assert answer.result is not None and iou(answer.result.mask.full(), mask) > 0.75
    window = seen_through(tracker, answer.object_id)
    assert window.width < WIDTH / 2 and window.x0 < 280 and window.x1 > 320
    if kind == "click":
        assert len(answer.candidates) == 3 and any(iou(each.mask.full(), mask) > 0.7 for each in answer.candidates)
    # A second object far away gets a window of its own.
    assert tracker.add([PromptRequest(Prompt(mask=other))])[0].success
    result = tracker.step(image, 2)
    assert [iou(result.object(i).mask.full(), truth) > 0.7 for i, truth in ((1, mask), (2, other))] == [True, True]
    newest = tracker.history.newest
    assert newest is not None and [side for _, side in newest.features] == [448, 448]
    assert {obj.window for obj in result.objects} == {window for window, _ in newest.features}


# -- the small network, whose masks mean nothing: all the machinery ------------------------------------------


def small_frames(count: int) -> list[NDArray[np.uint8]]:
    return [picture(index, place(index), place(index, (800, 100), (-5, 2)))[0] for index in range(count)]


def session(tracker: Tracker, frames: list[NDArray[np.uint8]]) -> list[FrameResult]:
    """Two objects, a late one, a correction, a late correction, a removal."""
    results = []
    for index, frame in enumerate(frames):
        results.append(tracker.step(frame, 1000 + index))
        if index == 1:
            box = np.array([195, 290, 220, 320], np.float32)
            answers = tracker.add([PromptRequest(Prompt(box=box)), PromptRequest(Prompt(box=box + 300))])
            assert all(answer.success for answer in answers)
        if index == 5:
            (answer,) = tracker.add([PromptRequest(Prompt(box=np.array([700, 90, 730, 130], np.float32)))], 1002)
            assert answer.success and answer.frames_caught_up == 3
        if index == 6:
            click = Prompt(points=np.array([[900, 700]], np.float32), labels=np.array([1], np.int32))
            answer = tracker.refine(PromptRequest(click, 1))
            assert answer.success and answer.result is not None and answer.result.mask.width == WIDTH
        if index == 7:
            click = Prompt(points=np.array([[210, 300]], np.float32), labels=np.array([1], np.int32))
            assert tracker.refine(PromptRequest(click, 1), 1003).frames_caught_up == 4
        if index == 8:
            assert tracker.remove(2) and not tracker.remove(2)
    return results


def told(results: list[FrameResult]) -> list[Any]:
    return [
        (o.object_id, o.state, o.object_score, o.predicted_iou, o.mask.x, o.mask.y, o.mask.crop.tobytes())
        for result in results
        for o in result.objects
    ]


@pytest.mark.parametrize(
    "options",
    [
        {}, {"non_overlap": True}, {"hole_area": 4}, {"look_alikes": False}, {"window_budget": 0.9},
        {"window_budget": 0.9, "non_overlap": True, "max_objects": 4},
    ],
)  # fmt: skip
def test_late_prompts_corrections_and_removals(options: dict[str, Any]) -> None:
    frames = small_frames(11)
    results = session(tracker_of(**options), frames)
    assert [len(result.objects) for result in results] == [0, 0, 2, 2, 2, 2, 3, 3, 3, 2, 2]
    for one in results[-1].objects:
        assert (one.mask.width, one.mask.height) == (WIDTH, HEIGHT)
    assert told(session(tracker_of(**options), frames)) == told(results), "the same frames give the same tracks"
    if options.get("non_overlap"):
        for result in results:
            assert np.sum([one.mask.full() for one in result.objects], axis=0).max(initial=0) <= 1


def test_where_the_window_is_the_whole_frame_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "WHOLE", 0.0)
    results = [told(session(tracker_of(window), small_frames(9))) for window in ("off", "on")]
    assert results[0] == results[1]


def test_the_bytes_of_the_history_are_known() -> None:
    tracker = tracker_of(history=3)
    for index, frame in enumerate(small_frames(9)):
        tracker.step(frame, index + 1)
        if index == 0:
            boxes = ([10, 10, 40, 40], [900, 10, 940, 50], [10, 600, 40, 640])
            answers = tracker.add([PromptRequest(Prompt(box=np.array(box, np.float32))) for box in boxes])
            assert all(answer.success for answer in answers)
        stored = tracker.history._frames
        tensors = [tensor for each in stored for tensor in each.tensors]
        images = [each.image for each in stored if each.image is not None]
        held = sum(tensor.nbytes for tensor in tensors) + sum(image.nbytes for image in images)
        assert held <= tracker.history_bytes
        for each in stored:
            assert len(each.features) <= 3 and {side for _, side in each.features} == {128}
    large = np.zeros((2160, 3840, 3), np.uint8)
    image = tracker._viewer.kept_image(large)
    assert image is not None and image.shape == (1080, 1920, 3)
    small = small_frames(1)[0]
    copied = tracker._viewer.kept_image(small)
    assert copied is not None and not np.shares_memory(copied, small)
    assert tracker_of("off")._viewer.kept_image(small) is None


def test_the_setting_changes_at_any_time() -> None:
    tracker, frames = tracker_of("off"), small_frames(13)
    order = ["off", "off", "on", "on", "on", "off", "off", "on", "off", "on", "on", "off", "off"]
    for index, (window, frame) in enumerate(zip(order, frames, strict=True)):
        tracker.configure(replace(tracker.config, window=window))
        result = tracker.step(frame, index + 1)
        if index == 0:
            for box in ([190, 290, 215, 320], [790, 90, 815, 120]):
                assert tracker.add([PromptRequest(Prompt(box=np.array(box, np.float32)))])[0].success
        newest = tracker.history.newest
        assert newest is not None
        if window == "off":
            assert list(newest.features) == [(Window(0, 0, WIDTH, HEIGHT), 128)] and newest.image is None
        else:
            assert sum(side * side for _, side in newest.features) <= 2 * 128 * 128
            assert newest.image is not None
        # A late prompt on a frame of the other setting.
        if index in (4, 6, 9):
            late = tracker.refine(PromptRequest(Prompt(box=np.array([190, 290, 240, 340], np.float32)), 1), index - 1)
            assert late.success, late.message
    assert len(result.objects) == 2


def test_a_hidden_object_is_looked_for_where_it_was() -> None:
    tracker = tracker_of(max_objects=1, search_every=1)
    image = small_frames(1)[0]
    tracker.step(image, 1)
    empty = np.zeros((HEIGHT, WIDTH), np.bool_)
    assert tracker.add([PromptRequest(Prompt(box=np.array([190, 290, 215, 320], np.float32)))])[0].success
    assert tracker.add([PromptRequest(Prompt(mask=empty), 1)])[0].success  # not here
    model = tracker.model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sam2Model, "present", lambda self, score, iou: torch.zeros_like(score, dtype=torch.bool))
        seen = set()
        for index in range(30):
            (one,) = tracker.step(image, 2 + index).objects
            assert one.state is not ObjectState.VISIBLE
            seen.add(seen_through(tracker, 1))
    (window,) = seen
    assert window.width < WIDTH / 2
    assert model is small_model()


@pytest.mark.parametrize(("columns", "moves"), [((0, 40), False), ((60, 100), True)])
def test_a_hidden_object_is_not_what_another_ones_mask_shows(
    monkeypatch: pytest.MonkeyPatch, columns: tuple[int, int], moves: bool
) -> None:
    """The closer look finds a mask in the upper left quarter of its view."""
    tracker = tracker_of(max_objects=2)
    tracker.step(small_frames(1)[0], 1)
    boxes = np.array([[190, 290, 215, 320], [400, 290, 425, 320]], np.float32)
    assert all(answer.success for answer in tracker.add([PromptRequest(Prompt(box=box)) for box in boxes]))
    tracker.step(small_frames(1)[0], 2)
    hidden, other = tracker._objects.values()
    hidden.presence = replace(hidden.presence, state=ObjectState.OCCLUDED)
    stored = tracker.history.newest
    assert stored is not None
    place = [300.0, 200.0, 332.0, 232.0]
    window = tracker._viewer.view_around(place, stored).window
    logits = torch.full((1, 1, 32, 32), -9.0)
    logits[:, :, :16, :16] = 9.0
    chosen = ChosenMask(logits, torch.ones(1), torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64))
    monkeypatch.setattr(lost, "likeliest_boxes", lambda *_, **__: [place])
    monkeypatch.setattr(lost, "look_in", lambda *_: (chosen, 3.0))
    full = np.zeros((HEIGHT, WIDTH), np.bool_)
    full[window.y0 : window.y0 + window.height // 2, window.x0 + columns[0] : window.x0 + columns[1]] = True
    other.mask, before = CroppedMask.from_full(full), hidden.box
    with torch.inference_mode():
        lost.look_around([hidden, other], stored, tracker._viewer, tracker.bank, 0, tracker._propagation.recognises)
    assert (hidden.box != before) == moves


def live(*boxes: tuple[int, int, int, int], seen: int) -> LiveObject:
    """An object that was at ``boxes`` on frames 0, 1, ..., and had a mask last on frame ``seen``."""
    obj = LiveObject(1, 0, "", "", 0.0, 0)
    for frame, (x0, y0, x1, y1) in enumerate(boxes):
        shares = np.array([x0 / WIDTH, y0 / HEIGHT, x1 / WIDTH, y1 / HEIGHT])
        obj.trail = obj.trail.seen(frame, shares.tolist(), 0.01)
    obj.box, obj.box_frame = boxes[-1], seen
    return obj


def test_a_window_lies_where_its_object_is_heading() -> None:
    frame = windows.Frame(WIDTH, HEIGHT, 128)
    obj = live((100, 300, 140, 340), (150, 290, 190, 330), seen=1)
    assert viewer.target_of(obj, frame, 2).box == pytest.approx((200, 280, 240, 320))
    assert viewer.target_of(obj, frame, 3).box == pytest.approx((150, 290, 190, 330))  # it was not seen on frame 2
    first = live((100, 300, 140, 340), seen=0)
    assert viewer.target_of(first, frame, 1).box == pytest.approx((100, 300, 140, 340))


def test_specks_do_not_widen_the_window() -> None:
    """The trail knows the box of the object's body."""
    frame = windows.Frame(WIDTH, HEIGHT, 128)
    obj = live((100, 300, 140, 340), (100, 300, 140, 340), seen=1)
    obj.box = (100, 300, 700, 500)
    assert viewer.target_of(obj, frame, 2).box == pytest.approx((100, 300, 140, 340))


def test_what_the_last_window_cut_is_judged_by_what_was_seen() -> None:
    frame = windows.Frame(WIDTH, HEIGHT, 128)
    obj = live((100, 300, 140, 340), (150, 290, 190, 330), seen=1)
    assert viewer.target_of(obj, frame, 2).seen is None  # it is hidden
    obj.presence = replace(obj.presence, state=ObjectState.VISIBLE)
    assert viewer.target_of(obj, frame, 2).seen == pytest.approx((150, 290, 190, 330))


def test_a_mask_of_a_part_does_not_shrink_the_window() -> None:
    frame = windows.Frame(WIDTH, HEIGHT, 128)
    obj = live((100, 300, 140, 340), (100, 300, 140, 340), seen=2)
    obj.box = (130, 330, 134, 334)
    assert viewer.target_of(obj, frame, 3).box == pytest.approx((112, 312, 152, 352))
    obj.box = (100, 300, 180, 320)  # wider than ever, and less high
    assert viewer.target_of(obj, frame, 3).box == pytest.approx((100, 290, 180, 330))


def test_frames_that_are_encoded_ahead_are_seen_whole() -> None:
    shared = SharedModel(small_model(), ahead=True)
    tracker = Tracker(small_model(), TrackerConfig(window="on", max_objects=1), shared=shared)
    frame = small_frames(1)[0]
    tracker.step(frame, 1)
    assert tracker.add([PromptRequest(Prompt(box=np.array([190, 290, 215, 320], np.float32)))])[0].success
    tracker.step(tracker.encode(frame), 2)
    assert seen_through(tracker, 1) == Window(0, 0, WIDTH, HEIGHT)


def test_each_new_object_has_its_own_window_where_objects_take_turns() -> None:
    """Also more of them than there are windows in a frame."""
    tracker = tracker_of(max_objects=12, window_budget=1.0)
    tracker.step(small_frames(1)[0], 1)
    stored, frame = tracker.history.newest, windows.Frame(WIDTH, HEIGHT, 128)
    assert stored is not None
    boxes = [(20 + 80 * key, 20, 60 + 80 * key, 50) for key in range(windows.MOST + 2)]
    views = tracker._viewer.views_for_boxes(boxes, stored)
    assert [view.window for view in views] == [frame.window(box) for box in boxes]


@pytest.mark.parametrize(
    "window, policy, with_embedded, with_others",
    [("auto", False, True, False), ("on", False, True, True), ("off", False, False, False), ("on", True, False, False)],
)
def test_auto_means_windows_for_the_embedded_model(
    window: str, policy: bool, with_embedded: bool, with_others: bool
) -> None:
    config = TrackerConfig(window=window, reference_policy=policy)
    for model, expected in ((embedded(), with_embedded), (small_model(), with_others)):
        assert Tracker(model, config)._viewer.uses_windows == expected


def test_refusals_say_nothing_of_windows() -> None:
    tracker = tracker_of()
    tracker.step(small_frames(1)[0], 1)
    outside = Prompt(points=np.array([[WIDTH + 5, 3]], np.float32), labels=np.array([1], np.int32))
    assert tracker.add([PromptRequest(outside)])[0].code is PromptCode.INVALID_PROMPT


def test_new_objects_are_prompted_in_the_scale_in_which_they_are_tracked() -> None:
    """Another window would give memories that the next frame contradicts."""
    tracker = tracker_of(max_objects=4)
    tracker.step(small_frames(1)[0], 1)
    stored = tracker.history.newest
    assert stored is not None
    corners = [(20, 20, 60, 50), (900, 20, 940, 50), (20, 670, 60, 700), (900, 670, 940, 700)]
    frame = windows.Frame(WIDTH, HEIGHT, 128)
    later = windows.plan([windows.Target(key, box) for key, box in enumerate(corners)], frame)
    views = tracker._viewer.views_for_boxes(corners, stored)
    assert [view.key for view in views] == [
        next((group.window, group.side) for group in later if key in group.keys) for key in range(4)
    ]


# -- turns ---------------------------------------------------------------------------------------------------


def two_in_turns(
    count: int, between: Any = lambda tracker, index: None, **settings: Any
) -> tuple[Tracker, list[FrameResult]]:
    """Two objects, of which the network looks at one on each frame."""
    tracker, results = tracker_of(window_budget=0.01, reject_strays=False, look_alikes=False, **settings), []
    for index in range(count):
        image, masks = picture(index, place(index), place(index, (800, 100), (-5, 2)))
        results.append(tracker.step(image, index + 1))
        if index == 0:
            assert all(answer.success for answer in tracker.add([PromptRequest(Prompt(mask=mask)) for mask in masks]))
        between(tracker, index)
    return tracker, results


def test_the_mask_of_an_object_that_is_not_looked_at_is_carried() -> None:
    tracker, results = two_in_turns(2)
    looked_at = [bool(obj.window) for obj in results[1].objects]
    assert sorted(looked_at) == [False, True], "without a window the network did not look"
    index = looked_at.index(False)
    obj = results[1].objects[index]
    _, masks = picture(1, place(1), place(1, (800, 100), (-5, 2)))
    assert iou(obj.mask.full(), masks[index]) > 0.75 and obj.state is ObjectState.VISIBLE
    assert (obj.last_seen, obj.frames_since_seen, obj.prompted) == (2, 0, False)
    row = tracker._objects[obj.object_id].row
    assert not (tracker.bank.recent_frames[row] == 1).any(), "it has no memory of this frame"
    scores = [one.object_score for one in results[1].objects]
    assert scores[index] == MASK_SCALE + MASK_BIAS != scores[1 - index], "as last judged: by the prompt"
    newest = tracker.history.newest
    assert newest is not None and len(newest.features) == 1


def test_a_carried_mask_that_others_cover_was_seen_on_the_frame_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CameraMotion, "follow", lambda *_: STANDING)  # so that places agree to the last digit
    past: dict[int, Any] = {}

    def all_are_covered(carried: list[Any], _: Any) -> list[Any]:
        return carried

    def between(tracker: Tracker, index: int) -> None:
        if index == 1:
            past.update({obj.object_id: obj.snapshot() for obj in tracker._objects.values()})
            monkeypatch.setattr(propagation, "give_way", all_are_covered)

    tracker, results = two_in_turns(3, between, non_overlap=True, model=embedded())
    (hidden,) = [obj for obj in results[2].objects if not obj.mask.crop.size]
    (change,) = results[2].changes
    assert (hidden.state, hidden.last_seen, hidden.frames_since_seen) == (ObjectState.OCCLUDED, 2, 1)
    assert (change.object_id, change.last_seen) == (hidden.object_id, 2)
    now, then = tracker._objects[hidden.object_id], past[hidden.object_id]
    assert (now.box, now.box_frame, now.trail) == (then.box, 1, then.trail)


def test_everyone_has_a_turn() -> None:
    _, results = two_in_turns(9)
    turns = [[obj.object_id for obj in result.objects if obj.window] for result in results[1:]]
    assert all(len(turn) == 1 for turn in turns) and {turn[0] for turn in turns[:3]} == {1, 2}


def test_a_prompt_between_encoding_and_tracking_ends_the_waiting() -> None:
    tracker, _ = two_in_turns(2)
    image, masks = picture(2, place(2), place(2, (800, 100), (-5, 2)))
    encoded = tracker.encode(image)
    (waiting,) = encoded.waiting
    assert tracker.refine(PromptRequest(Prompt(mask=masks[waiting - 1]), waiting)).success
    result = tracker.step(encoded, 3)
    assert [bool(obj.window) for obj in result.objects] == [True, True]


def test_a_carried_mask_can_be_corrected_and_tracked_again() -> None:
    def between(tracker: Tracker, index: int) -> None:
        if index == 3:
            (carried,) = [obj for obj in tracker._objects.values() if obj.looked_frame != 3]
            x, y = place(3) if carried.object_id == 1 else place(3, (800, 100), (-5, 2))
            click = Prompt(points=np.array([[x, y]], np.float32), labels=np.array([1], np.int32))
            assert tracker.refine(PromptRequest(click, carried.object_id)).success
            (now,) = [obj for obj in tracker.objects().objects if obj.object_id == carried.object_id]  # type: ignore[union-attr]
            assert now.prompted and now.window
            late = tracker.refine(PromptRequest(click, carried.object_id), 2)
            assert late.success and late.frames_caught_up == 2

    _, results = two_in_turns(6, between, model=embedded())
    assert [each.state for each in results[-1].objects] == [ObjectState.VISIBLE] * 2
    shown = [each.mask.full() for each in results[-1].objects]
    for mask, (x, y) in zip(shown, (place(5), place(5, (800, 100), (-5, 2))), strict=True):
        assert mask[y, x] and abs(np.argwhere(mask).mean(axis=0) - (y, x)).max() < 15
