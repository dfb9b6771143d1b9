"""Helpers of the engine's tests."""

from __future__ import annotations

from typing import Protocol

from sam2_ros.inference import Backend
from sam2_ros.model import Sam2Model
from sam2_ros.tracking import FrameResult, TrackerConfig


class MakeEngine(Protocol):
    """The fixture of this name: an engine, in this process or in a server."""

    def __call__(self, config: TrackerConfig | None = None, model: Sam2Model | None = None) -> Backend: ...


def told(result: FrameResult | None) -> list[object]:
    """Everything that a result says but for times, to be compared."""
    if result is None:
        return []
    return [
        (result.frame_index, result.stamp, result.width, result.height, result.changes),
        *((known.object_id, known.state, known.object_score, known.visibility, known.predicted_iou, known.prompted,
           known.name, known.label, known.label_score, known.first_seen, known.last_seen, known.frames_since_seen,
           known.frames_tracked, known.mask.box, known.mask.full().tobytes()) for known in result.objects),
    ]  # fmt: skip
