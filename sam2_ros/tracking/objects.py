"""What the tracker knows of one object beside its memory: who it is, and its state after the newest frame."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sam2_ros.model.network import Array, Reference
from sam2_ros.tracking.camera_motion import STANDING, Motion
from sam2_ros.tracking.trail import Trail
from sam2_ros.tracking.types import CroppedMask, EventCode, ObjectChange, ObjectResult, ObjectState
from sam2_ros.tracking.visibility import Presence
from sam2_ros.tracking.windows import Window

_IDENTITY = ("object_id", "row", "name", "label", "label_score", "added_frame")


@dataclass(eq=False)
class LiveObject:
    """One living object; ``object_id`` is permanent, ``row`` is its place in the memory bank."""

    object_id: int
    row: int
    name: str
    label: str
    label_score: float
    added_frame: int

    presence: Presence = field(init=False)  # after the newest frame
    presence_before: Presence = field(init=False)  # after the frame before
    trail: Trail = field(default_factory=Trail)  # where it was seen lately

    likeness: NDArray[np.float32] | None = None  # [C] unit vector, of its newest prompted mask; None before the first

    logits: Array | None = None  # [1, h, w] low resolution, on the newest frame; None: not searched for there
    window: Window | None = None  # in which logits and candidates lie; None: it was not looked at yet
    # Where it was seen last, or may be by its looks, in the newest picture; edges in pixels.
    box: tuple[float, float, float, float] | None = None
    box_frame: int = -1  # frame on which that was
    looked_frame: int = -1  # newest frame on which the network looked for it, or a prompt was applied
    mask: CroppedMask | None = None
    drawn: tuple[CroppedMask, CroppedMask] | None = None  # a mask that it had, and how that is shown
    object_score: float = 0.0
    visibility: float = 0.0
    predicted_iou: float = 0.0
    prompted: bool = False
    look: Reference | None = None  # on its newest prompted frame; only with a metric that needs no training
    awaited: Reference | None = None  # how a picture shows it, until it is seen for the first time

    # Clicks so far on `prompt_frame`, in source pixels; later ones on the same frame are added to them.
    prompt_frame: int = -1
    points: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    labels: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    candidates: Candidates | None = None

    def __post_init__(self) -> None:
        self.presence = self.presence_before = Presence(-1, absent_since=self.added_frame)

    @property
    def state(self) -> ObjectState:
        return self.presence.state

    @property
    def shown(self) -> CroppedMask | None:
        """Its mask, with the edges of the image if it was drawn with them."""
        return self.drawn[1] if self.drawn is not None and self.drawn[0] is self.mask else self.mask

    @property
    def newest_frame(self) -> int:
        """The frame that everything but identity and name belongs to; -1 before the first."""
        return self.presence.frame

    def presence_before_frame(self, frame: int) -> Presence:
        """The presence before ``frame``. A prompt on a tracked frame starts from there, too."""
        return self.presence_before if self.presence.frame == frame else self.presence

    def set_presence(self, presence: Presence, mask: CroppedMask) -> ObjectState:
        """Takes over the outcome of a frame; returns the state before."""
        before = self.state
        self.presence_before = self.presence_before_frame(presence.frame)
        self.presence, self.mask, self.drawn = presence, mask, None
        if mask.crop.size:
            self.box, self.box_frame = mask.box, presence.frame
        return before

    def set_scores(self, object_score: float, visibility: float, predicted_iou: float) -> None:
        self.object_score, self.visibility, self.predicted_iou = object_score, visibility, predicted_iou

    def snapshot(self) -> LiveObject:
        """The object as it is now. A shallow copy: its values are replaced later, never changed in place."""
        return copy.copy(self)

    def restore(self, past: LiveObject) -> None:
        """Makes it what it was in ``past``, except its identity and name, which belong to no frame."""
        for name, value in vars(past).items():
            if name not in _IDENTITY:
                setattr(self, name, value)

    def change(self, event: EventCode, before: ObjectState | None, reason: str, gone: bool = False) -> ObjectChange:
        """An event of this object, with its scores of now; ``gone``: it has no state any more."""
        return ObjectChange(
            event, self.object_id, self.name, self.label, before, None if gone else self.state, self.object_score,
            self.visibility, self.presence.last_seen, reason,
        )  # fmt: skip

    def state_change(self, before: ObjectState) -> list[ObjectChange]:
        """The event of a change from the state ``before``, or nothing."""
        if self.state is before:
            return []
        return [self.change(EventCode.STATE_CHANGED, before, f"{before.name} became {self.state.name}")]

    def follow_camera(self, motion: Motion, width: int, height: int) -> None:
        """Takes the places where it was seen to the picture of the next frame, ``width`` x ``height`` pixels, to which
        the camera moved by ``motion``."""
        if motion is STANDING:
            return
        if self.box is not None:
            self.box = motion.moved_pixels(self.box, width, height)
        self.trail = self.trail.moved(motion)

    def leap_to(self, box: NDArray[np.float64], frame: int, width: int, height: int) -> float:
        """How far ``box`` (shares of the frame) lies from where the object is expected on ``frame`` and where it was
        seen last, whichever is nearer, in its usual sizes. 0 if nobody knows."""
        places = [] if self.box is None else [np.array(self.box) / [width, height, width, height]]
        heading = self.trail.predicted(frame)
        if heading is not None:
            places.append(heading)
        size = float(self.trail.usual_size.max())
        if not places or not size:
            return 0.0
        away = [np.abs(place[:2] + place[2:] - box[:2] - box[2:]).max() / 2 for place in places]
        return float(min(away) / size)

    def result(self, width: int, height: int) -> ObjectResult:
        return ObjectResult(
            object_id=self.object_id,
            mask=self.shown or CroppedMask.empty(width, height),
            state=self.state,
            object_score=self.object_score,
            visibility=self.visibility,
            predicted_iou=self.predicted_iou,
            prompted=self.prompted,
            name=self.name,
            label=self.label,
            label_score=self.label_score,
            first_seen=self.presence.first_seen,
            last_seen=self.presence.last_seen,
            frames_since_seen=self.presence.absent_for,
            frames_tracked=self.newest_frame - self.added_frame,
            window=() if self.window is None or self.looked_frame != self.newest_frame else tuple(self.window),
        )


@dataclass(frozen=True)
class Candidates:
    """The three masks of an ambiguous prompt, stored with its frame so that the user can choose one."""

    frame: int
    logits: Array  # [3, h, w]
    ious: Array  # [3]
    tokens: Array  # [3, C]
    object_score: float
