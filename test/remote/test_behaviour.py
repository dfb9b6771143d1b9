"""A short life told the same, bit for bit, in this process and behind a socket; test/engine holds both to the rules."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from served import connect_patiently, connected, serving
from small_tracker import box, click, rectangle, scene, small_model

from sam2_ros.inference.backend import Backend
from sam2_ros.inference.local import LocalBackend
from sam2_ros.tracking import FrameResult, PromptRequest, TrackerConfig
from sam2_ros.tracking.shared_model import SharedModel

CONFIG = TrackerConfig(max_objects=3, lost_after=2)


def local(config: TrackerConfig) -> Backend:
    return LocalBackend(SharedModel(small_model()), config)


@pytest.fixture(params=["local", "raw", "shm"])
def engine(request: pytest.FixtureRequest) -> Iterator[Backend]:
    if request.param == "local":
        yield local(CONFIG)
        return
    with serving(local) as server, connected(server, CONFIG, pixels=request.param) as client:
        connect_patiently(client)
        yield client


def masks(result: FrameResult | None) -> list[bytes]:
    assert result is not None
    return [obj.mask.full().tobytes() for obj in result.objects]


def story(engine: Backend) -> list[object]:
    """Everything that an engine says in the course of a short life, but for times."""
    told: list[object] = []

    def note(result: FrameResult | None) -> None:
        assert result is not None
        told.append((result.frame_index, result.stamp, result.width, result.height, result.changes))
        told.extend((obj.object_id, obj.state, obj.object_score, obj.name, obj.first_seen, obj.last_seen,
                     obj.frames_tracked, obj.frames_since_seen, obj.prompted, obj.predicted_iou, obj.mask.box)
                    for obj in result.objects)  # fmt: skip
        told.extend(masks(result))

    note(engine.step(scene(0), 0))
    answers = engine.add(
        [PromptRequest(box(), name="cup", label="thing", label_score=0.5), PromptRequest(click(90, 60))]
    )
    told.extend((given.code, given.message, given.object_id, given.name, given.applied_stamp, len(given.candidates))
                for given in answers)  # fmt: skip
    note(engine.objects())
    for frame in range(1, 4):
        note(engine.step(scene(frame), frame * 1_000_000_000))
    late = engine.add([PromptRequest(rectangle(20, 60, 50, 100))], stamp=2_000_000_000)[0]
    told.append((late.code, late.applied_stamp, late.frames_caught_up, late.prompt_age))
    told.append(engine.refine(PromptRequest(click(25, 70, 0), 1)).message)
    note(engine.step(scene(4), 4_000_000_000))
    told.extend((engine.remove(2), engine.remove(2), engine.take_changes()))
    note(engine.step(scene(5), 5_000_000_000))
    told.extend((engine.next_id, engine.reset(), engine.take_changes(), engine.next_id))
    return told


def test_the_whole_story_is_the_same(engine: Backend) -> None:
    assert story(engine) == story(local(CONFIG))
