"""The tracker's inputs and outputs, in NumPy; this module never imports torch.

Coordinates are pixels of the source image, x to the right, y down. A point addresses a pixel by its centre: (0, 0) is
the centre of the top-left pixel. A box is given by its edges, which lie between pixels: columns 10 to 19 are
``x0 = 10, x1 = 20``. Stamps are integer nanoseconds, as in ``builtin_interfaces/Time``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

BoolMask = NDArray[np.bool_]


class ObjectState(IntEnum):
    """State of an object; the numbers are those of ``TrackedObject.STATE_*``."""

    VISIBLE = 1
    OCCLUDED = 2
    LOST = 3


class PromptCode(IntEnum):
    """The outcome of a prompt; the numbers are those of ``PromptResult``'s constants."""

    OK = 0
    INVALID_PROMPT = 1
    UNKNOWN_OBJECT = 2
    DUPLICATE_NAME = 3
    FULL = 4
    NO_FRAME = 5
    TOO_OLD = 6
    NOT_ACTIVE = 7
    FAILED = 8
    UNSUPPORTED = 9


class EventCode(IntEnum):
    """What happened to an object; the numbers are those of ``ObjectEvent``'s constants."""

    ADDED = 1
    STATE_CHANGED = 2
    CORRECTED = 3
    REMOVED = 4
    DROPPED = 5
    PROMPT_RELEASED = 6


