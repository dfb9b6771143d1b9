"""What a GPU works out before the host has looked gives the same tracks as looking first, as a CPU does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from small_tracker import box, click, logits, object_score, run, small_model, stepped

from sam2_ros.tracking import FrameResult, Tracker, TrackerConfig


def tracked(config: TrackerConfig, ahead: bool) -> tuple[list[FrameResult], list[torch.Tensor], torch.Tensor]:
    """Results, last logits and the bank of a stream in which every object hides for a while and comes back."""
    tracker = Tracker(small_model(), config)
    assert not tracker._propagation.waits_once, "this is a CPU"
    tracker._propagation.waits_once = ahead
    ids = stepped(tracker, [box(), box(60, 10, 100, 60), click(120, 90)])
    results = run(tracker, 1, 4)
    with object_score(tracker.model, -5.0):
        results += run(tracker, 5, 9)
    results += run(tracker, 10, 14)
    return results, [logits(tracker, each) for each in ids], tracker.bank.spatial


@pytest.mark.parametrize(
    "config",
    [
        TrackerConfig(max_objects=3, lost_after=3, search_every=2),
        TrackerConfig(max_objects=3, lost_after=3, search_every=2, occluded_after=2),
        TrackerConfig(max_objects=3, reference_policy=True),
    ],
    ids=["default", "hysteresis", "reference"],
)
def test_gives_the_same(config: TrackerConfig) -> None:
    (results, low, bank), (others, other_low, other_bank) = tracked(config, False), tracked(config, True)
    states = {one.state for result in results for one in result.objects}
    assert len(states) >= 2, "objects hide, and are remembered or not"
    for result, other in zip(results, others, strict=True):
        assert [one.state for one in result.objects] == [one.state for one in other.objects]
        for one, same in zip(result.objects, other.objects, strict=True):
            assert np.array_equal(one.mask.full(), same.mask.full())
    for one_low, same_low in zip(low, other_low, strict=True):
        torch.testing.assert_close(one_low, same_low, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(bank.float(), other_bank.float(), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    "changes", [{"non_overlap": True}, {"hole_area": 4}, {"reject_strays": True}, {"memory_policy": "quality"}], ids=str
)
def test_a_gpu_looks_first_where_the_host_has_a_say(changes: dict[str, Any]) -> None:
    """From the start, or from when it is set while objects are tracked."""
    plain = TrackerConfig(reject_strays=False)
    config = replace(plain, **changes)
    model = small_model()

    class OnGpu:
        device = torch.device("cuda")

        def __getattr__(self, name: str) -> object:
            return getattr(model, name)

    from sam2_ros.tracking.propagation import Propagation

    bank = Tracker(model, config).bank
    assert not Propagation(OnGpu(), bank, config, "float32").waits_once  # type: ignore[arg-type]
    live = Propagation(OnGpu(), bank, plain, "float32")  # type: ignore[arg-type]
    assert live.waits_once
    live.configure(config)
    assert not live.waits_once
    live.configure(plain)
    assert live.waits_once
