"""Settings that change while objects are tracked, in this process and in a server."""

from __future__ import annotations

from dataclasses import replace

import pytest
from engines import MakeEngine
from small_tracker import add, box, object_score, scene, small_model

from sam2_ros.tracking import ObjectState, TrackerConfig

CONFIG = TrackerConfig(max_objects=2, lost_after=30, occluded_after=1)


def test_new_settings_count_from_the_next_frame_on(make_engine: MakeEngine) -> None:
    engine = make_engine(CONFIG)
    engine.step(scene(0), 1)
    (one,) = add(engine, box())
    with object_score(small_model(), -2.0):
        assert engine.step(scene(1), 2).object(one).state is ObjectState.OCCLUDED
        assert engine.step(scene(2), 3).object(one).state is ObjectState.OCCLUDED
        engine.configure(replace(CONFIG, lost_after=2, reject_strays=False))
        assert engine.step(scene(3), 4).object(one).state is ObjectState.LOST
    engine.configure(replace(CONFIG, lost_after=2, drop_after=3))
    with object_score(small_model(), -2.0):
        assert not engine.step(scene(4), 5).objects


@pytest.mark.parametrize(
    "change",
    [{"max_objects": 3}, {"history": 2}, {"reference_policy": True}, {"prompted_slots": 5}],
    ids=str,
)
def test_what_is_allocated_stays_and_so_does_all_that_was_set_with_it(
    make_engine: MakeEngine, change: dict[str, object]
) -> None:
    engine = make_engine(CONFIG)
    engine.step(scene(0), 1)
    (one,) = add(engine, box())
    with pytest.raises(ValueError, match=f"{next(iter(change))} can't change"):
        engine.configure(replace(CONFIG, lost_after=1, **change))  # type: ignore[arg-type]
    with object_score(small_model(), -2.0):
        engine.step(scene(1), 2)
        assert engine.step(scene(2), 3).object(one).state is ObjectState.OCCLUDED


def test_a_deadline_that_is_set_later_sheds_load(make_engine: MakeEngine) -> None:
    engine = make_engine(CONFIG)
    for frame in range(12):
        if frame == 6:
            engine.configure(replace(CONFIG, deadline=1e-6))
        result = engine.step(scene(frame), frame + 1)
        assert frame >= 6 or not result.load_shedding
    assert result.load_shedding
