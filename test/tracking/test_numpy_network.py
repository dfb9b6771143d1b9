"""A network in NumPy is tracked as one in PyTorch: the same states and events, and in float32 the same masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from numpy_network import in_numpy
from small_tracker import box, click, object_score, rectangle, scene, small_model

from sam2_ros.evaluation.mask_metrics import jaccard
from sam2_ros.model import Sam2Model, load_model
from sam2_ros.model.network import HOST
from sam2_ros.tracking import FrameResult, ObjectState, Prompt, PromptRequest, Tracker, TrackerConfig
from sam2_ros.tracking.everything_settings import EverythingSettings
from sam2_ros.tracking.image_segmenter import ImageSegmenter
from sam2_ros.tracking.shared_model import SharedModel
from sam2_ros.tracking.warmup import warm_up

Play: TypeAlias = Callable[[Tracker], Iterator[FrameResult]]


def compared(model: Sam2Model, config: TrackerConfig, play: Play, least: float = 0.99) -> list[FrameResult]:
    """What ``play`` gives with PyTorch's network, after the comparison with the other one. ``least``: IoU."""
    ours, theirs = Tracker(in_numpy(model), config), Tracker(model, config)
    assert ours.bank.nbytes == theirs.bank.nbytes
    found, results = list(play(ours)), list(play(theirs))
    for mine, other in zip(found, results, strict=True):
        assert [each.object_id for each in mine.objects] == [each.object_id for each in other.objects]
        assert [(each.event, each.reason) for each in mine.changes] == [
            (each.event, each.reason) for each in other.changes
        ]
        for a, b in zip(mine.objects, other.objects, strict=True):
            assert (a.state, a.window, a.prompted) == (b.state, b.window, b.prompted)
            mask, wanted = a.mask.full(), b.mask.full()
            # Rounding differs between processors; a pixel of a small mask is more than a hundredth of it.
            assert jaccard(mask, wanted) >= least or np.count_nonzero(mask != wanted) <= 1
            for name in ("object_score", "visibility", "predicted_iou"):
                assert getattr(a, name) == pytest.approx(getattr(b, name), abs=2e-3)
    for name in ("recent_frames", "conditioning_frames", "ticks"):
        assert np.array_equal(getattr(ours.bank, name), getattr(theirs.bank, name))
    mine_changes, other_changes = ours.take_changes(), theirs.take_changes()
    assert [each.reason for each in mine_changes] == [each.reason for each in other_changes]
    return results


def asked(tracker: Tracker, prompt: Prompt, object_id: int | None = None, stamp: int = 0) -> int:
    (answer,) = tracker.add([PromptRequest(prompt, object_id)], stamp)
    assert answer.success, answer.message
    return answer.object_id


SECOND = 10**9


@pytest.mark.parametrize(
    "config",
    [
        TrackerConfig(max_objects=4, lost_after=2),
        TrackerConfig(max_objects=4, lost_after=2, window="on"),
        TrackerConfig(max_objects=4, lost_after=2, window="on", non_overlap=True, hole_area=16),
        TrackerConfig(max_objects=4, prompted_slots=2, non_overlap=True, click_candidate="stable"),
        TrackerConfig(max_objects=4, reject_strays=False, look_alikes=False, click_candidate="largest"),
        TrackerConfig(max_objects=4, deadline=1e-6, click_candidate="smallest"),
    ],
    ids=["usual", "windows", "apart", "few slots", "plain", "late"],
)
def test_a_stream(config: TrackerConfig) -> None:
    """Boxes, clicks, masks, candidates, corrections, late prompts, an object that hides, and one that is removed."""
    model = small_model()

    def play(tracker: Tracker) -> Iterator[FrameResult]:
        yield tracker.step(scene(0), SECOND)
        first = asked(tracker, box())
        asked(tracker, rectangle(90, 20, 130, 60))
        for frame in range(1, 5):
            yield tracker.step(scene(frame), (1 + frame) * SECOND)
        third = asked(tracker, click(110, 90))
        asked(tracker, Prompt(candidate=2), third)
        yield tracker.step(scene(5), 6 * SECOND)
        asked(tracker, click(30, 80), first)
        asked(tracker, click(60, 60, label=0), first)
        yield tracker.step(scene(6), 7 * SECOND)
        asked(tracker, box(20, 55, 60, 100), first, 4 * SECOND)  # late
        asked(tracker, click(120, 40), None, 5 * SECOND)
        yield tracker.step(scene(7), 8 * SECOND)
        with object_score(model, -5.0):
            for frame in range(8, 12):
                yield tracker.step(scene(frame), (1 + frame) * SECOND)
        tracker.remove(third)
        for frame in range(12, 15):
            yield tracker.step(scene(frame), (1 + frame) * SECOND)
        asked(tracker, rectangle(15, 60, 40, 100), first, 14 * SECOND)
        yield tracker.step(scene(15), 16 * SECOND)

    results = compared(model, config, play)
    assert {each.state for result in results for each in result.objects} >= {ObjectState.VISIBLE, ObjectState.OCCLUDED}
    assert any(each.mask.area for each in results[-1].objects)


