"""A clip whose source lacks a frame: a prompt never moves to another frame."""

from __future__ import annotations

import numpy as np
import pytest

from sam2_ros.inference import make_backend
from sam2_ros.inference.clip_tracker import ClipTracker
from sam2_ros.media.errors import UserError
from sam2_ros.media.frame_sources import Frame
from sam2_ros.media.prompts_file import FramePrompt
from sam2_ros.tracking.types import Prompt


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
