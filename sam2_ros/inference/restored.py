"""An engine in this process that continues the objects of an earlier one, as a server does after a failover."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam2_ros.inference.backend import Backend, BackendInfo
from sam2_ros.inference.recovery import RESTARTED, Recovery, SavedObjects, restore_objects
from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.types import FrameResult, ObjectChange, PromptCode, PromptRequest, PromptResult


class Restored:
    """A :class:`~sam2_ros.inference.backend.Backend` around another one that has seen no frame yet.

    The inner engine gets every saved object on the frame where it was seen last. The objects keep their ids, names and
    counters and are OCCLUDED until they are seen. One that can't be re-created is dropped, with an event.
    """

    def __init__(self, backend: Backend, saved: SavedObjects) -> None:
        self._backend = backend
        self._recovery = Recovery()
        self._recovery.recall(saved.sightings)
        self._before, self._changes = self._recovery.lose(saved.newest, reason=RESTARTED)
        done: dict[int, PromptResult] = {}
        for sighting, requests in self._recovery.plan(self._before.objects):
            try:
                backend.step(sighting.frame, sighting.stamp)
                answers = restore_objects(backend, requests)
            except Exception as error:  # what was saved must not keep the node from starting
                answers = [PromptResult(PromptCode.FAILED, f"{type(error).__name__}: {error}")] * len(requests)
            done |= {request.object_id or 0: answer for request, answer in zip(requests, answers, strict=True)}
        _, dropped = self._recovery.restored(self._before.objects, done)
        self._changes += dropped
        self._recovery.recall({})  # the frames are needed no more
        backend.take_changes()
        backend.next_id = max(backend.next_id, saved.next_id)
        self._waiting = True  # for the first frame

    @property
    def info(self) -> BackendInfo:
        return self._backend.info

    @property
    def next_id(self) -> int:
        return self._backend.next_id

    @next_id.setter
    def next_id(self, value: int) -> None:
        self._backend.next_id = value

    @property
    def encodes_ahead(self) -> bool:
        return bool(getattr(self._backend, "encodes_ahead", False))

    @property
    def images(self) -> object:
        return getattr(self._backend, "images", None)

    def encode(self, frame: NDArray[np.uint8]) -> object:
        backend: Any = self._backend
        return backend.encode(frame)

    def configure(self, config: TrackerConfig) -> None:
        self._backend.configure(config)

    def step(self, frame: Any, stamp: int) -> FrameResult:
        result = self._recovery.go_on(self._backend.step(frame, stamp))
        self._waiting = False
        changes, self._changes = self._changes, []
        return replace(result, changes=(*changes, *result.changes))

    def add(self, requests: Sequence[PromptRequest], stamp: int = 0) -> list[PromptResult]:
        return [self._continued(answer) for answer in self._backend.add(requests, stamp)]

    def refine(self, request: PromptRequest, stamp: int = 0) -> PromptResult:
        return self._continued(self._backend.refine(request, stamp))

    def remove(self, object_id: int) -> bool:
        return self._backend.remove(object_id)

    def rename(self, object_id: int, name: str, label: str, label_score: float | None = None) -> None:
        self._backend.rename(object_id, name, label, label_score)

    def reset(self) -> int:
        return self._backend.reset()

    def objects(self) -> FrameResult | None:
        newest = self._backend.objects()
        if newest is None:
            return replace(self._before, objects=())
        newest = replace(newest, objects=tuple(map(self._recovery.continued, newest.objects)))
        return self._recovery.lose(newest)[0] if self._waiting else newest

    def take_changes(self) -> list[ObjectChange]:
        changes, self._changes = self._changes, []
        return changes + self._backend.take_changes()

    def close(self) -> None:
        self._backend.close()

    def _continued(self, answer: PromptResult) -> PromptResult:
        return answer if answer.result is None else replace(answer, result=self._recovery.continued(answer.result))
