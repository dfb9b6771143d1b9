"""A picture as a prompt: the object is LOST until something that looks like the picture is seen."""

from __future__ import annotations

from unittest import mock

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from sam2_ros.evaluation.mask_metrics import jaccard
from sam2_ros.inference.null import NullBackend
from sam2_ros.model import Sam2Model, load_model
from sam2_ros.tracking import ObjectState, Prompt, PromptRequest, Tracker, TrackerConfig
from sam2_ros.tracking.types import EventCode, ObjectChange, PromptCode

WIDTH, HEIGHT, SIZE = 480, 360, 90
BLUE, RED = (50, 90, 210), (210, 60, 50)


@pytest.fixture(scope="module")
def model() -> Sam2Model:
    return load_model("embedded")


@pytest.fixture(scope="module")
def untrained() -> Sam2Model:
    """The embedded model with the metric of all others, which needs no training."""
    model = load_model("embedded")
    model.appearance = None
    return model


def mottled(color: tuple[int, ...], width: int, height: int, grain: int, seed: int) -> NDArray[np.float64]:
    coarse = np.random.default_rng(seed).uniform(0.5, 1.5, (grain, grain))
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)[..., None] * np.array(color, np.float64)


def scene(*squares: tuple[tuple[int, ...], int, int], seed: int = 0) -> NDArray[np.uint8]:
    """A mottled ground with squares of a colour and the same texture; their left and upper edges."""
    picture = mottled((140, 135, 125), WIDTH, HEIGHT, 24, seed)
    for color, left, top in squares:
        picture[top : top + SIZE, left : left + SIZE] = mottled(color, SIZE, SIZE, 8, 3)
    return picture.clip(0, 255).astype(np.uint8)


def region(left: int, top: int) -> NDArray[np.bool_]:
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[top : top + SIZE, left : left + SIZE] = True
    return mask


def photo(color: tuple[int, ...]) -> NDArray[np.uint8]:
    """A picture of a square on another ground, in another size."""
    picture = mottled((90, 110, 90), 300, 260, 12, 7)
    picture[50:210, 70:230] = mottled(color, 160, 160, 8, 3)
    return picture.clip(0, 255).astype(np.uint8)


BOX = np.array([70, 50, 230, 210], np.float32)


def awaiting(model: Sam2Model, prompt: Prompt, config: TrackerConfig | None = None) -> tuple[Tracker, int]:
    tracker = Tracker(model, config or TrackerConfig(max_objects=2, search_every=1))
    tracker.step(scene(), 0)
    (answer,) = tracker.add([PromptRequest(prompt, name="square")])
    assert answer.success, answer.message
    return tracker, answer.object_id


@pytest.mark.parametrize(("given", "window"), [("box", "off"), ("mask", "auto"), ("nothing", "off")])
def test_the_thing_of_a_picture_is_tracked_when_it_appears(model: Sam2Model, given: str, window: str) -> None:
    mask = np.zeros((260, 300), np.bool_)
    mask[50:210, 70:230] = True
    prompt = Prompt(like=photo(BLUE), box=BOX if given == "box" else None, mask=mask if given == "mask" else None)
    config = TrackerConfig(max_objects=2, search_every=1, window=window)
    tracker, square = awaiting(model, prompt, config)
    (added,) = tracker.take_changes()
    assert (added.event, added.state) == (EventCode.ADDED, ObjectState.LOST)
    for t in range(1, 4):
        result = tracker.step(scene(), t).object(square)
        assert (result.state, result.mask.area, result.frames_since_seen) == (ObjectState.LOST, 0, t)
    changes: list[ObjectChange] = []
    for t in range(4, 9):
        left = 280 + 6 * t
        frame = tracker.step(scene((BLUE, left, 200)), t)
        changes += frame.changes
        if t == 4:  # what follows is told from other things by where it was found
            trail = tracker._objects[square].trail
            found = np.array([left / WIDTH, 200 / HEIGHT, (left + SIZE) / WIDTH, (200 + SIZE) / HEIGHT])
            assert trail.frames == (4,) and np.abs(np.array(trail.boxes[0]) - found).max() < 0.03
    result = frame.object(square)
    assert result.state is ObjectState.VISIBLE and result.first_seen == 4
    assert jaccard(result.mask.full(), region(left, 200)) > 0.8
    assert [(c.previous_state, c.state) for c in changes] == [(ObjectState.LOST, ObjectState.VISIBLE)]


