"""Masks in the size of the image: cropping, hole filling and non-overlap against slow, plain versions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from small_tracker import add, box, click, run, scene, small_model, stepped

from sam2_ros.tracking import CroppedMask, PromptRequest, Tracker, TrackerConfig
from sam2_ros.tracking.cuda_masks import pack_masks
from sam2_ros.tracking.masks import FILLED_LOGIT, fill_holes, image_masks, suppress_overlap

Bools = NDArray[np.bool_]


def blobs(seed: int, size: int, count: int = 3) -> torch.Tensor:
    """Smooth random logits ``[count, 1, size, size]`` with islands and holes of many sizes."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 1, size // 3, size // 3, generator=generator)
    return F.interpolate(coarse, (size, size), mode="bicubic") * 4


# -- cropped masks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_cropping_keeps_every_pixel(seed: int) -> None:
    random = np.random.default_rng(seed)
    full = np.zeros((20, 30), np.bool_)
    full[tuple(random.integers(0, size, 4) for size in full.shape)] = True
    mask = CroppedMask.from_full(full)
    assert np.array_equal(mask.full(), full)
    assert mask.area == np.count_nonzero(full)
    rows, columns = np.nonzero(full)
    assert mask.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert mask.crop[0].any() and mask.crop[-1].any() and mask.crop[:, 0].any() and mask.crop[:, -1].any()
    assert mask.crop.flags.c_contiguous and not np.shares_memory(mask.crop, full)


def test_an_empty_mask() -> None:
    mask = CroppedMask.from_full(np.zeros((20, 30), np.bool_))
    assert mask.crop.shape == CroppedMask.empty(30, 20).crop.shape == (0, 0)
    assert (mask.box, mask.area, mask.width, mask.height) == ((0, 0, 0, 0), 0, 30, 20)
    assert mask.full().shape == (20, 30) and not mask.full().any()


# -- to the image's size -------------------------------------------------------------------------------------


@pytest.mark.parametrize("non_overlap", [False, True])
def test_a_logit_of_zero_is_background(non_overlap: bool) -> None:
    assert [mask.area for mask in image_masks(torch.zeros(2, 1, 4, 4), 9, 9, non_overlap)] == [0, 0]


def bilinear(logits: NDArray[np.float32], height: int, width: int) -> NDArray[np.float64]:
    """Pixel centres map to pixel centres; beyond the outermost centres, the edge goes on."""
    out = np.zeros((height, width))
    rows, columns = logits.shape
    for y in range(height):
        for x in range(width):
            v = min(max((y + 0.5) * rows / height - 0.5, 0), rows - 1)
            u = min(max((x + 0.5) * columns / width - 0.5, 0), columns - 1)
            y0, x0 = int(v), int(u)
            y1, x1 = min(y0 + 1, rows - 1), min(x0 + 1, columns - 1)
            top = logits[y0, x0] * (x0 + 1 - u) + logits[y0, x1] * (u - x0)
            bottom = logits[y1, x0] * (x0 + 1 - u) + logits[y1, x1] * (u - x0)
            out[y, x] = top * (y0 + 1 - v) + bottom * (v - y0)
    return out


@pytest.mark.parametrize(("height", "width"), [(50, 70), (12, 16)])
def test_masks_in_the_size_of_the_image(height: int, width: int) -> None:
    logits = blobs(0, 24)
    masks = image_masks(logits, height, width, non_overlap=False)
    for one, mask in zip(logits[:, 0].numpy(), masks, strict=True):
        expected = bilinear(one, height, width)
        sure = np.abs(expected) > 1e-4
        assert np.array_equal(mask.full()[sure], (expected > 0)[sure])
        assert 0 < mask.area < height * width


def test_an_object_without_a_positive_logit_has_an_empty_mask() -> None:
    logits = blobs(0, 24)
    logits[1] = -1024.0
    masks = image_masks(logits, 50, 70, non_overlap=False)
    assert [mask.area > 0 for mask in masks] == [True, False, True]


# -- holes ---------------------------------------------------------------------------------------------------


def filled_by_hand(logits: NDArray[np.float32], max_area: int) -> NDArray[np.float32]:
    """Flood fill of every background region over eight neighbours."""
    out, background = logits.copy(), logits <= 0
    seen = np.zeros_like(background)
    for start in zip(*np.nonzero(background), strict=True):
        if seen[start]:
            continue
        region, waiting = [], [start]
        seen[start] = True
        while waiting:
            y, x = waiting.pop()
            region.append((y, x))
            for v in range(max(0, y - 1), min(y + 2, out.shape[0])):
                for u in range(max(0, x - 1), min(x + 2, out.shape[1])):
                    if background[v, u] and not seen[v, u]:
                        seen[v, u] = True
                        waiting.append((v, u))
        if len(region) <= max_area:
            out[tuple(zip(*region, strict=True))] = FILLED_LOGIT
    return out


