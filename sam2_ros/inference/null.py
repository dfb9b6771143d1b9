"""An engine without a network: every object stays where its prompt put it.

It handles ids, names, refusals and changes as :class:`~sam2_ros.inference.backend.Backend` says, so that the code
around the network can be tested and measured without torch.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sam2_ros.inference.backend import BackendInfo
from sam2_ros.text import counted
from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.frame_lookup import find_frame
from sam2_ros.tracking.prompt_checks import check_names, check_request, check_requests
from sam2_ros.tracking.types import (
    CroppedMask,
    EventCode,
    FrameResult,
    ObjectChange,
    ObjectResult,
    ObjectState,
    Prompt,
    PromptCode,
    PromptError,
    PromptRequest,
    PromptResult,
)

_POINT_RADIUS = 8  # pixels around a point that count as the object
_SCORE = 10.0  # logit of a visible object


def is_null_model(model: str) -> bool:
    """Whether ``model`` names this engine: "null", or "null:MS" for one that takes MS milliseconds a frame."""
    return re.fullmatch(r"null(:\d+)?", model) is not None


class NullBackend:
    """A :class:`~sam2_ros.inference.backend.Backend` whose masks stand still. ``delay`` is seconds spent on a frame."""

    def __init__(self, config: TrackerConfig | None = None, delay: float = 0.0) -> None:
        self._config = config = config or TrackerConfig()
        self.info = BackendInfo("null", "none", "none", 0, 0, config.max_objects)
        self._delay = delay
        self._objects: dict[int, ObjectResult] = {}
        self.next_id = 1
        self._frame_index = -1
        self._stamps: deque[int] = deque(maxlen=config.history + 1)  # of the stored frames
        self._size = (0, 0)  # width, height
        self._changes: list[ObjectChange] = []

    def configure(self, config: TrackerConfig) -> None:
        self._config.check_change(config)
        self._config = config

    def step(self, frame: NDArray[np.uint8], stamp: int) -> FrameResult:
        if self._delay:
            time.sleep(self._delay)
        self._frame_index += 1
        self._stamps.append(stamp)
        before, self._size = self._size, (frame.shape[1], frame.shape[0])
        for object_id, obj in self._objects.items():
            mask = obj.mask if self._size == before else CroppedMask.empty(*self._size)
            tracked = obj.frames_tracked + 1
            self._objects[object_id] = replace(obj, mask=mask, last_seen=stamp, frames_tracked=tracked, prompted=False)
        return self._result()

    def add(self, requests: Sequence[PromptRequest], stamp: int = 0) -> list[PromptResult]:
        check_requests(requests)
        return [self._answer(request, stamp) for request in requests]

    def refine(self, request: PromptRequest, stamp: int = 0) -> PromptResult:
        if request.object_id is None:
            return PromptResult(PromptCode.UNKNOWN_OBJECT, "no object was named; give the id of a living one")
        return self._answer(request, stamp)

    def remove(self, object_id: int) -> bool:
        obj = self._objects.pop(object_id, None)
        if obj is not None:
            self._note(EventCode.REMOVED, obj, "removed by request")
        return obj is not None

    def rename(self, object_id: int, name: str, label: str, label_score: float | None = None) -> None:
        check_names(name, label, label_score)
        obj = self._living(object_id)
        self._check_name(name, object_id)
        score = obj.label_score if label_score is None else label_score
        self._objects[object_id] = replace(obj, name=name, label=label, label_score=score)

    def reset(self) -> int:
        return sum(self.remove(object_id) for object_id in list(self._objects))

    def objects(self) -> FrameResult | None:
        return self._result() if self._frame_index >= 0 else None

    def take_changes(self) -> list[ObjectChange]:
        changes, self._changes = self._changes, []
        return changes

    def close(self) -> None:
        self._objects.clear()

    def _answer(self, request: PromptRequest, asked: int) -> PromptResult:
        try:
            index = find_frame(self._stamps, asked, self._config.history_tolerance)
            obj = self._apply(request)
        except PromptError as error:
            return PromptResult(error.code, str(error))
        stamp = self._stamps[index]
        done = "tracking started" if request.object_id is None else "corrected"
        return PromptResult(
            PromptCode.OK, f"object {obj.object_id}: {done}", obj.object_id, obj.name, stamp,
            prompt_age=(self._stamps[-1] - stamp) / 1e9, frames_caught_up=len(self._stamps) - 1 - index,
            stamp_difference=abs(asked - stamp) / 1e9 if asked else 0.0, result=obj, stability=1.0,
        )  # fmt: skip

    def _apply(self, request: PromptRequest) -> ObjectResult:
        check_request(request, self._size)
        if request.prompt.like is not None:
            raise PromptError(PromptCode.UNSUPPORTED, "this engine has no network, so that it can't look for a picture")
        if request.object_id is not None:
            obj = replace(self._living(request.object_id), mask=self._mask(request.prompt), prompted=True)
            self._note(EventCode.CORRECTED, obj, "corrected by request")
        else:
            self._check_name(request.name)
            if len(self._objects) >= self.info.max_objects:
                reason = f"{counted(len(self._objects), 'object')} tracked already"
                raise PromptError(PromptCode.FULL, f"{reason}; raise tracker.max_objects or remove one")
            obj = ObjectResult(
                self.next_id, self._mask(request.prompt), ObjectState.VISIBLE, _SCORE, 1.0, 1.0, True, request.name,
                request.label, request.label_score, first_seen=self._stamps[-1], last_seen=self._stamps[-1],
            )  # fmt: skip
            self.next_id += 1
            self._note(EventCode.ADDED, obj, "added by request")
        self._objects[obj.object_id] = obj
        return obj

    def _living(self, object_id: int) -> ObjectResult:
        if object_id not in self._objects:
            raise PromptError(PromptCode.UNKNOWN_OBJECT, f"no living object has the id {object_id}")
        return self._objects[object_id]

    def _check_name(self, name: str, owner: int | None = None) -> None:
        for object_id, obj in self._objects.items():
            if name and obj.name == name and object_id != owner:
                reason = f"object {object_id} is called '{name}' already; choose another name"
                raise PromptError(PromptCode.DUPLICATE_NAME, reason)

    def _mask(self, prompt: Prompt) -> CroppedMask:
        """The prompt's own mask, its box, or the squares around its points."""
        if prompt.mask is not None:
            return CroppedMask.from_full(prompt.mask)
        boxes = np.zeros((0, 4)) if prompt.box is None else np.reshape(prompt.box, (1, 4))
        if prompt.box is None and prompt.points is not None and prompt.labels is not None:
            inside = prompt.points[prompt.labels == 1]
            boxes = np.concatenate([inside - _POINT_RADIUS, inside + _POINT_RADIUS + 1], axis=1)
        mask = np.zeros(self._size[::-1], np.bool_)
        for box in boxes:
            x0, y0, x1, y1 = (max(0, round(float(edge))) for edge in box)
            mask[y0:y1, x0:x1] = True
        if not mask.any():
            reason = "this engine has no network; give a box, a mask or a positive point"
            raise PromptError(PromptCode.INVALID_PROMPT, reason)
        return CroppedMask.from_full(mask)

    def _note(self, event: EventCode, obj: ObjectResult, reason: str) -> None:
        before = None if event is EventCode.ADDED else obj.state
        after = None if event is EventCode.REMOVED else obj.state
        stamp = self._stamps[-1]
        change = ObjectChange(event, obj.object_id, obj.name, obj.label, before, after, _SCORE, 1.0, stamp, reason)
        self._changes.append(change)

    def _result(self) -> FrameResult:
        return FrameResult(self._frame_index, self._stamps[-1], *self._size, tuple(self._objects.values()))
