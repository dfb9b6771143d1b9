"""Stores the newest frames for late prompts: their features, and the objects as they were."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from sam2_ros.model.config import ModelConfig
from sam2_ros.model.sam2 import ImageFeatures
from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.frame_lookup import find_frame
from sam2_ros.tracking.objects import LiveObject


@dataclass(frozen=True)
class StoredFrame:
    """One encoded frame."""

    frame: int  # index in the stream
    stamp: int  # ns
    width: int  # pixels of the source image
    height: int
    features: ImageFeatures
    objects: dict[int, LiveObject] = field(default_factory=dict)  # by id, as they were after this frame

    def store(self, objects: Iterable[LiveObject]) -> None:
        self.objects.update({obj.object_id: obj.snapshot() for obj in objects})


class FrameHistory:
    """The newest frame and up to ``config.history`` frames before it."""

    def __init__(self, config: TrackerConfig) -> None:
        self.config = config
        self._frames: deque[StoredFrame] = deque(maxlen=config.history + 1)

    @property
    def newest(self) -> StoredFrame | None:
        return self._frames[-1] if self._frames else None

    def place(self, features: ImageFeatures) -> ImageFeatures:
        """``features`` as they are to be stored.

        On a CPU they are copied into the memory of the oldest frame, which is dropped. Allocating anew between the
        short-lived tensors of a frame would fragment the heap.
        """
        if features.stride_16.device.type != "cpu":
            return features
        gone = self._frames.popleft().features if len(self._frames) == self._frames.maxlen else None
        if gone is None or any(
            mine.shape != given.shape or mine.stride() != given.stride() or mine.dtype != given.dtype
            for mine, given in zip(gone.tensors, features.tensors, strict=True)
        ):
            return ImageFeatures(*(each.clone() for each in features.tensors))
        for mine, given in zip(gone.tensors, features.tensors, strict=True):
            mine.copy_(given)
        return gone

    def append(self, stored: StoredFrame) -> None:
        self._frames.append(stored)

    def find(self, stamp: int) -> StoredFrame:
        """The frame that a prompt with ``stamp`` (nanoseconds; 0 = the newest) applies to.

        Raises:
            PromptError: there is none; the message gives the accepted stamps.
        """
        return self._frames[find_frame([stored.stamp for stored in self._frames], stamp, self.config.history_tolerance)]

    def after(self, stored: StoredFrame) -> list[StoredFrame]:
        return [later for later in self._frames if later.frame > stored.frame]

    def forget(self, object_id: int) -> None:
        for stored in self._frames:
            stored.objects.pop(object_id, None)

    def forget_candidates(self, object_id: int) -> None:
        """Drops an object's older candidates, so that it has three masks in all, not three a frame."""
        for stored in self._frames:
            if object_id in stored.objects:
                stored.objects[object_id].candidates = None

    def clear(self) -> None:
        self._frames.clear()


def most_bytes(model: ModelConfig, config: TrackerConfig, dtype: str) -> int:
    """The most bytes of a history: features of every frame, a mask (logits, float32) for each object in it, and three
    candidates for each object.

    ``dtype`` is the tracker's. The map of stride 16 always counts as float32, which it is in some networks.
    """
    pixels, fine = model.grid**2, 4 if dtype == "float32" else 2
    features = pixels * (
        model.hidden_dim * (4 + (1 + 2) * fine) + 4 * (model.appearance_dim + 16 * 3 * bool(model.appearance_dim))
    )
    mask = (4 * model.grid) ** 2 * 4
    return (config.history + 1) * (features + config.max_objects * mask) + config.max_objects * 3 * mask