@pytest.mark.parametrize("metric", ["model", "untrained"])
def test_one_of_another_colour_is_refused(metric: str, request: pytest.FixtureRequest) -> None:
    tracker, square = awaiting(request.getfixturevalue(metric), Prompt(like=photo(RED), box=BOX))
    for t in range(1, 8):
        assert tracker.step(scene((BLUE, 200 + 5 * t, 120)), t).object(square).state is ObjectState.LOST
    result = tracker.step(scene((BLUE, 240, 120), (RED, 40, 200)), 9).object(square)
    assert result.state is ObjectState.VISIBLE and jaccard(result.mask.full(), region(40, 200)) > 0.8


@pytest.mark.parametrize("metric", ["model", "untrained"])
def test_a_whole_frame_look_finds_what_left_its_window(metric: str, request: pytest.FixtureRequest) -> None:
    """It comes back far away, before its window has widened to there."""
    model, size = request.getfixturevalue(metric), 40
    tracker = Tracker(model, TrackerConfig(max_objects=1, window="on", search_every=3))

    def shown(t: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        left, top = (30, 40) if t < 4 else (400, 290)
        picture, mask = scene(), np.zeros((HEIGHT, WIDTH), np.bool_)
        if t != 4:
            part = np.s_[top : top + size, left : left + size]
            picture[part] = mottled(BLUE, size, size, 6, 3).clip(0, 255)
            mask[part] = True
        return picture, mask

    tracker.step(shown(1)[0], 1)
    (answer,) = tracker.add([PromptRequest(Prompt(mask=shown(1)[1]))])
    for t in range(2, 10):
        picture, mask = shown(t)
        result = tracker.step(picture, t).object(answer.object_id)
    assert result.state is ObjectState.VISIBLE and jaccard(result.mask.full(), mask) > 0.7


@pytest.mark.parametrize("frames", [2, 3])
def test_it_is_found_beside_a_window_whatever_the_frame_of_its_picture(model: Sam2Model, frames: int) -> None:
    """The whole frame is seen on every sixth one of the stream, not of those since the picture."""
    tracker = Tracker(model, TrackerConfig(max_objects=2, window="on"))
    for t in range(frames):
        tracker.step(scene((RED, 20, 20)), t)
    beside, awaited = tracker.add(
        [PromptRequest(Prompt(box=np.array([20, 20, 110, 110], np.float32))), PromptRequest(Prompt(like=photo(BLUE)))]
    )
    assert beside.success and awaited.success
    for t in range(frames, 7):
        result = tracker.step(scene((RED, 20, 20), (BLUE, 300, 200)), t).object(awaited.object_id)
    assert result.state is ObjectState.VISIBLE and jaccard(result.mask.full(), region(300, 200)) > 0.8


def test_a_picture_that_can_not_be_encoded_leaves_no_other_object_half_added(model: Sam2Model) -> None:
    tracker = Tracker(model, TrackerConfig(max_objects=2, window="off"))
    tracker.step(scene((RED, 20, 20)), 0)
    box = PromptRequest(Prompt(box=np.array([20, 20, 110, 110], np.float32)))

    def fail(*args: object) -> None:
        raise RuntimeError("out of memory")

    with mock.patch.object(model, "preprocess", fail), pytest.raises(RuntimeError, match="out of memory"):
        tracker.add([box, PromptRequest(Prompt(like=photo(BLUE)))])
    now = tracker.objects()
    assert now is not None
    (added,) = now.objects
    assert added.state is ObjectState.VISIBLE and added.mask.area


def test_an_awaited_object_is_corrected_renamed_and_removed_as_any(model: Sam2Model) -> None:
    tracker, square = awaiting(model, Prompt(like=photo(BLUE), box=BOX))
    tracker.rename(square, "blue", "thing")
    result = tracker.step(scene((RED, 60, 60)), 1).object(square)
    assert (result.name, result.state) == ("blue", ObjectState.LOST)
    clicked = Prompt(points=np.array([[105, 105]], np.float32), labels=np.array([1], np.int32))
    tracker.step(scene((RED, 60, 60)), 2)
    answer = tracker.refine(PromptRequest(clicked, square), stamp=1)  # late: the user says that it is the red one
    assert answer.success and answer.frames_caught_up == 1
    for t in (3, 4):
        result = tracker.step(scene((RED, 60 + 3 * t, 60)), t).object(square)
    assert result.state is ObjectState.VISIBLE and jaccard(result.mask.full(), region(72, 60)) > 0.8
    assert tracker.remove(square) and not tracker.step(scene((BLUE, 300, 200)), 5).objects


def test_a_late_picture_is_looked_for_from_its_frame_on(model: Sam2Model) -> None:
    tracker = Tracker(model, TrackerConfig(max_objects=1, search_every=1))
    for t in range(1, 4):
        tracker.step(scene((BLUE, 100 + 10 * t, 60)), t)
    (answer,) = tracker.add([PromptRequest(Prompt(like=photo(BLUE), box=BOX))], stamp=1)
    assert answer.success and (answer.applied_stamp, answer.frames_caught_up) == (1, 2)
    assert answer.result is not None and answer.result.state is ObjectState.VISIBLE and answer.result.first_seen == 2
    assert jaccard(answer.result.mask.full(), region(130, 60)) > 0.8


def test_an_awaited_object_counts_as_an_object_and_may_be_dropped(model: Sam2Model) -> None:
    tracker, square = awaiting(model, Prompt(like=photo(BLUE), box=BOX), TrackerConfig(max_objects=1, drop_after=3))
    (full,) = tracker.add([PromptRequest(Prompt(like=photo(RED), box=BOX))])
    assert full.code is PromptCode.FULL
    changes = [change for t in range(1, 6) for change in tracker.step(scene(), t).changes]
    assert [(change.event, change.object_id) for change in changes] == [(EventCode.DROPPED, square)]


def test_pictures_that_can_not_be_used_are_refused_and_add_nothing(model: Sam2Model) -> None:
    tracker = Tracker(model, TrackerConfig(max_objects=2))
    tracker.step(scene(), 0)
    (answer,) = tracker.add([PromptRequest(Prompt(mask=region(60, 60)), name="there")])
    bad = {
        "points and candidate have no meaning": Prompt(
            like=photo(BLUE), points=np.zeros((1, 2), np.float32), labels=np.ones(1, np.int32)
        ),
        "outside the image": Prompt(like=photo(BLUE), box=np.array([400, 0, 500, 90], np.float32)),
        "the mask is": Prompt(like=photo(BLUE), mask=region(0, 0)),
        "the mask of the picture is empty": Prompt(like=photo(BLUE), mask=np.zeros((260, 300), np.bool_)),
        "accepted: uint8": Prompt(like=photo(BLUE)[..., 0]),
        "pixels; shrink it": Prompt(like=np.broadcast_to(np.uint8(0), (2049, 2048, 3))),
    }
    for reason, prompt in bad.items():
        if "shrink" in reason:
            continue  # alone it is too large for a request, too
        (refused,) = tracker.add([PromptRequest(prompt)])
        assert refused.code is PromptCode.INVALID_PROMPT and reason in refused.message, refused.message
    (refused,) = tracker.add([PromptRequest(Prompt(like=photo(BLUE)), answer.object_id)])
    assert "this one exists" in refused.message
    assert [one.object_id for one in tracker.objects().objects] == [answer.object_id]  # type: ignore[union-attr]


@pytest.mark.parametrize("config", [TrackerConfig(recognition=False), TrackerConfig(reference_policy=True)])
def test_trackers_that_can_not_compare_say_so(model: Sam2Model, config: TrackerConfig) -> None:
    tracker = Tracker(model, config)
    tracker.step(scene(), 0)
    (answer,) = tracker.add([PromptRequest(Prompt(like=photo(BLUE)))])
    assert answer.code is PromptCode.UNSUPPORTED and "tracker.recognition" in answer.message


def test_the_engine_without_a_network_says_so() -> None:
    engine = NullBackend()
    engine.step(scene(), 0)
    (answer,) = engine.add([PromptRequest(Prompt(like=photo(BLUE)))])
    assert answer.code is PromptCode.UNSUPPORTED


@pytest.mark.parametrize("window", ["off", "on"])
def test_with_non_overlap_pictures_of_one_thing_do_not_share_its_pixels(model: Sam2Model, window: str) -> None:
    prompt = Prompt(like=photo(BLUE), box=BOX)
    config = TrackerConfig(max_objects=2, search_every=1, non_overlap=True, window=window)
    tracker, _ = awaiting(model, prompt, config)
    assert tracker.add([PromptRequest(prompt)])[0].success
    for t in range(1, 6):
        found = tracker.step(scene((BLUE, 300 + 5 * t, 200)), t).objects
        assert np.add.reduce([one.mask.full() for one in found], dtype=np.int64).max() == 1
        assert all((one.state is ObjectState.VISIBLE) == (one.mask.area > 0) for one in found)
