"""Stores the newest frames for late prompts: their features, and the objects as they were."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from sam2_ros.model.arrays import copied, on_host, strides
from sam2_ros.model.config import ModelConfig
from sam2_ros.model.network import Array, ImageFeatures, Network
from sam2_ros.tracking.camera_motion import STANDING, Motion
from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.frame_lookup import find_frame
from sam2_ros.tracking.mask_follower import MOST_BYTES, FollowedMask
from sam2_ros.tracking.objects import LiveObject
from sam2_ros.tracking.windows import MAX_PIXELS, Window, most_views


@dataclass(frozen=True)
class View:
    """A frame as the network sees it through one window."""

    frame: int  # index in the stream
    stamp: int  # ns
    width: int  # pixels of the source image
    height: int
    window: Window
    model: Network  # the network in the size in which it sees the window
    features: ImageFeatures

    @property
    def key(self) -> tuple[Window, int]:
        """The window, and the side of the network's input."""
        return self.window, self.model.config.image_size

    @property
    def shares(self) -> tuple[float, float, float, float]:
        """Of the window, see :meth:`Window.shares`."""
        return self.window.shares(self.width, self.height)


@dataclass(frozen=True)
class StoredFrame:
    """One encoded frame."""

    frame: int  # index in the stream
    stamp: int  # ns
    width: int  # pixels of the source image
    height: int
    features: dict[tuple[Window, int], ImageFeatures]  # by window and side of the network's input
    image: NDArray[np.uint8] | None = None  # RGB, perhaps smaller than it was; for other windows, and for edges
    waiting: dict[int, FollowedMask] = field(default_factory=dict)  # by id: objects that are not looked at
    motion: Motion = STANDING  # of the picture, from the frame before
    objects: dict[int, LiveObject] = field(default_factory=dict)  # by id, as they were after this frame

    @property
    def tensors(self) -> list[Array]:
        """All stored features."""
        return [tensor for features in self.features.values() for tensor in features.tensors]

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

    def place(self, features: list[ImageFeatures]) -> list[ImageFeatures]:
        """``features`` as they are to be stored.

        On a CPU they are copied into the memory of the oldest frame, which is dropped. Allocating anew between the
        short-lived tensors of a frame would fragment the heap.
        """
        if not on_host(features[0].stride_16):
            return features
        gone: list[ImageFeatures] = []
        if len(self._frames) == self._frames.maxlen:
            gone = list(self._frames.popleft().features.values())
        return [_copied(each, gone) for each in features]

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


def rows_of(maps: ImageFeatures, row: int, count: int = 1) -> ImageFeatures:
    """The features of one frame or more, copied: a stored view would also keep those of the others in memory."""
    return ImageFeatures(*(copied(tensor[row : row + count]) for tensor in maps.tensors))


def _copied(features: ImageFeatures, free: list[ImageFeatures]) -> ImageFeatures:
    """A copy in the memory of one of ``free``, which is taken out of it, or in new memory if none fits."""
    for index, place in enumerate(free):
        if all(
            mine.shape == given.shape and strides(mine) == strides(given) and mine.dtype == given.dtype
            for mine, given in zip(place.tensors, features.tensors, strict=True)
        ):
            for mine, given in zip(place.tensors, features.tensors, strict=True):
                mine[...] = given
            return free.pop(index)
    return ImageFeatures(*(copied(each) for each in features.tensors))


def most_bytes(model: ModelConfig, config: TrackerConfig, dtype: str, window_side: int) -> int:
    """The most bytes of a history: features of every frame, a mask (logits, float32) for each object in it, and three
    candidates for each object; with windows or edges also the image of every frame, and with windows those from which
    masks are carried.

    ``dtype`` is the tracker's, ``window_side`` that of its windows. The map of stride 16 always counts as float32,
    which it is in some networks.
    """
    grid, fine = model.grid, 4 if dtype == "float32" else 2
    cells, images, extra, followed = grid**2, 0, 0, 0
    if config.uses_windows(model.windows) or config.follows_edges(model.windows):
        images = MAX_PIXELS * 3
    if config.uses_windows(model.windows):
        cells = max(cells, most_views(config.max_objects) * replace(model, image_size=window_side).grid ** 2)
        extra = grid**2  # one view more, for prompts
        followed = MOST_BYTES
    cell = model.hidden_dim * (4 + (1 + 2) * fine) + 4 * (model.appearance_dim + 16 * 3)
    mask = (4 * grid) ** 2 * 4
    frames = (config.history + 1) * (cells * cell + images + config.max_objects * mask)
    return frames + followed + extra * cell + config.max_objects * 3 * mask
