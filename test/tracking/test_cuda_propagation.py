"""A GPU encodes memories before the host has judged the masks, in padded graphs; the tracks are those of looking first.

Here the graphs run on the CPU, where they are plain calls on the same tensors.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from small_tracker import box, click, logits, object_score, run, small_model, stepped

from sam2_ros.model import Sam2Model, load_model
from sam2_ros.tracking import (
    CroppedMask,
    FrameResult,
    Tracker,
    TrackerConfig,
    cuda_encoder,
    cuda_propagation,
    mask_parts,
    shared_model,
)
from sam2_ros.tracking.cuda_graphs import Capacity, TrackingGraphs, buckets
from sam2_ros.tracking.cuda_masks import pack_masks
from sam2_ros.tracking.masks import image_masks
from sam2_ros.tracking.shared_model import SharedModel
from sam2_ros.tracking.warmup import warm_up


def own_model() -> Sam2Model:
    """A copy: graphs change the layout of weights, and other tests compare to the last digit."""
    return copy.deepcopy(small_model())


def tracked(
    config: TrackerConfig, use_graphs: bool, objects: int = 3
) -> tuple[list[FrameResult], list[torch.Tensor], torch.Tensor]:
    """Results, last logits and the bank of a stream in which every object hides for a while and comes back, and one is
    new when the others have memories."""
    shared = SharedModel(own_model(), use_graphs=use_graphs)
    tracker = Tracker(shared.model, config, shared=shared)
    assert tracker._propagation.use_graphs == use_graphs, "and not plainly the same"
    ids = stepped(tracker, [box(), box(60, 10, 100, 60)][: objects - 1])
    results = run(tracker, 1, 4)
    ids += stepped(tracker, [click(120, 90)], 5)
    results += run(tracker, 6, 8)
    with object_score(tracker.model, -5.0):
        results += run(tracker, 9, 13)
    results += run(tracker, 14, 27)
    if use_graphs and not (config.tells_apart and objects == 3):  # there, masks of one thing are not remembered
        assert any(each.full for each in shared._graphs), "in the end all memories are full"
    return results, [logits(tracker, each) for each in ids], tracker.bank.spatial


def the_same(one: list[FrameResult], other: list[FrameResult]) -> None:
    for result, same in zip(one, other, strict=True):
        assert [each.state for each in result.objects] == [each.state for each in same.objects]
        for mine, others in zip(result.objects, same.objects, strict=True):
            # With non-overlap a pixel may lie between two objects to the last digit.
            assert np.count_nonzero(mine.mask.full() != others.mask.full()) <= 8
            assert mine.object_score == pytest.approx(others.object_score, abs=1e-3)
            assert mine.predicted_iou == pytest.approx(others.predicted_iou, abs=1e-4)


@pytest.mark.parametrize(
    "config",
    [
        TrackerConfig(max_objects=3, lost_after=3, search_every=2),
        TrackerConfig(max_objects=6, lost_after=3, search_every=2, reject_strays=False),
        TrackerConfig(max_objects=5, lost_after=3, search_every=2, occluded_after=2),
        TrackerConfig(max_objects=3, non_overlap=True),
        TrackerConfig(max_objects=3, hole_area=4),
        TrackerConfig(max_objects=3, reference_policy=True),
        TrackerConfig(max_objects=3, lost_after=3, search_every=2, window="on"),
    ],
    ids=["default", "whole masks", "hysteresis", "non-overlap", "holes", "reference", "windows"],
)
@pytest.mark.parametrize("objects", [2, 3])
def test_gives_the_same(config: TrackerConfig, objects: int) -> None:
    results, low, bank = tracked(config, False, objects)
    others, other_low, other_bank = tracked(config, True, objects)
    states = {one.state for result in results for one in result.objects}
    assert len(states) >= 2, "objects hide, and are remembered or not"
    the_same(results, others)
    for one_low, same_low in zip(low, other_low, strict=True):
        torch.testing.assert_close(one_low, same_low, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(bank.float(), other_bank.float(), rtol=1e-2, atol=1e-2)


def test_what_the_host_rejects_is_worked_out_encode_again() -> None:
    """Every mask loses all of its parts but the largest."""

    def largest(parts: mask_parts.Parts, *_: Any) -> Any:
        return parts.areas == parts.areas.max()

    config = TrackerConfig(max_objects=3, lost_after=3)
    with (
        mock.patch.object(mask_parts, "own_parts", largest),
        mock.patch.object(
            cuda_propagation.CudaPropagation, "_encode_again", autospec=True, side_effect=_AGAIN
        ) as again,
    ):
        results, _, bank = tracked(config, False)
        assert not again.called
        others, _, other_bank = tracked(config, True)
        assert again.called, "some mask has more than one part"
    the_same(results, others)
    torch.testing.assert_close(bank.float(), other_bank.float(), rtol=1e-2, atol=1e-2)


_AGAIN = cuda_propagation.CudaPropagation._encode_again


def test_it_looks_first_from_when_recognition_is_turned_on() -> None:
    plain = TrackerConfig(max_objects=2, recognition=False)
    shared = SharedModel(load_model("embedded"), use_graphs=True)
    live = Tracker(shared.model, plain, shared=shared)
    assert live._propagation.use_graphs
    live.configure(replace(plain, recognition=True))
    assert not live._propagation.use_graphs
    live.configure(plain)
    assert live._propagation.use_graphs


def test_every_graph_is_captured_before_the_first_live_frame() -> None:
    shared, config = SharedModel(own_model(), use_graphs=True), TrackerConfig(max_objects=5, lost_after=3)
    warm_up(shared, config)
    with mock.patch.object(TrackingGraphs, "__init__", side_effect=AssertionError("captured in a live frame")):
        tracker = Tracker(shared.model, config, shared=shared)
        stepped(tracker, [box(), box(60, 10, 100, 60), click(120, 90)])
        assert len(run(tracker, 1, 3)[-1].objects) == 3
    assert buckets(5) == [1, 2, 4, 5] and buckets(16) == [1, 2, 4, 8, 16] and buckets(1) == [1]


def test_goes_on_without_a_graph_that_cannot_be_captured() -> None:
    """As when a GPU has too little memory for so many objects: first with room for less than full memories, then
    without a graph."""
    config = TrackerConfig(max_objects=3)
    wanted, made = tracked(config, False)[0], TrackingGraphs.__init__

    def refusing(what: Callable[[Capacity], bool]) -> Any:
        def init(self: TrackingGraphs, model: Any, capacity: Capacity, *others: Any) -> None:
            if what(capacity):
                raise torch.OutOfMemoryError("CUDA out of memory")
            made(self, model, capacity, *others)

        return mock.patch.object(TrackingGraphs, "__init__", init)

    for what in (lambda capacity: capacity.full, lambda capacity: True):
        with refusing(what), pytest.warns(UserWarning, match="no CUDA graph .* CUDA out of memory"):
            the_same(wanted, tracked(config, True)[0])


def test_goes_on_without_a_graph_of_the_encoder() -> None:
    config = TrackerConfig(max_objects=3)
    wanted = tracked(config, False)[0]
    refused = mock.patch.object(cuda_encoder, "CudaGraph", side_effect=RuntimeError("no C compiler"))
    with refused as asked, pytest.warns(UserWarning, match="no CUDA graph for the image encoder.* no C compiler"):
        the_same(wanted, tracked(config, True)[0])
    assert asked.call_count == 1, "it is not tried again in every frame"


def test_old_graphs_go() -> None:
    """Clients of a server choose their settings; graphs for those that left must not pile up."""
    config = TrackerConfig(max_objects=3)
    wanted = tracked(config, False)[0]
    with mock.patch.object(shared_model, "MAX_GRAPHS", 1):
        the_same(wanted, tracked(config, True)[0])


def test_two_cameras_share_the_graphs() -> None:
    """Neither sees what the other left there."""
    config = TrackerConfig(max_objects=2)
    shared = SharedModel(own_model(), use_graphs=True)
    alone = Tracker(shared.model, config, shared=SharedModel(small_model(), use_graphs=False))
    one, other = (Tracker(shared.model, config, shared=shared) for _ in range(2))
    stepped(alone, [box()])
    stepped(one, [box()])
    stepped(other, [box(60, 10, 100, 60), click(120, 90)])
    for index in range(1, 6):
        (wanted,), (found,) = run(alone, index, index), run(one, index, index)
        run(other, index + 7, index + 7)
        the_same([wanted], [found])
    assert torch.allclose(logits(one, 1), logits(alone, 1), atol=1e-4), "also after another camera's frame"


@pytest.mark.parametrize("width", [160, 157, 8])
def test_masks_fetched_as_bits_are_the_same(width: int) -> None:
    logits = torch.randn((3, 1, 32, 32), generator=torch.Generator().manual_seed(0))
    logits[1] = -1
    logits[2, :, :9] = logits[2, :, :, 20:] = -1
    fetched = [CroppedMask.from_packed(bits, width) for bits in pack_masks(logits, 120, width).numpy()]
    for found, expected in zip(fetched, image_masks(logits, 120, width, False), strict=True):
        assert (found.box, found.width, found.height) == (expected.box, width, 120)
        assert found.crop.dtype == np.bool_ and np.array_equal(found.crop, expected.crop)
