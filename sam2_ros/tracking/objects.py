"""What the tracker knows of one object beside its memory: who it is, and how it stands."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sam2_ros.tracking.policies import Trail
from sam2_ros.tracking.types import CroppedMask, ObjectResult, ObjectState
from sam2_ros.tracking.visibility import Sight

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

    sight: Sight = field(init=False)  # as of the newest frame
    sight_before: Sight = field(init=False)  # as of the frame before
    trail: Trail = field(default_factory=Trail)  # where it was seen lately, for policies that look at it

    logits: Tensor | None = None  # [1, h, w] low resolution, on the newest frame; None where it was not looked for
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

    def __post_init__(self) -> None:
        self.sight = self.sight_before = Sight(-1, absent_since=self.added_frame)

    @property
    def state(self) -> ObjectState:
        return self.sight.state

    @property
    def newest_frame(self) -> int:
        """The frame that everything but identity and name belongs to; -1 before the first."""
        return self.sight.frame

    @property
    def last_seen(self) -> int:
        """Stamp (ns) of the newest frame with a mask."""
        return self.sight.last_seen

    def sight_before_frame(self, frame: int) -> Sight:
        """How it stood before ``frame``: a prompt's answer replaces what its frame gave so far."""
        return self.sight_before if self.sight.frame == frame else self.sight

    def stand(self, sight: Sight, mask: CroppedMask) -> ObjectState:
        """Takes the outcome of a frame over; returns the state before."""
        before = self.state
        self.sight_before = self.sight_before_frame(sight.frame)
        self.sight, self.mask = sight, mask
        return before

    def judge(self, object_score: float, visibility: float, predicted_iou: float) -> None:
        """Takes over what the network says of its newest mask."""
        self.object_score, self.visibility, self.predicted_iou = object_score, visibility, predicted_iou

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
            first_seen=self.sight.first_seen,
            last_seen=self.sight.last_seen,
            frames_since_seen=self.sight.absent_for,
            frames_tracked=self.newest_frame - self.added_frame,
        )


@dataclass(frozen=True)
class Candidates:
    """The three masks of an ambiguous prompt, kept while its frame is stored so that one can be chosen."""

    frame: int
    logits: Tensor  # [3, h, w]
    ious: Tensor  # [3]
    tokens: Tensor  # [3, C]
    object_score: float