# -- recognition -----------------------------------------------------------------------------------------------------

SIDE, SIZE = 448, 100


def ground(square: tuple[int, int] | None) -> NDArray[np.uint8]:
    """A mottled ground, with a blue square at this left and upper edge."""
    drawn = np.random.default_rng(0)
    picture = _mottled(drawn, (140, 135, 125), SIDE, 24)
    patch = _mottled(drawn, (50, 90, 210), SIZE, 8)
    if square is not None:
        left, top = square
        picture[top : top + SIZE, left : left + SIZE] = patch
    return picture.clip(0, 255).astype(np.uint8)


def _mottled(drawn: np.random.Generator, color: tuple[int, ...], size: int, grain: int) -> NDArray[np.float64]:
    coarse = drawn.uniform(0.5, 1.5, (grain, grain))
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)[..., None] * np.array(color, np.float64)


@pytest.mark.parametrize("window", ["off", "on"])
def test_recognition(window: str) -> None:
    """An object is hidden, and comes back elsewhere."""

    def play(tracker: Tracker) -> Iterator[FrameResult]:
        yield tracker.step(ground((60, 60)), 0)
        asked(tracker, Prompt(box=np.array([60, 60, 160, 160], np.float32)))
        for frame, square in enumerate([(64, 62)] * 2 + [None] * 4 + [(300, 290)] * 4, 1):
            yield tracker.step(ground(square), frame)

    results = compared(load_model("embedded"), TrackerConfig(max_objects=1, window=window, search_every=1), play)
    assert results[6].objects[0].state is ObjectState.OCCLUDED
    assert results[-1].objects[0].state is ObjectState.VISIBLE


@pytest.mark.parametrize("trained", [True, False])
def test_a_picture_as_a_prompt(trained: bool) -> None:
    model = load_model("embedded")
    if not trained:
        model.appearance = None

    def play(tracker: Tracker) -> Iterator[FrameResult]:
        yield tracker.step(ground(None), 0)
        asked(tracker, Prompt(like=ground((40, 50)), box=np.array([40, 50, 140, 150], np.float32)))
        for frame, square in enumerate([None, (300, 290), (302, 290)], 1):
            yield tracker.step(ground(square), frame)

    results = compared(model, TrackerConfig(max_objects=1, search_every=1), play)
    assert [each.objects[0].state for each in results[1:]] == [
        ObjectState.LOST, ObjectState.VISIBLE, ObjectState.VISIBLE,
    ]  # fmt: skip


# -- what else a network is used for -----------------------------------------------------------------------------------


def test_single_images() -> None:
    ours, theirs = (ImageSegmenter(SharedModel(each)) for each in (in_numpy(small_model()), small_model()))
    prompts = [click(30, 80), box(), Prompt(box=box().box, points=click(60, 60).points, labels=click(label=0).labels)]
    answers = [each.segment(each.encode(scene(0)), prompts) for each in (ours, theirs)]
    for mine, other in zip(*answers, strict=True):
        assert mine.index == other.index and jaccard(mine.mask.full(), other.mask.full()) >= 0.999
        assert mine.predicted_iou == pytest.approx(other.predicted_iou, abs=1e-4)
        again = ours.segment(ours.encode(scene(0)), [click(30, 80)], [mine.so_far])
        assert again[0].mask.area > 0
    (masked,) = ours.segment(ours.encode(scene(0)), [rectangle(15, 60, 40, 100)])
    assert masked.mask.area > 0
    batch = ours.encode_batch([scene(0), scene(1)[:100]])
    assert [each.height for each in batch] == [120, 100]


def test_everything_in_an_image() -> None:
    settings = EverythingSettings(points=4, min_iou=0.3, min_stability=0.5, nms_iou=1.0)
    found = [
        ImageSegmenter(SharedModel(each)).everything(scene(0), settings)
        for each in (in_numpy(small_model()), small_model())
    ]
    assert len(found[0]) == len(found[1]) > 1
    for mine, other in zip(*found, strict=True):
        assert mine.point == other.point and jaccard(mine.mask.full(), other.mask.full()) >= 0.999


def test_the_warm_up() -> None:
    shared = SharedModel(in_numpy(small_model()), ahead=True)
    warm_up(shared, TrackerConfig(max_objects=3, deadline=0.1))
    assert shared.model.device is HOST and shared.ahead and not shared.batches
