"""Where the engine runs: one interface for this process, another process, or none. This module never imports torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.types import AddRequest, FrameResult, ObjectChange, PromptResult


@dataclass(frozen=True)
class BackendInfo:
    """What an engine is, for logs and diagnostics."""

    model: str  # e.g. "embedded", "sam2.1_hiera_tiny"
    device: str  # e.g. "cpu", "cuda:0"
    dtype: str  # e.g. "float32", "bfloat16"
    image_size: int  # pixels, side of the square the network sees
    bank_bytes: int  # memory bank, allocated at start, constant
    max_objects: int
    history_bytes: int = 0  # stored frames for late prompts, at most
    cache_bytes: int = 0  # worked out once of the weights (rounded, merged), for all cameras of the network


class FrameDropped(RuntimeError):
    """A frame came to nothing although nothing is wrong with it: its engine is out of reach, or too slow for it."""


class Backend(Protocol):
    """One camera's tracker. Not thread-safe: one thread owns it (:class:`sam2_ros.inference.worker.Worker`)."""

    @property
    def info(self) -> BackendInfo:
        """Model, device, number format and sizes."""
        ...

    @property
    def next_id(self) -> int:
        """Id of the next new object: 1 at first. Set it to go on from where an earlier engine ended."""
        ...

    @next_id.setter
    def next_id(self, value: int) -> None: ...

    def configure(self, config: TrackerConfig) -> None:
        """Goes on with other settings, all of them from the next frame or prompt on.

        Raises:
            ValueError: it can't, with the setting and the reason; nothing has changed then.
        """
        ...

    def step(self, frame: NDArray[np.uint8], stamp: int) -> FrameResult:
        """Tracks every object in ``frame`` (RGB ``uint8 [H, W, 3]``), stamped ``stamp`` nanoseconds."""
        ...

    def add(self, requests: Sequence[AddRequest], stamp: int = 0) -> list[PromptResult]:
        """Applies prompts to the stored frame that ``stamp`` means (nanoseconds; 0 = the newest), and rolls their
        objects forward to now from there; one result each, refusals included.

        An ``object_id`` of None makes a new object; an id that lives is corrected (as with :meth:`refine`).
        """
        ...

    def refine(self, request: AddRequest, stamp: int = 0) -> PromptResult:
        """Corrects an existing object (``request.object_id``)."""
        ...

    def remove(self, object_id: int) -> bool:
        """Forgets an object; False when there is none of this id."""
        ...

    def rename(self, object_id: int, name: str, label: str, label_score: float | None = None) -> None:
        """Changes name and label, and with ``label_score`` how sure the label is."""
        ...

    def reset(self) -> int:
        """Forgets every object; returns how many there were. Ids go on."""
        ...

    def objects(self) -> FrameResult | None:
        """Every living object as of the newest frame; None before the first."""
        ...

    def take_changes(self) -> list[ObjectChange]:
        """Changes since the last call that no :class:`FrameResult` carried (added, corrected, removed)."""
        ...

    def link_values(self) -> Mapping[str, object]:
        """How the connection to an engine elsewhere does, by name, for diagnostics; empty for one in this process.
        May be called from any thread."""
        ...

    def close(self) -> None:
        """Frees model and memory."""
        ...


@runtime_checkable
class EncodesAhead(Protocol):
    """A :class:`Backend` whose step has a first half, which another thread may do while the frame before is in the
    second."""

    @property
    def encodes_ahead(self) -> bool:
        """Whether it is meant to be used so."""
        ...

    def encode(self, frame: NDArray[np.uint8]) -> object:
        """The first half of :meth:`Backend.step`, in any one thread."""
        ...

    def step_encoded(self, encoded: Any, stamp: int) -> FrameResult:
        """The second half, with what :meth:`encode` gave."""
        ...
