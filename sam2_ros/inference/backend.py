"""One interface for an engine in this process, in another process, or without a network. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.segmentation import ImageEngine
from sam2_ros.tracking.types import FrameResult, ObjectChange, PromptRequest, PromptResult


@dataclass(frozen=True)
class BackendInfo:
    """What an engine is, for logs and diagnostics."""

    model: str  # e.g. "embedded", "sam2.1_hiera_tiny"
    device: str  # e.g. "cpu", "cuda:0"
    dtype: str  # e.g. "float32", "bfloat16"
    image_size: int  # pixels, side of the square the network sees
    bank_bytes: int  # memory bank, allocated at the start
    max_objects: int
    history_bytes: int = 0  # at most, of stored frames for late prompts
    windows: bool = False  # whether auto means on for tracker.window and tracker.edges
    cache_bytes: int = 0  # computed once from the weights (rounded, merged), for all cameras of the network


class FrameDropped(RuntimeError):
    """A good frame has no result, because its engine can't be reached or is too slow.

    ``hidden`` holds the living objects, OCCLUDED and in the size of the frame, if nobody knows where they are; None if
    the engine does, or if there are no objects yet.
    """

    def __init__(self, message: str, hidden: FrameResult | None = None) -> None:
        super().__init__(message)
        self.hidden = hidden


class FrameRefused(ValueError):
    """The engine takes no frame of this kind; the message says which setting helps."""


class Backend(Protocol):
    """One camera's tracker. Not thread-safe: one thread owns it (:class:`sam2_ros.inference.worker.Worker`)."""

    @property
    def info(self) -> BackendInfo:
        """Model, device, number format and sizes."""

    @property
    def next_id(self) -> int:
        """Id of the next new object, 1 at first. Set it to continue the ids of an earlier engine."""

    @next_id.setter
    def next_id(self, value: int) -> None: ...

    def configure(self, config: TrackerConfig) -> None:
        """Uses other settings from the next frame or prompt on.

        Raises:
            ValueError: a setting can't change now; nothing has changed then.
        """

    def step(self, frame: NDArray[np.uint8], stamp: int) -> FrameResult:
        """Tracks every object in ``frame`` (RGB ``uint8 [H, W, 3]``); ``stamp`` is in nanoseconds."""

    def add(self, requests: Sequence[PromptRequest], stamp: int = 0) -> list[PromptResult]:
        """Applies prompts to the stored frame stamped ``stamp`` (ns; 0 = the newest) and tracks their objects from
        there to the newest frame. Each request gets a result, refusals included.

        An ``object_id`` of None adds an object; the id of a living one corrects it (as :meth:`refine` does).

        Raises:
            PromptError: more requests, or more points in all, than :mod:`~sam2_ros.tracking.prompt_checks` accepts.
        """

    def refine(self, request: PromptRequest, stamp: int = 0) -> PromptResult:
        """Corrects an existing object (``request.object_id``)."""

    def remove(self, object_id: int) -> bool:
        """Forgets an object; False when there is none of this id."""

    def rename(self, object_id: int, name: str, label: str, label_score: float | None = None) -> None:
        """Changes name and label, and the label's score where one is given.

        Raises:
            PromptError: no such object; or the name is taken, or can't be used.
        """

    def reset(self) -> int:
        """Forgets every object; returns how many there were. Their ids are not used again."""

    def objects(self) -> FrameResult | None:
        """Every living object as of the newest frame; None before the first."""

    def take_changes(self) -> list[ObjectChange]:
        """Changes since the last call that no :class:`FrameResult` carries (added, corrected, removed)."""

    def close(self) -> None:
        """Frees model and memory."""


class NewestSegmenter(ImageEngine, Protocol):
    """Segments single images, and the newest frame without encoding it again: ``images`` of a :class:`Backend`, where
    it can (:func:`sam2_ros.inference.commands.image_engine`)."""

    def segment_newest(self, requests: Sequence[PromptRequest]) -> list[PromptResult]:
        """One result for each of ``requests`` on the newest frame; nothing is tracked."""


@runtime_checkable
class EncodesAhead(Protocol):
    """A :class:`Backend` whose step has two halves: one thread may encode a frame while another tracks the last."""

    @property
    def encodes_ahead(self) -> bool:
        """Whether the halves should run in two threads."""

    def encode(self, frame: NDArray[np.uint8]) -> object:
        """The first half of :meth:`Backend.step`, which takes its result in the frame's place; one thread at a time."""

    def step(self, frame: Any, stamp: int) -> FrameResult: ...
