"""Everything in an image: the same masks as the reference's automatic mask generator, and each step by itself."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from image_reference import mask_generator, reference_module
from numpy.typing import NDArray
from parity_stages import Pair, build_pair
from sam2_reference import without_initialisation
from small_tracker import scene, small_model

from sam2_ros.model import ModelConfig, Sam2Model
from sam2_ros.tracking.everything import crops_of, grid, suppress, without_small
from sam2_ros.tracking.everything_settings import SMALL_MODEL, EverythingSettings
from sam2_ros.tracking.image_segmenter import ImageSegmenter
from sam2_ros.tracking.segmentation import FoundMask
from sam2_ros.tracking.shared_model import SharedModel

Masks = NDArray[np.bool_]


@lru_cache(maxsize=1)
def pair() -> Pair:
    """The drawn weights alone cover the image with specks. Lower and steeper logits leave masks of many sizes."""
    both = build_pair("tiny", "2.1", 128)
    state = both.model.state_dict()
    constant = "sam_mask_decoder.output_upscaling.3.bias"
    changes = {constant: state[constant].clone()}
    changes[constant][0] = 50.0  # channel 0 of the map becomes constant, so that its weight shifts the logits
    for mask in range(4):
        weight, bias = (
            f"sam_mask_decoder.output_hypernetworks_mlps.{mask}.layers.2.{kind}" for kind in ("weight", "bias")
        )
        changes[weight], changes[bias] = 3 * state[weight], state[bias].clone()
        changes[weight][0], changes[bias][0] = 0.0, -15.0 / 50.0
    for network in both:
        network.load_state_dict(changes, strict=False)
    return both


def matched(ours: list[Masks], reference: list[Masks]) -> float:
    """Share of both sets that have a partner of IoU 0.99 or more."""
    one, other = (np.array([mask.ravel() for mask in masks], np.float32) for masks in (ours, reference))
    shared = one @ other.T
    iou = shared / (one.sum(axis=1)[:, None] + other.sum(axis=1)[None] - shared)
    found = (iou.max(axis=1) >= 0.99).sum() + (iou.max(axis=0) >= 0.99).sum()
    return float(found / (len(ours) + len(reference)))


@pytest.mark.parametrize(
    ("ours", "reference"),
    [
        (EverythingSettings(points=16, min_iou=0.1, min_stability=0.8), {}),
        (
            EverythingSettings(points=12, min_iou=0.1, min_stability=0.7, crop_layers=1, crop_points_factor=2, batch=7),
            {"crop_n_layers": 1, "crop_n_points_downscale_factor": 2, "points_per_batch": 7},
        ),
        (EverythingSettings(points=16, min_iou=0.1, min_stability=0.8, min_region=30), {}),
    ],
    ids=["whole image", "crops", "small regions"],
)
def test_finds_what_the_reference_finds(ours: EverythingSettings, reference: dict[str, Any]) -> None:
    generator = mask_generator(
        pair().reference, points_per_side=ours.points, pred_iou_thresh=ours.min_iou,
        stability_score_thresh=ours.min_stability, box_nms_thresh=ours.nms_iou, **reference,
    )  # fmt: skip
    data = generator._generate_masks(scene(3))
    amg = reference_module("sam2.utils.amg")
    if ours.min_region:
        data._stats["boxes"] = torch.as_tensor(data["boxes"])
        for name in ("iou_preds", "points", "stability_score", "crop_boxes"):
            data._stats[name] = torch.as_tensor(data[name])
        data = generator.postprocess_small_regions(data, ours.min_region, ours.nms_iou)
    expected = [amg.rle_to_mask(rle) for rle in data["rles"]]
    found = ImageSegmenter(SharedModel(pair().model)).everything(scene(3), ours)
    assert len(expected) > 20, len(expected)
    assert matched([each.mask.full() for each in found], expected) >= 0.98
    if not ours.min_region:
        best = {tuple(np.round(each.point, 2)): each for each in found}
        points, stable = np.asarray(data["points"]), np.asarray(data["stability_score"])
        same = [(best.get(tuple(np.round(p, 2))), s) for p, s in zip(points.tolist(), stable.tolist(), strict=True)]
        assert np.median([abs(one.stability - s) for one, s in same if one is not None]) < 1e-3


def test_the_steps_are_the_same_in_any_batch() -> None:
    segmenter = ImageSegmenter(SharedModel(small_model()))
    settings = EverythingSettings(points=6, min_iou=0.0, min_stability=0.1, crop_layers=1, nms_iou=1.0)
    finder, shares = segmenter.finder(scene(0), settings), []
    for share in finder.steps(5):
        shares.append(share)
    expected = segmenter.everything(scene(0), settings)
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 1 and len(shares) > 5 * 7
    assert (
        len(expected) > 1 and matched(*([each.mask.full() for each in some] for some in (finder.found, expected))) == 1
    )


def test_what_was_found_before_an_interruption_stays() -> None:
    segmenter = ImageSegmenter(SharedModel(small_model()))
    settings = EverythingSettings(points=6, min_iou=0.0, min_stability=0.1, crop_layers=1, nms_iou=1.0)
    finder = segmenter.finder(scene(0), settings)
    steps, counts = finder.steps(12), []
    for _ in range(5):
        next(steps)
        counts.append(len(finder.found))
    assert counts[0] == 0 < counts[1] < counts[3] and counts == sorted(counts)
    assert all(each.crop == (0, 0, 160, 120) for each in finder.found)


def test_a_higher_threshold_keeps_fewer() -> None:
    segmenter = ImageSegmenter(SharedModel(small_model()))

    def found(min_iou: float = 0.0, min_stability: float = 0.0) -> list[FoundMask]:
        return segmenter.everything(scene(0), EverythingSettings(8, 64, min_iou, min_stability, nms_iou=1.0))

    loose = found()
    assert len(loose) == 8 * 8 * 3
    middle = float(np.median([each.predicted_iou for each in loose])), float(np.median([e.stability for e in loose]))
    good, stable = found(min_iou=middle[0]), found(min_stability=middle[1])
    assert 0 < len(good) < len(loose) and all(each.predicted_iou > middle[0] for each in good)
    assert 0 < len(stable) < len(loose) and all(each.stability >= middle[1] for each in stable)


def test_the_grid_and_the_crops_are_the_references() -> None:
    amg = reference_module("sam2.utils.amg")
    for count in (1, 5, 32):
        np.testing.assert_allclose(grid(count), amg.build_point_grid(count), atol=1e-12)
    for size in ((640, 480), (481, 1000), (64, 64)):
        boxes, layers = amg.generate_crop_boxes(size[::-1], 3, 512 / 1500)
        expected = [(tuple(box), layer) for box, layer in zip(boxes, layers, strict=True)]
        assert crops_of(*size, EverythingSettings(crop_layers=3)) == expected


def test_of_two_doubles_the_better_stays() -> None:
    boxes = [(0, 0, 10, 10), (0, 0, 10, 9), (20, 20, 30, 30), (0, 0, 0, 0)]
    assert suppress(boxes, np.array([0.5, 0.9, 0.1, 0.0]), 0.7) == [1, 2, 3]
    assert suppress(boxes, np.array([0.5, 0.9, 0.1, 0.0]), 0.95) == [1, 0, 2, 3]
    assert suppress([], np.zeros(0), 0.7) == []


@pytest.mark.parametrize("holes", [True, False])
@pytest.mark.parametrize("least", [1, 12, 10_000])
def test_small_regions_go_as_in_the_reference(holes: bool, least: int) -> None:
    amg = reference_module("sam2.utils.amg")
    random = np.random.default_rng(0)
    coarse = random.random((12, 15)) > 0.5
    mask = np.kron(coarse, np.ones((3, 3), np.bool_)).astype(np.bool_)
    mask[5, 7] ^= True
    expected, changed = amg.remove_small_regions(mask, least, "holes" if holes else "islands")
    found, ours = without_small(mask, least, holes)
    assert np.array_equal(found, expected) and ours == changed


def test_the_embedded_model_has_thresholds_of_its_own() -> None:
    official, small = (ImageSegmenter(SharedModel(m)).everything_settings(points=9) for m in (pair().model, embedded()))
    assert official == EverythingSettings(points=9)
    assert small == replace(official, **SMALL_MODEL) != official


def embedded() -> Sam2Model:
    with without_initialisation():
        return Sam2Model(ModelConfig("embedded", trunk="tinyvit", image_size=64, high_res_channels=(64, 128)))


def test_settings_have_ranges() -> None:
    with pytest.raises(ValueError, match="points is 0; accepted: 1 to 256"):
        EverythingSettings(points=0)
