"""One thread that owns the engine: the newest frame wins, commands run between frames. Knows nothing of ROS.

No caller waits for the network: :meth:`Worker.submit` puts a frame into a slot, and commands return a
:class:`concurrent.futures.Future`. Results leave through a :class:`Listener`, in the inference thread.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from sam2_ros.inference.backend import Backend, BackendInfo, EncodesAhead, FrameDropped
from sam2_ros.tracking.frame_lookup import seconds
from sam2_ros.tracking.types import FrameResult, PromptCode, PromptError

T = TypeVar("T")
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

    def on_restart(self, frame: Frame, reason: str) -> None:
        """Every object was forgotten, because ``frame`` does not continue the frame before it."""

    def on_failure(self, frame: Frame, error: Exception) -> None:
        """``error`` cost this frame; the worker continues with the next."""


@dataclass(frozen=True, eq=False)
class _Command(Generic[T]):
    apply: Callable[[Backend], T]
    future: Future[T]
    needs_frame: bool = False
    stamp: int = 0  # ns, of the frame it is meant for; 0 = the newest
    deadline: int = 0  # ns, time.monotonic_ns(), until when it waits for that frame


@dataclass(frozen=True)
class _Taken:
    """The next frame, encoded ahead or not."""

    frame: Frame
    start_time: int = 0  # ns, when the encoder took it; 0 = not encoded ahead
    image: NDArray[np.uint8] | None = None
    encoded: object = None
    error: Exception | None = None  # why it could not be decoded or encoded


class Worker:
    """Runs a :class:`Backend` in a thread of its own, from :meth:`start` to :meth:`close`.

    Where the backend encodes ahead (:class:`EncodesAhead`), a second thread encodes one frame while the first thread
    tracks the frame before.
    """

    def __init__(
        self,
        make_backend: Callable[[], Backend],
        listener: Listener,
        name: str = "",
        queue: int = 0,
        jump_back: float = 0.0,
    ) -> None:
        """
        Args:
            make_backend: called in the inference thread.
            name: part of the thread's name.
            queue: frames that may wait. All of them are processed in order; a new frame is dropped while the queue is
                full. 0: one frame may wait, and a newer one replaces it.
            jump_back: seconds, see :func:`interruption`; may be set at any time.
        """
        self._make_backend = make_backend
        self._listener = listener
        self._name = f"inference {name}" if name else "inference"
        self._condition = threading.Condition()  # guards everything below
        self._queue_length = queue
        self.jump_back = jump_back
        self._waiting: deque[Frame] = deque()
        self._ahead: _Taken | None = None  # encoded ahead
        self._encoding: object = None  # marks the frame that is being encoded; a pause clears it
        self._encoder_busy = False
        self._commands: list[_Command[Any]] = []
        self._newest: Processed | None = None
        self._newest_is_current = False  # processed since resume(); prompts apply to such frames only
        self._counters = Counters()
        self._closing = False
        self._paused = True
        self._thread: threading.Thread | None = None
        self._backend: Backend | None = None

    def start(self) -> Future[BackendInfo]:
        """Builds the engine in its thread; the future raises what building it raised."""
        started: Future[BackendInfo] = Future()
        self._thread = threading.Thread(target=self._run, args=(started,), name=self._name, daemon=True)
        self._thread.start()
        return started

    def close(self, timeout: float | None = None) -> None:
        """Refuses waiting commands, ends the thread after the current frame and frees the engine.

        After ``timeout`` seconds it no longer waits for the thread, which ends with the process.
        """
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        if self._thread is not None:
            self._thread.join(timeout)
        self._refuse_waiting("the tracker is being shut down")

    def resume(self) -> None:
        """Accepts frames and prompts for them; the counters begin at zero."""
        with self._condition:
            self._counters = Counters()
            self._newest_is_current = False
            self._paused = False

    def pause(self) -> None:
        """Accepts no more frames, refuses commands that wait for one, and returns when the current frame is done."""
        with self._condition:
            self._paused = True
            self._count(dropped=len(self._waiting) + (self._ahead is not None) + (self._encoding is not None))
            self._waiting.clear()
            self._ahead = self._encoding = None
        self._refuse_waiting("the tracker was deactivated meanwhile; activate it and send the prompt again")
        self.call(lambda backend: None).result()
        with self._condition:
            self._condition.wait_for(lambda: not self._encoder_busy)

    def submit(self, frame: Frame) -> None:
        """Hands over a frame. It replaces the one that waits; with a full ``queue`` it is dropped itself."""
        with self._condition:
            if self._paused or self._closing:
                return
            full = len(self._waiting) >= max(1, self._queue_length)
            self._count(received=1, dropped=int(full))
            if full and self._queue_length:
                return
            if full:
                self._waiting.clear()
            self._waiting.append(frame)
            self._condition.notify_all()

    def call(self, apply: Callable[[Backend], T]) -> Future[T]:
        """Runs ``apply`` between two frames."""
        return self._queue(_Command(apply, Future()))

    def call_on_frame(self, apply: Callable[[Backend], T], stamp: int = 0, wait: float = 0.0) -> Future[T]:
        """Runs ``apply`` once a frame was processed since :meth:`resume` that is not older than ``stamp`` (ns; 0: any).

        After ``wait`` seconds ``apply`` runs on what there is: the engine decides which stored frame a stamp means. The
        future raises :class:`PromptError`: NO_FRAME when no frame came at all, NOT_ACTIVE after a pause or the end.
        """
        deadline = time.monotonic_ns() + round(wait * 1e9)
        return self._queue(_Command(apply, Future(), needs_frame=True, stamp=stamp, deadline=deadline))

    @property
    def counters(self) -> Counters:
        with self._condition:
            return self._counters

    def link_values(self) -> Mapping[str, object]:
        """See :meth:`Backend.link_values`."""
        return self._backend.link_values() if self._backend is not None else {}

    @property
    def newest(self) -> Frame | None:
        """The newest processed frame, also one from before a pause."""
        with self._condition:
            return self._newest.frame if self._newest else None

    def _queue(self, command: _Command[T]) -> Future[T]:
        with self._condition:
            if self._closing or self._thread is None:
                command.future.set_exception(PromptError(PromptCode.NOT_ACTIVE, "the tracker is not running"))
            else:
                self._commands.append(command)
                self._condition.notify_all()
        return command.future

    def _refuse_waiting(self, reason: str) -> None:
        with self._condition:
            waiting = [command for command in self._commands if command.needs_frame or self._closing]
            self._commands = [command for command in self._commands if command not in waiting]
        for command in waiting:
            command.future.set_exception(PromptError(PromptCode.NOT_ACTIVE, reason))

    def _count(self, **more: int) -> None:
        """Adds to the counters; the caller holds the condition."""
        self._counters = replace(self._counters, **{n: getattr(self._counters, n) + more[n] for n in more})

    # ---- the inference thread ----

    def _run(self, started: Future[BackendInfo]) -> None:
        try:
            backend = self._make_backend()
        except Exception as error:
            with self._condition:
                self._closing = True
            started.set_exception(error)
            return
        self._backend = backend
        helper = None
        if isinstance(backend, EncodesAhead) and backend.encodes_ahead:
            helper = threading.Thread(
                target=self._encode_ahead, args=(backend,), name=f"{self._name} ahead", daemon=True
            )
            helper.start()
        started.set_result(backend.info)
        try:
            while self._work(backend, helper is not None):
                pass
        finally:
            if helper is not None:
                helper.join()
            backend.close()

    def _encode_ahead(self, backend: EncodesAhead) -> None:
        """Runs in the second thread."""
        while True:
            with self._condition:
                while not (self._closing or (self._waiting and self._ahead is None)):
                    self._condition.wait()
                if self._closing:
                    return
                frame, mine, self._encoder_busy = self._waiting.popleft(), object(), True
                self._encoding = mine
            taken = _Taken(frame, time.monotonic_ns())
            try:
                image = frame.decode()
                taken = replace(taken, image=image, encoded=backend.encode(image))
            except Exception as error:
                taken = replace(taken, error=error)
            with self._condition:
                if self._encoding is mine:  # else a pause has counted it as dropped
                    self._ahead, self._encoding = taken, None
                self._encoder_busy = False
                self._condition.notify_all()

    def _work(self, backend: Backend, ahead: bool) -> bool:
        """Waits for something to do and does it; False when the worker is closing."""

        def is_next() -> bool:
            return self._ahead is not None if ahead else bool(self._waiting)

        with self._condition:
            while not (self._closing or is_next() or self._due()):
                self._condition.wait(self._seconds_to_deadline())
            if self._closing:
                return False
            commands = self._due()
            self._commands = [command for command in self._commands if command not in commands]
        for command in commands:
            self._apply(command, backend)
        with self._condition:
            if ahead:
                taken, self._ahead = self._ahead, None
                self._condition.notify_all()
            else:
                taken = _Taken(self._waiting.popleft()) if self._waiting else None
        if taken is not None:
            self._process(taken, backend)
        return True

    def _due(self) -> list[_Command[Any]]:
        """Commands that can be applied, or refused, now."""
        now = time.monotonic_ns()
        return [command for command in self._commands if not self._awaits_frame(command) or now >= command.deadline]

    def _seconds_to_deadline(self) -> float | None:
        deadlines = [command.deadline for command in self._commands]
        return max(0.0, (min(deadlines) - time.monotonic_ns()) / 1e9) if deadlines else None

    def _current_frame(self) -> Frame | None:
        return self._newest.frame if self._newest and self._newest_is_current else None

    def _awaits_frame(self, command: _Command[Any]) -> bool:
        if not command.needs_frame:
            return False
        current = self._current_frame()
        return current is None or command.stamp > current.stamp

    def _refusal(self, command: _Command[Any]) -> PromptError | None:
        """Why a command that is due can't be applied."""
        if not command.needs_frame or self._current_frame() is not None:
            return None
        asked = f"no frame stamped {seconds(command.stamp)}" if command.stamp else "no frame"
        return PromptError(
            PromptCode.NO_FRAME, f"{asked} was processed within the time allowed; is the camera running?"
        )

    def _apply(self, command: _Command[Any], backend: Backend) -> None:
        if not command.future.set_running_or_notify_cancel():
            return
        refusal = self._refusal(command)
        if refusal is not None:
            command.future.set_exception(refusal)
            return
        try:
            try:
                answer = command.apply(backend)
            finally:
                if self._newest is not None:  # without a frame there are no objects
                    self._notify(self._newest.frame, self._report_changes, self._newest, backend)
        except Exception as error:
            command.future.set_exception(error)
        else:
            command.future.set_result(answer)

    def _report_changes(self, newest: Processed, backend: Backend) -> None:
        changes = tuple(backend.take_changes())
        objects = backend.objects() if changes else None
        if objects is not None:
            self._listener.on_changes(replace(newest, result=replace(objects, changes=changes)))

    def _process(self, taken: _Taken, backend: Backend) -> None:
        frame = taken.frame
        try:
            if taken.error is not None:
                raise taken.error
            image = frame.decode() if taken.image is None else taken.image
            self._restart_if_interrupted(frame, image, backend)
            start_time = taken.start_time or time.monotonic_ns()
            if isinstance(backend, EncodesAhead) and taken.encoded is not None:
                result = backend.step_encoded(taken.encoded, frame.stamp)
            else:
                result = backend.step(image, frame.stamp)
            end_time = time.monotonic_ns()
        except Exception as error:
            dropped = isinstance(error, FrameDropped)
            with self._condition:
                self._count(dropped=int(dropped), failed=int(not dropped))
            self._notify(frame, self._listener.on_failure, frame, error)
            if dropped and self._newest is not None:  # the loss of a server hides objects
                self._notify(frame, self._report_changes, self._newest, backend)
            return
        with self._condition:
            self._count(processed=1)
            counters = self._counters
            if self._queue_length:  # a replay counts the same however fast its frames come in
                counters = replace(counters, received=counters.processed + counters.dropped + counters.failed)
            self._newest = processed = Processed(frame, image, result, start_time, end_time, counters)
            self._newest_is_current = True
        self._notify(frame, self._listener.on_processed, processed)

    def _restart_if_interrupted(self, frame: Frame, image: NDArray[np.uint8], backend: Backend) -> None:
        last = self._newest
        if last is None:
            return
        reason = interruption(frame.stamp, image.shape, last.frame.stamp, last.image.shape, self.jump_back)
        if not reason:
            return
        backend.reset()
        self._notify(frame, self._listener.on_restart, frame, reason)
        self._notify(frame, self._report_changes, last, backend)

    def _notify(self, frame: Frame, method: Callable[..., None], *arguments: Any) -> None:
        """Calls the listener, whose errors must not end the thread; one in ``on_failure`` itself is lost."""
        try:
            method(*arguments)
        except Exception as error:
            if method != self._listener.on_failure:
                self._notify(frame, self._listener.on_failure, frame, error)


def interruption(stamp: int, shape: Sequence[int], last_stamp: int, last_shape: Sequence[int], jump_back: float) -> str:
    """Why objects can't be followed from the last frame into this one; empty where they can.

    Another resolution of the same aspect ratio is the same view, because the network sees a square anyway. With another
    ratio an object has another shape in that square, which its memory does not fit.

    Args:
        stamp, last_stamp: nanoseconds.
        shape, last_shape: of the images, height and width first.
        jump_back: seconds; a stamp that is older by more than this belongs to another run. 0 ignores stamps.
    """
    if jump_back and last_stamp - stamp > jump_back * 1e9:
        return f"time jumped back from {seconds(last_stamp)} to {seconds(stamp)}"
    aspect, last_aspect = shape[1] / shape[0], last_shape[1] / last_shape[0]
    if abs(aspect / last_aspect - 1) > ASPECT_TOLERANCE:
        return (
            f"the image changed from {last_shape[1]} x {last_shape[0]} to {shape[1]} x {shape[0]} pixels, which is "
            "another aspect"
        )
    return ""
