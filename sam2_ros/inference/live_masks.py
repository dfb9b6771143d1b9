"""Carries the newest masks to every camera image, in a thread of its own beside the engine's."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sam2_ros.inference.frames import Frame
from sam2_ros.tracking.carrier import Carried, MaskCarrier
from sam2_ros.tracking.types import FrameResult

MOST_WAITING = 3  # images; the oldest gives way, as in a camera's queue


@dataclass(frozen=True)
class LiveImage:
    """A camera image with its pixels, and the objects carried to it; None before the first answer."""

    frame: Frame
    image: NDArray[np.uint8]
    carried: Carried | None
    start_time: int  # ns, time.monotonic_ns(), when it was taken up


class LiveMasks:
    """Takes images in the order in which they come; hands each one on with the masks for it.

    Args:
        answer: called for each image, in this thread: the engine's newest answer, another object whenever a frame, a
            prompt, a removal or a new name changed it.
        on_image: called with each image, in this thread.
        on_failure: called with an image that could not be read or handed on, and why.
    """

    def __init__(
        self,
        answer: Callable[[], FrameResult | None],
        on_image: Callable[[LiveImage], None],
        on_failure: Callable[[Frame, Exception], None],
        name: str = "",
    ) -> None:
        self._answer, self._on_image, self._on_failure = answer, on_image, on_failure
        self._condition = threading.Condition()  # guards what follows
        self._frames: deque[Frame] = deque(maxlen=MOST_WAITING)
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=f"live masks {name}".strip(), daemon=True)
        self._thread.start()

    def close(self, timeout: float) -> None:
        """Ends the thread; waits so many seconds for it."""
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        self._thread.join(timeout)

    def submit(self, frame: Frame) -> None:
        """The newest camera image."""
        with self._condition:
            self._frames.append(frame)
            self._condition.notify_all()

    def _run(self) -> None:
        carrier, last = MaskCarrier(), None
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._closing or self._frames)
                if self._closing:
                    return
                frame = self._frames.popleft()
            start_time = time.monotonic_ns()
            try:
                answer = self._answer()
                if answer is not None and answer is not last:
                    last = answer
                    carrier.update(answer)
                image = frame.decode()
                carrier.add_image(image, frame.stamp)
                self._on_image(LiveImage(frame, image, carrier.carried(), start_time))
            except Exception as error:
                with suppress(Exception):
                    self._on_failure(frame, error)