class PromptError(ValueError):
    """A prompt that can't be applied; ``str(error)`` says what was wrong, what is accepted and what to do."""

    def __init__(self, code: PromptCode, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class CroppedMask:
    """A binary mask, cropped to its bounding box.

    ``crop`` is ``bool [h, w]``, its pixel (0, 0) is pixel (``x``, ``y``) of an image of ``width`` × ``height``. An
    empty mask has a crop of shape (0, 0).
    """

    crop: BoolMask
    x: int
    y: int
    width: int
    height: int

    @classmethod
    def from_full(cls, mask: BoolMask) -> CroppedMask:
        """Crops ``mask`` (``bool [H, W]``) to its bounding box."""
        import cv2  # here, because documents are made without it

        x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
        return cls(np.ascontiguousarray(mask[y : y + height, x : x + width]), x, y, mask.shape[1], mask.shape[0])

    @classmethod
    def from_packed(cls, bits: NDArray[np.uint8], width: int) -> CroppedMask:
        """Crops a mask of ``width`` columns, packed as ``uint8 [H, ceil(width / 8)]`` with the leftmost of eight pixels
        in the highest bit. Unpacks only the bounding box."""
        import cv2

        first, y, columns, rows = cv2.boundingRect(bits)  # first and columns in bytes
        inner = cls.from_full(np.unpackbits(bits[y : y + rows, first : first + columns], axis=1).view(np.bool_))
        return cls(inner.crop, 8 * first + inner.x, y, width, len(bits))

    @classmethod
    def empty(cls, width: int, height: int) -> CroppedMask:
        """The mask of an object that is not seen in an image of this size."""
        return cls(np.zeros((0, 0), np.bool_), 0, 0, width, height)

    def within(self, x: int, y: int, width: int, height: int) -> CroppedMask:
        """The same pixels in an image of ``width`` × ``height``; this mask's image begins there at (``x``, ``y``)."""
        if not self.crop.size:
            return CroppedMask.empty(width, height)
        return CroppedMask(self.crop, self.x + x, self.y + y, width, height)

    def full(self) -> BoolMask:
        """The mask in the size of its image, ``bool [height, width]``."""
        mask = np.zeros((self.height, self.width), np.bool_)
        crop_height, crop_width = self.crop.shape
        mask[self.y : self.y + crop_height, self.x : self.x + crop_width] = self.crop
        return mask

    @property
    def area(self) -> int:
        """Pixels of the object."""
        return int(np.count_nonzero(self.crop))

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(x0, y0, x1, y1), edges in pixels; all zero for an empty mask."""
        crop_height, crop_width = self.crop.shape
        return (self.x, self.y, self.x + crop_width, self.y + crop_height)


@dataclass(frozen=True)
class Prompt:
    """Marks one object on one frame, in source pixels.

    Accepted: ``points`` with ``labels``; ``box``; ``box`` and points; ``mask``. A mask excludes the others. An
    all-false mask says that the object is not in this frame.

    Or a picture, ``like``, of a thing that is not seen yet; then ``box`` or ``mask`` are in pixels of the picture. The
    object is LOST until something that looks like it is seen.
    """

    points: NDArray[np.float32] | None = None  # [N, 2] x, y
    labels: NDArray[np.int32] | None = None  # [N] 1 = on the object, 0 = not on it
    box: NDArray[np.float32] | None = None  # [4] x0, y0, x1, y1
    mask: BoolMask | None = None  # [H, W] of the frame's size
    candidate: int | None = None  # 1 to 3: this mask of an ambiguous prompt; None: the tracker chooses
    replace: bool = False  # forget this object's earlier points on this frame
    like: NDArray[np.uint8] | None = None  # [h, w, 3] RGB


@dataclass(frozen=True)
class PromptRequest:
    """A prompt for a new object (``object_id`` None) or for an existing one."""

    prompt: Prompt
    object_id: int | None = None
    name: str = ""
    label: str = ""
    label_score: float = 0.0


@dataclass(frozen=True)
class MaskCandidate:
    """One of the masks that an ambiguous prompt may have meant."""

    index: int  # 1 to 3, for Prompt.candidate
    mask: CroppedMask
    predicted_iou: float
    stability: float


@dataclass(frozen=True)
class ObjectResult:
    """One object in one frame; fields as in ``TrackedObject.msg``."""

    object_id: int
    mask: CroppedMask
    state: ObjectState
    object_score: float  # logit
    visibility: float  # [0, 1]
    predicted_iou: float
    prompted: bool
    name: str = ""
    label: str = ""
    label_score: float = 0.0
    first_seen: int = 0  # ns
    last_seen: int = 0  # ns
    frames_since_seen: int = 0
    frames_tracked: int = 0
    window: tuple[int, ...] = ()  # edges x0, y0, x1, y1, pixels: where the network looked for it; empty: nowhere


@dataclass(frozen=True)
class PromptResult:
    """The outcome of one prompt; fields as in ``PromptResult.msg``."""

    code: PromptCode
    message: str
    object_id: int = 0
    name: str = ""
    applied_stamp: int = 0  # ns
    prompt_age: float = 0.0  # s
    frames_caught_up: int = 0
    stamp_difference: float = 0.0  # s
    result: ObjectResult | None = None
    stability: float = 0.0
    candidates: tuple[MaskCandidate, ...] = ()

    @property
    def success(self) -> bool:
        return self.code is PromptCode.OK


@dataclass(frozen=True)
class ObjectChange:
    """A change in the life of an object; fields as in ``ObjectEvent.msg``."""

    event: EventCode
    object_id: int
    name: str
    label: str
    previous_state: ObjectState | None
    state: ObjectState | None
    object_score: float
    visibility: float
    last_seen: int  # ns
    reason: str


@dataclass(frozen=True)
class FrameResult:
    """Every living object in one frame, in the order of their ids."""

    frame_index: int  # processed frames before this one
    stamp: int  # ns
    width: int
    height: int
    objects: tuple[ObjectResult, ...]
    changes: tuple[ObjectChange, ...] = ()
    timings_ms: dict[str, float] = field(default_factory=dict)  # by stage; steady clock
    load_shedding: tuple[str, ...] = ()  # in force for the deadline, of deadline.SHEDDING_STEPS

    def object(self, object_id: int) -> ObjectResult:
        """The result of one object.

        Raises:
            KeyError: no such object in this frame.
        """
        for result in self.objects:
            if result.object_id == object_id:
                return result
        raise KeyError(f"object {object_id} is not in frame {self.frame_index}")
