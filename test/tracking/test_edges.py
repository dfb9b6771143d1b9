"""Masks get the edges of the image: the filter itself, and where the tracker uses it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_tracker import box, click, scene, small_model

from sam2_ros.inference.local import LocalBackend
from sam2_ros.model import load_model
from sam2_ros.model.sam2 import Sam2Model
from sam2_ros.tracking import Prompt, PromptRequest, Tracker, TrackerConfig, edges
from sam2_ros.tracking.edges import Edges, sharpened
from sam2_ros.tracking.history import most_bytes
from sam2_ros.tracking.image_segmenter import ImageSegmenter
from sam2_ros.tracking.masks import image_masks
from sam2_ros.tracking.objects import LiveObject
from sam2_ros.tracking.shared_model import SharedModel
from sam2_ros.tracking.types import CroppedMask
from sam2_ros.tracking.viewer import Viewer
from sam2_ros.tracking.windows import MAX_PIXELS, Window

HEIGHT, WIDTH = 120, 160
CELL = 5  # pixels of the image for one of the network's mask


@lru_cache(maxsize=1)
def embedded() -> Sam2Model:
    return load_model("embedded")


def iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float((one & other).sum() / max(1, (one | other).sum()))


def star(colour: tuple[int, int, int] = (210, 60, 40)) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A mottled picture with a star, which has edges that no coarse mask follows, and the star's mask."""
    picture = cv2.resize(
        np.random.default_rng(3).integers(90, 160, (24, 32, 3), dtype=np.uint8), (WIDTH, HEIGHT),
        interpolation=cv2.INTER_CUBIC,
    )  # fmt: skip
    angles = np.arange(10) * np.pi / 5
    corners = np.where(np.arange(10) % 2, 20, 45)[:, None] * np.stack((np.sin(angles), -np.cos(angles)), 1) + (80, 60)
    mask = cv2.fillPoly(np.zeros((HEIGHT, WIDTH), np.uint8), [corners.round().astype(np.int32)], [1]) > 0
    picture[mask] = colour
    return np.asarray(picture, np.uint8), mask


