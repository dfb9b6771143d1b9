"""What the tracker knows of one object beside its memory: who it is, and whether it is seen."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sam2_ros.tracking.types import CroppedMask, ObjectResult, ObjectState

_LASTING = ("object_id", "row", "name", "label", "label_score", "added_frame")


@dataclass(eq=False)
class TrackedObject:
    """One living object; ``object_id`` is permanent, ``row`` is its place in the memory bank."""

    object_id: int
    row: int
    name: str
    label: str
    label_score: float
    added_frame: int

    state: ObjectState = ObjectState.OCCLUDED
    first_seen: int = 0  # ns
    last_seen: int = 0  # ns
    last_seen_frame: int = -1
    newest_frame: int = -1  # the frame that the fields below belong to
    seen_before: tuple[int, int, int] = (0, 0, -1)  # first_seen, last_seen, last_seen_frame as of the frame before

    logits: Tensor | None = None  # [1, h, w] low resolution, on the newest frame
    mask: CroppedMask | None = None
    object_score: float = 0.0
    visibility: float = 0.0
    predicted_iou: float = 0.0
    prompted: bool = False

    # Clicks so far on `prompt_frame`, in source pixels; later ones on the same frame are added to them.
    prompt_frame: int = -1
    points: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    labels: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    candidates: Candidates | None = None

    def see(
        self,
        frame: int,
        stamp: int,
        mask: CroppedMask,
        object_score: float,
        visibility: float,
        iou: float,
        lost_after: int,
    ) -> ObjectState:
        """Takes the outcome of one frame over; returns the state before.

        VISIBLE with a mask; OCCLUDED without one; LOST when there was none for more than ``lost_after`` frames.
        """
        before = self.state
        if frame == self.newest_frame:  # a prompt's answer replaces what this frame gave so far
            self.first_seen, self.last_seen, self.last_seen_frame = self.seen_before
        self.seen_before = (self.first_seen, self.last_seen, self.last_seen_frame)
        self.newest_frame, self.mask = frame, mask
        self.object_score, self.visibility, self.predicted_iou = object_score, visibility, iou
        if mask.crop.size:
            if self.last_seen_frame < 0:
                self.first_seen = stamp
            self.last_seen, self.last_seen_frame = stamp, frame
            self.state = ObjectState.VISIBLE
        elif frame - max(self.last_seen_frame, self.added_frame) > lost_after:
            self.state = ObjectState.LOST
        else:
            self.state = ObjectState.OCCLUDED
        return before

    def snapshot(self) -> TrackedObject:
        """The object as it is now; what is in it is replaced later, never changed in place."""
        return copy.copy(self)

    def restore(self, past: TrackedObject) -> None:
        """Makes it what it was in ``past``, but for its name and label, which belong to no frame."""
        for name, value in vars(past).items():
            if name not in _LASTING:
                setattr(self, name, value)

    def result(self, width: int, height: int) -> ObjectResult:
        """The object as of its newest frame."""
        since = self.last_seen_frame if self.last_seen_frame >= 0 else self.added_frame
        return ObjectResult(
            object_id=self.object_id,
            mask=self.mask if self.mask is not None else CroppedMask.empty(width, height),
            state=self.state,
            object_score=self.object_score,
            visibility=self.visibility,
            predicted_iou=self.predicted_iou,
            prompted=self.prompted,
            name=self.name,
            label=self.label,
            label_score=self.label_score,
            first_seen=self.first_seen,
            last_seen=self.last_seen,
            frames_since_seen=self.newest_frame - since,
            frames_tracked=self.newest_frame - self.added_frame,
        )


@dataclass(frozen=True)
class Candidates:
    """The three masks of an ambiguous prompt, kept until the next frame so that one can be chosen."""

    frame: int
    logits: Tensor  # [3, h, w]
    ious: Tensor  # [3]
    tokens: Tensor  # [3, C]
    object_score: float
