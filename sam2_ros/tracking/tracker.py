"""The streaming tracker: one image encoding a frame, all objects as one batch, memory that never grows.

Nobody says how many frames will come. A prompt is applied to the frame it is stamped with, as long as that is stored;
without a stamp to the newest, that of the last :meth:`Tracker.step`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sam2_ros.model.sam2 import ImageFeatures, Sam2Model
from sam2_ros.tracking.bank import MemoryBank
from sam2_ros.tracking.changes import (
    ADDED,
    CORRECTED,
    DROPPED,
    PROMPT_RELEASED,
    REMOVED,
    STATE_CHANGED,
    change_of,
)
from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.cuda_encoder import RawFrame
from sam2_ros.tracking.cuda_propagation import ReplayedPropagation
from sam2_ros.tracking.deadline import ECONOMIES, Governor, Measures
from sam2_ros.tracking.history import FrameHistory, StoredFrame, most_bytes
from sam2_ros.tracking.objects import TrackedObject
from sam2_ros.tracking.prompt_checks import check_names
from sam2_ros.tracking.prompt_decoder import PromptApplier
from sam2_ros.tracking.prompt_transaction import Engine, PromptRun
from sam2_ros.tracking.propagation import Clock, clock_of
from sam2_ros.tracking.registry import Registry
from sam2_ros.tracking.shared_model import SharedModel
from sam2_ros.tracking.transfer import upload
from sam2_ros.tracking.types import (
    AddRequest,
    FrameResult,
    ObjectChange,
    ObjectState,
    PromptCode,
    PromptError,
    PromptResult,
)

__all__ = ["ADDED", "CORRECTED", "DROPPED", "KEPT_CHANGES", "PROMPT_RELEASED", "REMOVED", "STATE_CHANGED", "Tracker"]

KEPT_CHANGES = 1000  # so that a program that never takes them does not grow


@dataclass(frozen=True)
class EncodedFrame:
    """A frame that the image encoder has seen: what :meth:`Tracker.encode` gives."""

    width: int  # pixels
    height: int
    features: ImageFeatures
    level: int  # of :data:`~sam2_ros.tracking.deadline.ECONOMIES`, how many were made
    laps: dict[str, float]  # ms by stage


class Tracker:
    """Tracks prompted objects through a stream of frames. Not thread-safe.

    Args:
        model: network with loaded weights, on its device; several trackers may share one.
        config: settings; :meth:`configure` changes them.
        dtype: "float32", or "bfloat16" for autocast with float32 weights, as the official models are run.
        shared: ``model`` as trackers in other threads use it at the same time.
    """

    def __init__(
        self,
        model: Sam2Model,
        config: TrackerConfig | None = None,
        dtype: str = "float32",
        shared: SharedModel | None = None,
    ) -> None:
        if dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype is {dtype!r}; accepted: 'float32', 'bfloat16'")
        self.model = model
        self.config = config or TrackerConfig()
        self.dtype = dtype
        self._shared = shared or SharedModel(model, dtype)
        self.bank = MemoryBank(model, self.config)
        self.history = FrameHistory(self.config)
        self._prompts = PromptApplier(model, self.bank, self.config)
        self._propagation = ReplayedPropagation(self._shared, self.bank, self.config)
        self._registry = Registry(self.config.max_objects)
        self._objects = self._registry.objects
        self._governor = Governor(self.config.deadline)
        self._frame = -1  # index of the newest frame
        self._changes: deque[ObjectChange] = deque(maxlen=KEPT_CHANGES)
        self._engine = Engine(
            model, self.config, dtype, self.bank, self.history, self._registry, self._prompts, self._propagation,
            self._changes,
        )  # fmt: skip

    @property
    def next_id(self) -> int:
        """Id of the next new object; may be set before the first, to go on from an earlier tracker."""
        return self._registry.next_id

    @next_id.setter
    def next_id(self, value: int) -> None:
        self._registry.next_id = value

    @property
    def history_bytes(self) -> int:
        """Bytes that the stored frames never exceed (beside ``bank.nbytes``)."""
        return most_bytes(self.model.config, self.config, self.dtype)

    def configure(self, config: TrackerConfig) -> None:
        """Goes on with other settings, all of them from the next frame or prompt on.

        Raises:
            ValueError: a setting differs that can't change while the tracker lives; nothing has changed then.
        """
        self.config.check_change(config)
        self.config = config
        for part in (self.bank, self.history, self._prompts, self._engine):
            part.config = config
        self._propagation.configure(config)
        self._governor.deadline = config.deadline

    # -- frames ------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def encode(self, frame: NDArray[np.uint8]) -> EncodedFrame:
        """The part of :meth:`step` that depends on no other frame, RGB ``uint8 [H, W, 3]``. It may be done in another
        thread, while the frame before is tracked.

        Raises:
            ValueError: not such a frame.
        """
        clock = clock_of(self.model.device)
        features, level = self._encode(frame, clock)
        return EncodedFrame(frame.shape[1], frame.shape[0], features, level, clock.finish())

    def _encode(self, frame: NDArray[np.uint8], clock: Clock) -> tuple[ImageFeatures, int]:
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
            raise ValueError(f"a frame is uint8 of shape [H, W, 3]; got {frame.dtype} of shape {list(frame.shape)}")
        level = self._governor.level
        scale = Measures.at(level).input_scale
        if self._shared.takes_raw(frame, scale):
            raw = RawFrame(frame, self.model.device)
            clock.lap("resize")
            features = self._shared.encode_raw(raw)
        else:
            there = upload(np.require(frame, requirements="W"), self.model.device)
            pixels = self.model.preprocess(there, scale)
            clock.lap("resize")
            features = self._shared.encode(pixels)
        clock.lap("encode")
        return features, level

    @torch.inference_mode()
    def step(self, frame: NDArray[np.uint8] | EncodedFrame, stamp: int = 0) -> FrameResult:
        """Tracks every object in ``frame``.

        Args:
            frame: RGB ``uint8 [H, W, 3]`` of any size, or what :meth:`encode` made of it.
            stamp: of the frame, nanoseconds.

        Raises:
            ValueError: not such a frame; nothing has changed then.
        """
        clock = clock_of(self.model.device)
        if isinstance(frame, EncodedFrame):
            width, height, earlier = frame.width, frame.height, frame.laps
            features, level = frame.features, frame.level
        else:
            features, level = self._encode(frame, clock)
            height, width, earlier = frame.shape[0], frame.shape[1], {}
        self._propagation.measures = Measures.at(level)
        features = self.history.hold(features)
        clock.lap("encode")
        self._frame += 1
        stored = StoredFrame(self._frame, stamp, width, height, features)
        self.history.append(stored)
        objects = list(self._objects.values())
        changes: list[ObjectChange] = []
        try:
            if objects:
                with self._shared.turn():
                    changes = self._propagation.track(objects, stored, clock.lap)
        finally:
            stored.keep(objects)
        changes += self._drop_lost(objects)
        laps = clock.finish()
        for name, taken in earlier.items():
            laps[name] = taken + laps.get(name, 0.0)
        self._governor.took(sum(laps.values()), level)
        return replace(self._result(stored, tuple(changes), laps), economies=ECONOMIES[:level])

    # -- commands ----------------------------------------------------------------------------------------------

    def add(self, requests: Sequence[AddRequest], stamp: int = 0) -> list[PromptResult]:
        """Applies prompts to the frame stamped ``stamp`` (nanoseconds; 0 = the newest); one result each, refusals
        included.

        A request without ``object_id`` makes a new object; with the id of a living one it corrects that object. On a
        stored frame that is not the newest, the objects are rolled forward to now from there, and no other object
        notices.
        """
        with self._shared.turn():
            return self._add(requests, stamp)

    def _add(self, requests: Sequence[AddRequest], stamp: int) -> list[PromptResult]:
        try:
            run = PromptRun(self._engine, self.history.find(stamp), stamp)
        except PromptError as error:
            return [_refusal(error, request) for request in requests]
        results: dict[int, PromptResult] = {}
        waiting: list[int] = []

        def apply() -> None:
            results.update(zip(waiting, run.apply(), strict=True))
            waiting.clear()

        for index, request in enumerate(requests):
            if run.holds(request.object_id):
                apply()  # a second prompt for the same object builds on the answer to the first
            try:
                run.admit(request)
                waiting.append(index)
            except PromptError as error:
                results[index] = _refusal(error, request)
        if waiting:
            apply()
        return [results[index] for index in range(len(requests))]

    def refine(self, request: AddRequest, stamp: int = 0) -> PromptResult:
        """Corrects a living object (``request.object_id``) on the frame stamped ``stamp``, as :meth:`add` does."""
        if request.object_id is None:
            return PromptResult(PromptCode.UNKNOWN_OBJECT, "a correction needs the id of a living object")
        return self.add([request], stamp)[0]

    def remove(self, object_id: int) -> bool:
        """Forgets an object; its id is never used again. False when there is none of this id."""
        one = self._objects.get(object_id)
        if one is None:
            return False
        self._forget(one)
        self._changes.append(change_of(one, REMOVED, one.state, "removed by request", gone=True))
        return True

    def rename(self, object_id: int, name: str, label: str, label_score: float | None = None) -> None:
        """Changes name and label, and with ``label_score`` how sure the label is.

        Raises:
            PromptError: no such object, the name is another one's, or can't be used.
        """
        check_names(name, label, label_score)
        one = self._registry.living(object_id)
        self._registry.check_name(name, object_id)
        one.name, one.label = name, label
        if label_score is not None:
            one.label_score = label_score

    def reset(self) -> int:
        """Forgets every object; returns how many there were. Ids go on from where they were."""
        count = len(self._objects)
        for object_id in list(self._objects):
            self.remove(object_id)
        return count

    def objects(self) -> FrameResult | None:
        """Every living object as of the newest frame; None before the first."""
        newest = self.history.newest
        return None if newest is None else self._result(newest, (), {})

    def mask_logits(self, object_id: int) -> Tensor | None:
        """Logits of a living object's mask on the newest frame before they are scaled to the image, ``[1, h, w]``, on
        the model's device; None where it was not looked for there."""
        one = self._objects.get(object_id)
        return None if one is None else one.logits

    def take_changes(self) -> list[ObjectChange]:
        """Changes since the last call that no :class:`FrameResult` carried; the newest thousand, if nobody asks."""
        changes = list(self._changes)
        self._changes.clear()
        return changes

    def close(self) -> None:
        """Lets memory and model go."""
        self.reset()
        self.history.clear()

    def _drop_lost(self, objects: list[TrackedObject]) -> list[ObjectChange]:
        """Forgets those that have been lost for too long."""
        longest = self.config.drop_after
        changes = []
        for one in objects:
            if longest and one.state is ObjectState.LOST and one.sight.absent_for > longest:
                self._forget(one)
                reason = f"not seen for {one.sight.absent_for} frames (tracker.drop_after)"
                changes.append(change_of(one, DROPPED, one.state, reason, gone=True))
        return changes

    def _forget(self, one: TrackedObject) -> None:
        del self._objects[one.object_id]
        self.bank.clear(one.row)
        self.history.forget(one.object_id)

    def _result(self, stored: StoredFrame, changes: tuple[ObjectChange, ...], laps: dict[str, float]) -> FrameResult:
        results = tuple(one.result(stored.width, stored.height) for one in self._objects.values())
        return FrameResult(stored.frame, stored.stamp, stored.width, stored.height, results, changes, laps)


def _refusal(error: PromptError, request: AddRequest) -> PromptResult:
    return PromptResult(error.code, str(error), object_id=request.object_id or 0, name=request.name)