@pytest.mark.parametrize("max_area", [1, 8, 40])
def test_hole_filling(max_area: int) -> None:
    """As a flood fill does it; at eight neighbours, at an area of exactly the limit."""
    logits = torch.cat([blobs(seed, 48) for seed in range(3)])
    filled = fill_holes(logits, max_area)
    for one, other in zip(logits[:, 0].numpy(), filled[:, 0].numpy(), strict=True):
        assert np.array_equal(other, filled_by_hand(one, max_area))
    assert not torch.equal(filled, logits)


def test_holes_that_touch_at_a_corner_are_one() -> None:
    logits = torch.ones(1, 1, 8, 8)
    logits[0, 0, 2, 2] = logits[0, 0, 3, 3] = -1.0
    assert torch.equal(fill_holes(logits, 1), logits)
    assert (fill_holes(logits, 2) > 0).all()


def test_the_tracker_fills_holes() -> None:
    plain, filling = (
        Tracker(small_model(), TrackerConfig(max_objects=1, hole_area=area, stability_fallback=False))
        for area in (0, 30)
    )
    filled = 0
    for tracker in (plain, filling):
        stepped(tracker, [click()])
    for one, other in zip(plain._objects.values(), filling._objects.values(), strict=True):
        assert one.logits is not None and other.logits is not None
        assert torch.equal(fill_holes(one.logits[None], 30)[0], other.logits)
        filled += int((one.logits != other.logits).sum())
    for frame in range(1, 6):
        filling.step(scene(frame), frame)
        (one,) = filling._objects.values()
        assert one.logits is not None
        assert torch.equal(fill_holes(one.logits[None], 30)[0], one.logits)  # nothing is left to fill
        filled += int((one.logits == FILLED_LOGIT).sum())
    assert filled > 0


# -- overlap -------------------------------------------------------------------------------------------------


def test_every_pixel_goes_to_the_highest_logit() -> None:
    logits = blobs(3, 24, count=4)
    kept = suppress_overlap(logits)
    for y in range(24):
        for x in range(24):
            column, result = logits[:, 0, y, x], kept[:, 0, y, x]
            winner = int(column.argmax())
            for index in range(4):
                expected = column[index] if index == winner else min(column[index], torch.tensor(-10.0))
                assert result[index] == expected
    alone = logits[:1]
    assert torch.equal(suppress_overlap(alone), alone)


def together(masks: list[Bools]) -> int:
    """The greatest number of masks that share a pixel."""
    return int(np.sum([mask.astype(int) for mask in masks], axis=0).max())


def test_the_tracker_keeps_masks_apart() -> None:
    """Also on the frame of a prompt; without the setting they overlap."""
    apart, overlapping = (Tracker(small_model(), TrackerConfig(max_objects=3, non_overlap=on)) for on in (True, False))
    most = {}
    for tracker in (apart, overlapping):
        stepped(tracker, [box(), click(90, 40)])
        shared = []
        for frame in range(1, 4):
            result = tracker.step(scene(frame), frame)
            shared.append(together([one.mask.full() for one in result.objects]))
            if frame == 2:
                add(tracker, box(40, 20, 120, 110))
            tracker.refine(PromptRequest(click(60, 60), 1))
            newest = tracker.objects()
            assert newest is not None
            shared.append(together([one.mask.full() for one in newest.objects]))
        most[tracker] = max(shared)
    assert most[apart] == 1 and most[overlapping] > 1


def test_non_overlap_concerns_the_masks_only() -> None:
    """What is remembered is as without it, so that objects stay independent."""
    trackers = [Tracker(small_model(), TrackerConfig(max_objects=2, non_overlap=on)) for on in (True, False)]
    for tracker in trackers:
        stepped(tracker, [box(), click(90, 40)])
        run(tracker, 1, 3)
    assert torch.equal(trackers[0].bank.spatial, trackers[1].bank.spatial)


@pytest.mark.parametrize("width", [1, 7, 8, 9, 30, 64])
def test_a_packed_mask_is_cropped_as_a_plain_one(width: int) -> None:
    random = np.random.default_rng(width)
    for _ in range(20):
        full = np.zeros((11, width), np.bool_)
        full[tuple(random.integers(0, size, 3) for size in full.shape)] = True
        plain, packed = CroppedMask.from_full(full), CroppedMask.from_packed(np.packbits(full, axis=1), width)
        assert packed.box == plain.box and np.array_equal(packed.full(), full)
        assert packed.crop.shape == plain.crop.shape


@pytest.mark.parametrize(("height", "width"), [(24, 24), (60, 43), (9, 8)])
def test_masks_that_are_packed_first_are_the_same(height: int, width: int) -> None:
    logits = blobs(4, 24)
    for bits, plain in zip(
        pack_masks(logits, height, width).numpy(), image_masks(logits, height, width, False), strict=True
    ):
        packed = CroppedMask.from_packed(bits, width)
        assert packed.box == plain.box and np.array_equal(packed.full(), plain.full())
