"""Prompts on their frames: what is missing, refused or lost meanwhile, and whose ids are whose."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sam2_ros.inference import NullBackend, make_backend
from sam2_ros.inference.backend import FrameDropped, FrameRefused
from sam2_ros.inference.clip_tracker import ClipTracker, Tracked
from sam2_ros.media.errors import UserError
from sam2_ros.media.frame_sources import Frame
from sam2_ros.media.prompts_file import FramePrompt
from sam2_ros.tracking.types import FrameResult, Prompt, PromptCode, PromptResult

PATIENCE = 60.0  # s


def test_a_prompt_for_a_frame_that_is_missing_is_refused() -> None:
    frames = [Frame(index, f"{index:06d}", index, np.zeros((48, 64, 3), np.uint8)) for index in (0, 1, 3, 4)]
    first, second, third = (
        FramePrompt(frame, frame, Prompt(box=np.array([5, 5, 20, 20], np.float32))) for frame in (1, 3, 2)
    )
    shown = [len(t.result.objects) for t in ClipTracker(make_backend("null"), [first, second]).run(frames)]
    assert shown == [0, 1, 2, 2]
    for prompts in ([first, third], [first, second, third]):  # also beside one that is due
        with pytest.raises(UserError, match="a prompt for frame 2, which could not be read"):
            list(ClipTracker(make_backend("null"), prompts).run(frames))


def test_objects_keep_the_ids_of_the_prompts_file() -> None:
    """The engine's are others, and an object has none before its first prompt."""
    frames = [Frame(index, f"{index:06d}", index, np.zeros((48, 64, 3), np.uint8)) for index in range(3)]
    box = Prompt(box=np.array([5, 5, 20, 20], np.float32))
    clip = ClipTracker(make_backend("null"), [FramePrompt(0, 7, box), FramePrompt(2, 3, box), FramePrompt(2, 7, box)])
    ids = []
    for tracked in clip.run(frames):
        ids.append([clip.file_id(obj.object_id) for obj in tracked.result.objects])
        assert clip.file_id(clip.engine_id(7)) == 7 and clip.file_id(clip.engine_id(3)) == 3
    assert ids == [[7], [7], [7, 3]]


class Unreliable(NullBackend):
    """Raises or answers what is in ``faults`` first; ``steps`` are the stamps of the frames that it was shown."""

    def __init__(self, *faults: Exception | PromptResult) -> None:
        super().__init__()
        self.faults, self.steps = list(faults), list[int]()

    def step(self, frame: Any, stamp: int) -> FrameResult:
        self.steps.append(stamp)
        if self.faults and isinstance(self.faults[0], Exception):
            raise self.faults.pop(0)  # type: ignore[misc]
        return super().step(frame, stamp)

    def add(self, requests: Any, stamp: int = 0) -> list[PromptResult]:
        if self.faults and isinstance(self.faults[0], PromptResult):
            return [self.faults.pop(0)]  # type: ignore[list-item]
        return super().add(requests, stamp)


def clip(*prompts: FramePrompt, backend: Unreliable, patience: float) -> list[Tracked]:
    frames = [Frame(index, f"{index:06d}", index + 1, np.zeros((48, 64, 3), np.uint8)) for index in range(2)]
    return list(ClipTracker(backend, prompts, patience).run(frames))


BOX = Prompt(box=np.array([5, 5, 20, 20], np.float32))
LOST = PromptResult(PromptCode.FAILED, "the server is gone")


def test_a_frame_waits_for_another_server() -> None:
    backend = Unreliable(FrameDropped("no server"), FrameDropped("no server"))
    assert len(clip(backend=backend, patience=PATIENCE)) == 2 and backend.steps == [1, 1, 1, 2]


@pytest.mark.parametrize(
    ("fault", "patience"), [(FrameDropped("no server"), 0.0), (FrameRefused("too large"), PATIENCE)]
)
def test_a_frame_that_is_not_tracked_ends_the_clip(fault: Exception, patience: float) -> None:
    """At once, where waiting does not help."""
    backend = Unreliable(fault)
    with pytest.raises(UserError, match=rf"frame 0 \(000000\) was not tracked: {fault}"):
        clip(backend=backend, patience=patience)
    assert backend.steps == [1]


def test_a_prompt_goes_to_the_next_server_once_that_has_seen_the_frame() -> None:
    backend = Unreliable(LOST)
    shown = clip(FramePrompt(0, 7, BOX, "cup", "dish"), backend=backend, patience=PATIENCE)
    assert backend.steps == [1, 1, 2]
    assert [(obj.name, obj.label, obj.mask.box) for obj in shown[0].result.objects] == [("cup", "dish", (5, 5, 20, 20))]
    assert shown[1].seconds > 0


def test_a_prompt_that_is_refused_ends_the_clip() -> None:
    """A server that is lost is no reason to wait without patience, and a refusal never is one."""
    for backend, patience, why in (
        (Unreliable(LOST), 0.0, "the server is gone"),
        (Unreliable(PromptResult(PromptCode.FULL, "it is full")), PATIENCE, "it is full"),
    ):
        with pytest.raises(UserError, match=f"prompt for object 7 on frame 1: {why}"):
            clip(FramePrompt(1, 7, BOX), backend=backend, patience=patience)
        assert backend.steps == [1, 2]


def test_later_prompts_correct_the_object() -> None:
    other = Prompt(box=np.array([30, 5, 40, 20], np.float32))
    shown = clip(FramePrompt(1, 7, other), FramePrompt(0, 7, BOX), backend=Unreliable(), patience=0.0)
    assert [[(obj.object_id, obj.mask.box) for obj in each.result.objects] for each in shown] == [
        [(1, (5, 5, 20, 20))], [(1, (30, 5, 40, 20))],
    ]  # fmt: skip