def coarse(mask: NDArray[np.bool_], shift: int = 0) -> NDArray[np.float32]:
    """Logits of a mask as a network may draw it: in coarse pixels, moved by ``shift`` of the image's."""
    moved = np.roll(mask, shift, axis=(0, 1)).astype(np.float32)
    shares = cv2.resize(moved, (WIDTH // CELL, HEIGHT // CELL), interpolation=cv2.INTER_AREA)
    return np.asarray(8 * shares - 4, np.float32)


def mask_of(logits: NDArray[np.float32]) -> NDArray[np.bool_]:
    return np.asarray(cv2.resize(logits, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR) > 0)


@pytest.mark.parametrize(("shift", "before"), [(0, 0.97), (2, 0.84)])
def test_a_coarse_mask_gets_the_edges_of_the_picture(shift: int, before: float) -> None:
    picture, mask = star()
    logits = coarse(mask, shift)
    assert iou(mask_of(logits), mask) < before
    assert iou(mask_of(sharpened(logits, picture)), mask) > 0.975


def test_a_picture_without_edges_hardly_changes_a_mask() -> None:
    _, mask = star()
    logits = coarse(mask)
    plain = np.full((HEIGHT, WIDTH, 3), 120, np.uint8)
    assert iou(mask_of(sharpened(logits, plain)), mask_of(logits)) > 0.98


def test_the_filter_is_that_of_the_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    # The definition, box by box (equations 5, 6 and 8), where colours decide alone. At the border it is free.
    monkeypatch.setattr(edges, "EXPLAINED", 1e-9)
    rng = np.random.default_rng(0)
    picture, mask = rng.integers(0, 256, (17, 19, 3), dtype=np.uint8), rng.random((17, 19), np.float32)
    colours = picture.astype(np.float32) / 255
    r = 2

    def part(values: NDArray[Any], y: int, x: int) -> NDArray[np.float64]:
        return values[y - r : y + r + 1, x - r : x + r + 1].reshape((2 * r + 1) ** 2, -1).astype(np.float64)

    a, b = np.zeros((17, 19, 3)), np.zeros((17, 19))
    for y in range(r, 17 - r):
        for x in range(r, 19 - r):
            near, target = part(colours, y, x), part(mask, y, x)[:, 0]
            covariance = np.cov(near.T, bias=True) + edges.NOISE * np.eye(3)
            a[y, x] = np.linalg.solve(covariance, (near * target[:, None]).mean(0) - near.mean(0) * target.mean())
            b[y, x] = target.mean() - a[y, x] @ near.mean(0)
    guide = edges._Guide(picture, (2 * r + 1, 2 * r + 1))
    found = edges._value(guide.functions(mask), guide.colours, mask)
    for y in range(2 * r, 17 - 2 * r):
        for x in range(2 * r, 19 - 2 * r):
            slopes, offset = part(a, y, x).mean(0), part(b, y, x).mean()
            assert found[y, x] == pytest.approx(slopes @ colours[y, x] + offset, abs=1e-3)


def test_what_would_become_another_mask_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    # A thing of a few pixels is less than half of every box, so the filter of the paper takes it away.
    monkeypatch.setattr(edges, "EXPLAINED", 1e-9)
    logits = np.full((HEIGHT // CELL, WIDTH // CELL), -9, np.float32)
    logits[10, 10] = 9
    picture = np.full((HEIGHT, WIDTH, 3), 120, np.uint8)
    expected = mask_of(logits)
    assert expected.any() and np.array_equal(mask_of(sharpened(logits, picture)), expected)
    monkeypatch.setattr(edges, "LEAST", 0.0)
    assert not mask_of(sharpened(logits, picture)).any()


def test_an_empty_mask_stays_empty() -> None:
    picture, _ = star()
    assert not (sharpened(np.full((24, 32), -1024, np.float32), picture) > 0).any()


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (7, 300), (2000, 3), (1200, 1900)])
@pytest.mark.parametrize("kept", [1.0, 0.3])
def test_windows_of_any_size_serve(size: tuple[int, int], kept: float) -> None:
    height, width = size
    picture = np.full((max(1, round(height * kept)), max(1, round(width * kept)), 3), 50, np.uint8)
    edges_of = Edges(picture, width, height)
    for window in (Window.whole(width, height), Window(width // 2, height // 2, max(width, 1), max(height, 1))):
        found = edges_of.draw(np.full((1, 8, 8), 4, np.float32), window)
        assert found.box == tuple(window) and found.crop.all() and (found.width, found.height) == (width, height)


@pytest.mark.parametrize("factor", [1, 2])
def test_masks_in_windows_of_a_smaller_picture(factor: int) -> None:
    picture, mask = star()
    window = Window(0, 20, 160, 110)
    kept = np.asarray(cv2.resize(picture, (WIDTH // factor, HEIGHT // factor), interpolation=cv2.INTER_AREA), np.uint8)
    found = Edges(kept, WIDTH, HEIGHT).draw(torch.from_numpy(coarse(mask)[None, 4:22].copy()), window).full()
    assert iou(found, mask) > (0.97, 0.93)[factor - 1]
    middles = [np.argwhere(each).mean(0) for each in (found, mask)]
    assert np.abs(middles[0] - middles[1]).max() < 0.5, "it lies where it lay"


def test_a_carried_mask_is_drawn_anew_in_its_window_only() -> None:
    picture, mask = star()
    moved = CroppedMask.from_full(np.roll(mask, 2, axis=1))
    assert iou(moved.full(), mask) < 0.88
    drawn = Edges(picture, WIDTH, HEIGHT).redraw(moved, Window(10, 0, 150, 105), 32)
    assert iou(drawn.full(), mask) > 0.95
    cut = Window(10, 0, 100, 105)  # through the star
    assert Edges(picture, WIDTH, HEIGHT).redraw(moved, cut, 32) is moved


@pytest.mark.parametrize("colours", [(255, 0), (120, 121), (250, 5)])
def test_grey_pictures_have_edges_too(colours: tuple[int, int]) -> None:
    # All three colours are the same there, so that nearly nothing is left of the determinant of their covariances.
    _, mask = star()
    inside, outside = colours
    picture = np.where(mask[..., None], np.uint8(inside), np.uint8(outside)).repeat(3, axis=2)
    assert iou(mask_of(sharpened(coarse(mask, 2), picture)), mask) > (0.97 if abs(inside - outside) > 1 else 0.8)
    noise = np.random.default_rng(1).integers(0, 2, (60, 80, 1), dtype=np.uint8).repeat(3, axis=2) * np.uint8(255)
    inverse = np.array(edges._Guide(noise, (5, 5))._inverse, np.float64)
    expected = np.linalg.inv(covariances(noise, 2))
    there = inverse[:, :, 2:-2, 2:-2].transpose(2, 3, 0, 1)
    assert np.abs(there - expected).max() < 0.01 * np.abs(expected).max()


def covariances(picture: NDArray[np.uint8], reach: int) -> NDArray[np.float64]:
    """Of the colours in the boxes that lie wholly in the picture, ``[h, w, 3, 3]``."""
    side = 2 * reach + 1
    boxes = np.lib.stride_tricks.sliding_window_view(picture / 255, (side, side), axis=(0, 1))
    flat = boxes.reshape(*boxes.shape[:3], side * side)
    centred = flat - flat.mean(-1, keepdims=True)
    return np.asarray(centred @ centred.swapaxes(-1, -2) / side**2 + edges.NOISE * np.eye(3))


# -- the tracker ---------------------------------------------------------------------------------------------


def test_auto_means_the_embedded_model_and_not_the_reference_policy() -> None:
    config = TrackerConfig()
    assert config.follows_edges(embedded().config.windows) and not config.follows_edges(small_model().config.windows)
    assert TrackerConfig(edges="on").follows_edges(False) and not TrackerConfig(edges="off").follows_edges(True)
    assert not TrackerConfig(edges="on", reference_policy=True).follows_edges(True)


def frames(enlarged: int = 4, around: int = 0) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.bool_]]]:
    """An enlarged star on a mottled ground that moves a little, with ``around`` pixels of the ground on all sides."""
    picture, mask = star()
    for index in range(4):
        pair = np.roll(picture, 4 * index, axis=1), np.roll(mask, 4 * index, axis=1)
        image, truth = (each.repeat(enlarged, axis=0).repeat(enlarged, axis=1) for each in pair)
        margins = (around, around), (around, around)
        yield np.pad(image, (*margins, (0, 0)), mode="reflect"), np.pad(truth, margins)


def mean_iou(setting: str, window: str, around: int) -> float:
    tracker, found = Tracker(embedded(), TrackerConfig(2, edges=setting, window=window)), []
    for index, (picture, mask) in enumerate(frames(around=around)):
        result = tracker.step(picture, index + 1)
        if index == 0:
            assert tracker.add([PromptRequest(Prompt(mask=mask))])[0].success
        else:
            (obj,) = result.objects
            whole = obj.window == (0, 0, picture.shape[1], picture.shape[0])
            assert whole is not (window == "on" and around > 0), "what is tested is what was meant"
            found.append(iou(obj.mask.full(), mask))
    return float(np.mean(found))


@pytest.mark.parametrize("window, around", [("off", 0), ("on", 0), ("on", 400)])
def test_the_embedded_model_draws_a_star_better(window: str, around: int) -> None:
    off, auto = mean_iou("off", window, around), mean_iou("auto", window, around)
    assert auto > 0.95 and auto > off + 0.01, (off, auto)


def shown(setting: str, *prompts: Prompt, **settings: Any) -> tuple[list[NDArray[np.bool_]], list[LiveObject]]:
    """Masks of a prompted frame and three tracked ones of the small network, in results and in the tracker."""
    tracker, found, kept = Tracker(small_model(), TrackerConfig(3, edges=setting, **settings)), [], []
    for index in range(4):
        result = tracker.step(scene(index), index + 1)
        if index == 0:
            answers = tracker.add([PromptRequest(prompt) for prompt in prompts])
            found += [answer.result.mask.full() for answer in answers if answer.result is not None]
        found += [obj.mask.full() for obj in result.objects]
        kept += [obj.snapshot() for obj in tracker._objects.values()]
    return found, kept


@pytest.mark.parametrize("non_overlap", [False, True])
def test_tracking_does_not_depend_on_edges(non_overlap: bool) -> None:
    off, before = shown("off", box(), click(90, 40), non_overlap=non_overlap)
    on, after = shown("on", box(), click(90, 40), non_overlap=non_overlap)
    for one, other in zip(before, after, strict=True):
        assert one.mask is not None and other.mask is not None
        assert np.array_equal(one.mask.full(), other.mask.full()) and one.box == other.box
        assert (one.state, one.object_score, one.drawn) == (other.state, other.object_score, None)
    assert not any((a ^ b).any() for a, b in zip(off, [obj.mask.full() for obj in before if obj.mask], strict=True))
    pairs = [(a, b) for a, b in zip(off, on, strict=True) if a.sum() > 200]
    assert len(pairs) >= 5 and all((a != b).any() for a, b in pairs)
    assert min(iou(a, b) for a, b in pairs) > 0.35, "a random network's masks are ragged"
    if non_overlap:
        assert not any((a & b).any() for a, b in zip(on[::2], on[1::2], strict=True))


def test_a_late_prompt_is_answered_with_edges_on_its_own_frame() -> None:
    answered: list[NDArray[np.bool_]] = []
    newest: list[NDArray[np.bool_]] = []
    for late in (False, True):
        tracker = Tracker(small_model(), TrackerConfig(3, edges="on"))
        tracker.step(scene(0), 1)
        if not late:
            (answer,) = tracker.add([PromptRequest(box())])
        tracker.step(scene(1), 2)
        if late:
            (answer,) = tracker.add([PromptRequest(box())], stamp=1)
        now = tracker.objects()
        assert answer.result is not None and now is not None
        answered.append(answer.result.mask.full())
        newest.append(now.objects[0].mask.full())
    assert np.array_equal(answered[0], answered[1]) and np.array_equal(newest[0], newest[1])
    plain = shown("off", box())[0]
    assert (plain[0] ^ answered[0]).any() and (plain[2] ^ newest[0]).any()


def test_what_waits_for_its_turn_gets_edges() -> None:
    # Two stars take turns. On each frame the mask of one is carried.
    masks: dict[str, list[float]] = {"auto": [], "off": []}
    for setting, found in masks.items():
        tracker = Tracker(embedded(), TrackerConfig(2, edges=setting, window="on", window_budget=0.1))
        for index, (picture, mask) in enumerate(frames(3)):
            both = np.concatenate((picture, picture[:, ::-1]), axis=1)
            none = np.zeros_like(mask)
            truths = np.concatenate((mask, none), axis=1), np.concatenate((none, mask[:, ::-1]), axis=1)
            result = tracker.step(np.ascontiguousarray(both), index + 1)
            if index == 0:
                answers = tracker.add([PromptRequest(Prompt(mask=truth)) for truth in truths])
                assert all(answer.success for answer in answers)
                continue
            found += [
                iou(o.mask.full(), truth) for o, truth in zip(result.objects, truths, strict=True) if not o.window
            ]
    assert len(masks["auto"]) == len(masks["off"]) >= 3 and np.mean(masks["auto"]) > 0.96
    assert np.mean(masks["auto"]) > np.mean(masks["off"]) + 0.005, masks


@pytest.mark.parametrize("non_overlap", [False, True])
@pytest.mark.parametrize("late", [False, True])
def test_a_given_mask_is_shown_as_it_was_given(non_overlap: bool, late: bool) -> None:
    given = np.zeros(scene(0).shape[:2], np.bool_)
    given[21:90, 30:101] = True
    tracker = Tracker(small_model(), TrackerConfig(3, edges="on", non_overlap=non_overlap))
    tracker.step(scene(0), 1)
    if late:
        tracker.step(scene(1), 2)
    (answer,) = tracker.add([PromptRequest(Prompt(mask=given))], stamp=1)
    now = tracker.objects()
    assert answer.result is not None and np.array_equal(answer.result.mask.full(), given) and now is not None
    assert np.array_equal(now.objects[0].mask.full(), given) is not late
    second = tracker.add([PromptRequest(box(60, 20, 130, 100))])[0].result
    assert second is not None and second.mask.area
    one, other = (obj.mask.full() for obj in (tracker.objects() or now).objects)
    assert not non_overlap or not (one & other).any()


def test_a_prompt_that_fails_takes_no_pixels_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = Tracker(small_model(), TrackerConfig(3, edges="on", non_overlap=True))
    tracker.step(scene(0), 1)
    tracker.add([PromptRequest(box())])
    before = tracker.objects()

    def fails(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(Viewer, "draw", fails)
        with pytest.raises(MemoryError):
            tracker.add([PromptRequest(box(15, 60, 40, 80))])
    after = tracker.objects()
    assert before is not None and after is not None and len(after.objects) == 1
    assert np.array_equal(before.objects[0].mask.full(), after.objects[0].mask.full())


def test_candidates_have_the_edges_of_the_mask() -> None:
    tracker = Tracker(small_model(), TrackerConfig(3, edges="on"))
    tracker.step(scene(0), 1)
    (answer,) = tracker.add([PromptRequest(click())])
    assert answer.result is not None and len(answer.candidates) == 3
    best = max(answer.candidates, key=lambda each: each.predicted_iou)
    assert np.array_equal(answer.result.mask.full(), best.mask.full())


def test_the_setting_changes_while_objects_are_tracked() -> None:
    tracker = Tracker(small_model(), TrackerConfig(3, edges="off"))
    tracker.step(scene(0), 1)
    tracker.add([PromptRequest(box())])
    tracker.configure(TrackerConfig(3, edges="on"))
    assert tracker.history.newest is not None and tracker.history.newest.image is None
    (answer,) = tracker.add([PromptRequest(click(90, 40))])  # on a frame without its image
    second = tracker._objects[2]
    assert answer.result is not None and answer.result.mask is second.mask
    result = tracker.step(scene(1), 2)
    first = tracker._objects[1]
    assert result.objects[0].mask is first.shown and first.mask is not None and first.mask.area
    assert result.objects[0].mask is not first.mask
    assert all(kept.drawn is None for kept in tracker.history.newest.objects.values())
    tracker.configure(TrackerConfig(3, edges="off"))
    plain = tracker.step(scene(2), 3)
    assert all(obj.mask is tracker._objects[obj.object_id].mask for obj in plain.objects)


def test_stored_images_are_counted() -> None:
    config, nine = small_model().config, 9 * MAX_PIXELS * 3
    sizes = [
        most_bytes(config, TrackerConfig(edges=setting), "float32", config.image_size) for setting in ("off", "on")
    ]
    assert sizes[1] - sizes[0] == nine


def test_single_images_have_edges_with_the_embedded_model_only() -> None:
    ((large, truth), *_) = frames()
    prompt = Prompt(box=np.array(CroppedMask.from_full(truth).box, np.float32))
    shared = SharedModel(embedded())
    segmenter = ImageSegmenter(shared)
    for encoded in (segmenter.encode(large), *segmenter.encode_batch([large])):
        (found,) = segmenter.segment(encoded, [prompt])
        (plain,) = image_masks(torch.from_numpy(found.so_far[None, None]), 480, 640, non_overlap=False)
        assert iou(found.mask.full(), truth) > iou(plain.full(), truth) + 0.01
    assert ImageSegmenter(SharedModel(small_model())).encode(large).edges is None


def test_the_newest_frame_is_segmented_as_the_setting_says() -> None:
    ((large, truth), *_) = frames()
    request = PromptRequest(Prompt(box=np.array(CroppedMask.from_full(truth).box, np.float32)))
    found = {}
    for setting in ("auto", "off"):
        backend = LocalBackend(SharedModel(embedded()), TrackerConfig(2, edges=setting))
        backend.step(large, 1)
        (answer,) = backend.images.segment_newest([request])
        alone = backend.images.answer(backend.images.encode(large), request)
        assert answer.result is not None and alone.result is not None
        assert np.array_equal(answer.result.mask.full(), alone.result.mask.full())
        found[setting] = iou(answer.result.mask.full(), truth)
        backend.close()
    assert found["auto"] > found["off"] + 0.01
