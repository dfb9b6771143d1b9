"""Before the first frame the network is run at the largest shapes that tracking gives it."""

from __future__ import annotations

import copy
from typing import Any
from unittest import mock

import pytest
from small_tracker import box, run, small_model, stepped

from sam2_ros.model.weight_cache import cache_bytes
from sam2_ros.tracking import Tracker, TrackerConfig
from sam2_ros.tracking.shared_model import SharedModel
from sam2_ros.tracking.warmup import OBJECTS_ON_CPU, warm_up


@pytest.mark.parametrize("objects", [2, OBJECTS_ON_CPU + 4])
def test_nothing_is_left_for_the_first_live_frame(objects: int) -> None:
    model = copy.deepcopy(small_model())
    config, shared = TrackerConfig(max_objects=objects, prompted_slots=2), SharedModel(model, "bfloat16")
    assert cache_bytes(model) == 0
    shapes: list[tuple[int, ...]] = []
    with_memory = model.with_memory

    def noted(features: Any, memory: Any, *others: Any) -> Any:
        shapes.append(tuple(memory.shape))
        return with_memory(features, memory, *others)

    with mock.patch.object(model, "with_memory", noted):
        warm_up(shared, config)
        pointers = (2 + 15) * 256 // 64
        assert shapes[-1] == (min(objects, OBJECTS_ON_CPU), (2 + 6) * 8 * 8 + pointers, 64)
        most, kept = max(shape[1] for shape in shapes), cache_bytes(model)
        assert kept > 0, "weights rounded to bfloat16"
        tracker = Tracker(model, config, "bfloat16", shared)
        (one, _) = stepped(tracker, [box(), box(60, 10, 100, 60)])
        tracked = run(tracker, 1, 20)[-1].object(one)
    assert tracked is not None and tracked.mask.area > 0
    assert max(shape[1] for shape in shapes) <= most
    assert cache_bytes(model) == kept
