"""What a :class:`~sam2_ros.inference.worker.Worker` takes and gives: frames, results, counters."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sam2_ros.tracking.frame_lookup import seconds
from sam2_ros.tracking.types import FrameResult

ASPECT_TOLERANCE = 0.02  # share by which width / height may differ: 1280x720 and 854x480 are the same view


@dataclass(frozen=True)
class Frame:
    """An image that waits for the engine.

    ``decode`` returns its pixels, RGB ``uint8 [H, W, 3]``. The worker calls it only for a frame that it processes, so a
    dropped frame costs no conversion. ``source`` comes back untouched with the result.
    """

    stamp: int  # ns
    decode: Callable[[], NDArray[np.uint8]]
    receive_time: int  # ns, time.monotonic_ns()
    source: Any = None
    encoding: str = ""  # of the pixels, as the camera names it


def decoded_once(frame: Frame) -> Frame:
    """The frame for two threads that both need its pixels: the first one to ask decodes, which may raise for both."""
    lock = threading.Lock()
    found: list[NDArray[np.uint8]] = []

    def decode() -> NDArray[np.uint8]:
        with lock:
            if not found:
                found.append(frame.decode())
            return found[0]

    return replace(frame, decode=decode)


@dataclass(frozen=True)
class Counters:
    """Frames since :meth:`Worker.resume`.

    received = processed + dropped + failed + those in progress (at most two; three where the engine encodes ahead).
    """

    received: int = 0
    processed: int = 0
    dropped: int = 0  # replaced by a newer frame, refused by a full queue, or no server answered
    failed: int = 0  # could not be decoded or tracked


@dataclass(frozen=True)
class Processed:
    """One frame's results; the counters include this frame."""

    frame: Frame
    image: NDArray[np.uint8]
    result: FrameResult
    start_time: int  # ns, time.monotonic_ns(), when the engine, or its encoder, took the frame
    end_time: int  # ns, when the engine returned
    counters: Counters


class Listener(Protocol):
    """Receives results in the inference thread. What it raises is reported by :meth:`on_failure`."""

    def on_processed(self, processed: Processed) -> None: ...

    def on_changes(self, processed: Processed) -> None:
        """A command changed objects. Called before the command's future completes, with the newest frame once more:
        counters and times as they were, the objects as they are now, and ``processed.result.changes``."""

    def on_objects(self, processed: Processed) -> None:
        """A command was applied, whatever it changed; as :meth:`on_changes`, and after it."""

    def on_hidden(self, processed: Processed) -> None:
        """No engine has seen this frame, which counts as dropped: its objects are OCCLUDED, without changes."""

    def on_restart(self, frame: Frame, reason: str) -> None:
        """Every object was forgotten, because ``frame`` does not continue the frame before it."""

    def on_failure(self, frame: Frame, error: Exception) -> None:
        """``error`` cost this frame; the worker continues with the next."""


def interruption(frame: Frame, image: NDArray[np.uint8], last: Processed | None, jump_back: float) -> str:
    """Why objects can't be followed from the last frame into this one; empty where they can.

    Another resolution of the same aspect ratio is the same view, because the network sees a square anyway. With another
    ratio an object has another shape in that square, which its memory does not fit.

    Args:
        image: of ``frame``, ``uint8 [H, W, 3]``.
        last: None before the first frame.
        jump_back: seconds; a stamp that is older by more than this belongs to another run. 0 ignores stamps.
    """
    if last is None:
        return ""
    if jump_back and last.frame.stamp - frame.stamp > jump_back * 1e9:
        return f"time jumped back from {seconds(last.frame.stamp)} to {seconds(frame.stamp)}"
    (height, width), (last_height, last_width) = image.shape[:2], last.image.shape[:2]
    if abs((width / height) / (last_width / last_height) - 1) > ASPECT_TOLERANCE:
        sizes = f"from {last_width} x {last_height} to {width} x {height} pixels"
        return f"the image changed {sizes}, which is another aspect"
    return ""
