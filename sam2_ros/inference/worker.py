"""One thread that owns the engine: the newest frame wins, commands are applied between frames. Knows nothing of ROS.

Nobody who calls the worker ever waits for the network: :meth:`Worker.submit` swaps a frame into a slot, and commands
give back a :class:`concurrent.futures.Future`. Results leave through a :class:`Listener`, in the inference thread.
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

    ``decode`` gives its pixels, RGB ``uint8 [H, W, 3]``. It is called in the inference thread, or in that which encodes
    ahead, so a frame that is dropped costs no conversion. ``source`` comes back untouched with the result.
    """

    stamp: int  # ns
    decode: Callable[[], NDArray[np.uint8]]
    receive_time: int  # ns, time.monotonic_ns()
    source: Any = None
    encoding: str = ""  # of the pixels, as the camera names it


@dataclass(frozen=True)
class Counters:
    """Frames since :meth:`Worker.resume`: received = processed + dropped + failed + those under way (at most two; three
    with an engine that encodes ahead)."""

    received: int = 0
    processed: int = 0
    dropped: int = 0  # replaced by a newer one before the engine was free, or the engine was out of reach
    failed: int = 0  # could not be decoded or tracked


@dataclass(frozen=True)
class Processed:
    """One frame's results. The counters include this frame; at most one other is missing from their sum, two with an
    engine that encodes ahead."""

    frame: Frame
    image: NDArray[np.uint8]
    result: FrameResult
    start_time: int  # ns, time.monotonic_ns(), when the engine took the frame; if it encodes ahead, it waited since
    end_time: int  # ns, when it returned
    counters: Counters


class Listener(Protocol):
    """Whom the worker tells, always in the inference thread. A listener that raises is reported as a failure."""

    def on_processed(self, processed: Processed) -> None: ...

    def on_changes(self, processed: Processed) -> None:
        """A command made ``processed.result.changes``: the newest processed frame again, its counters and times as
        they were, its objects as they are now. Comes before the command's future completes.
        """
        ...

    def on_restart(self, frame: Frame, reason: str) -> None:
        """Every object was forgotten, because ``frame`` does not go on from the one before it."""
        ...

    def on_failure(self, frame: Frame, error: Exception) -> None:
        """A frame was lost to ``error``; the worker goes on with the next."""
        ...


@dataclass(frozen=True, eq=False)
class _Command(Generic[T]):
    apply: Callable[[Backend], T]
    future: Future[T]
    needs_frame: bool = False
    stamp: int = 0  # of the frame it is meant for; 0 = the newest
    deadline: int = 0  # ns, time.monotonic_ns(): until when it may wait for that frame


@dataclass(frozen=True)
class _Taken:
    """A frame that is next."""

    frame: Frame
    start_time: int = 0  # ns, when the engine took it; 0: it has not
    image: NDArray[np.uint8] | None = None
    encoded: object = None
    error: Exception | None = None  # why it could not be decoded or encoded


class Worker:
    """Runs a :class:`Backend` in a thread of its own, from :meth:`start` to :meth:`close`.

    Where the backend encodes ahead (:class:`EncodesAhead`), a second thread takes the frames, encodes one while the
    other thread tracks the one before, and waits until that one is taken over.
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
            make_backend: called in the thread.
            name: tells the thread from other workers'.
            queue: frames that may wait to be processed one after another, all of them; a new one is dropped where that
                many wait. 0: one may wait, and gives way to a newer one.
            jump_back: seconds, see :func:`interruption`; may be set at any time.
        """
        self._make_backend = make_backend
        self._listener = listener
        self._name = f"inference {name}" if name else "inference"
        self._condition = threading.Condition()  # guards everything below
        self._queue_length = queue
        self.jump_back = jump_back
        self._waiting: deque[Frame] = deque()
        self._ahead: _Taken | None = None  # encoded, and next
        self._encoding: object = None  # stands for the frame that is being encoded, until a pause gives it up
        self._encoder_busy = False
        self._commands: list[_Command[Any]] = []
        self._newest: Processed | None = None
        self._newest_is_current = False  # processed since resume(); prompts are for such frames alone
        self._counters = Counters()
        self._closing = False
        self._paused = True
        self._thread: threading.Thread | None = None
        self._backend: Backend | None = None

    def start(self) -> Future[BackendInfo]:
        """Builds the engine in its thread; the future fails with whatever building it raised."""
        started: Future[BackendInfo] = Future()
        self._thread = threading.Thread(target=self._run, args=(started,), name=self._name, daemon=True)
        self._thread.start()
        return started

    def close(self, timeout: float | None = None) -> None:
        """Ends the thread after the frame under way and frees the engine; commands that wait are refused.

        After ``timeout`` seconds the thread is left to itself; it ends with the process.
        """
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        if self._thread is not None:
            self._thread.join(timeout)
        self._refuse_waiting("the tracker is being shut down")

    def resume(self) -> None:
        """Starts to take frames; the counters begin at zero. Prompts are for frames from now on."""
        with self._condition:
            self._counters = Counters()
            self._newest_is_current = False
            self._paused = False

    def pause(self) -> None:
        """Takes no more frames, refuses commands that wait for one, and returns when the frame under way is done."""
        with self._condition:
            self._paused = True
            left = len(self._waiting) + (self._ahead is not None) + (self._encoding is not None)
            self._counters = replace(self._counters, dropped=self._counters.dropped + left)
            self._waiting.clear()
            self._ahead = self._encoding = None
        self._refuse_waiting("the tracker was deactivated meanwhile; activate it and send the prompt again")
        self.call(lambda backend: None).result()
        with self._condition:
            self._condition.wait_for(lambda: not self._encoder_busy)

    def submit(self, frame: Frame) -> None:
        """Hands over a frame; one that still waits is dropped for it, or with a full ``queue`` it is dropped itself."""
        with self._condition:
            if self._paused or self._closing:
                return
            counters = self._counters
            full = len(self._waiting) >= max(1, self._queue_length)
            self._counters = replace(counters, received=counters.received + 1, dropped=counters.dropped + int(full))
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
        """Runs ``apply`` once a frame was processed since :meth:`resume` that is not older than ``stamp`` (0: any).

        It is waited for, ``wait`` seconds at most; then ``apply`` runs all the same, where there is a frame at all:
        which stored frame a stamp means, and whether one does, is the engine's to say. The future raises
        :class:`PromptError`: NO_FRAME when no frame came, NOT_ACTIVE when the worker was paused or closed meanwhile.
        """
        deadline = time.monotonic_ns() + round(wait * 1e9)
        return self._queue(_Command(apply, Future(), needs_frame=True, stamp=stamp, deadline=deadline))

    @property
    def counters(self) -> Counters:
        with self._condition:
            return self._counters

    def link_values(self) -> Mapping[str, object]:
        """How the connection to an engine elsewhere does; see :meth:`Backend.link_values`."""
        return self._backend.link_values() if self._backend is not None else {}

    @property
    def newest(self) -> Frame | None:
        """The newest processed frame, from before a pause too."""
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
        """What the second thread does."""
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
                if self._encoding is mine:  # else it was counted as dropped
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
                    self._tell(self._newest.frame, self._tell_changes, self._newest, backend)
        except Exception as error:
            command.future.set_exception(error)
        else:
            command.future.set_result(answer)

    def _tell_changes(self, newest: Processed, backend: Backend) -> None:
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
            with self._condition:
                counters = self._counters
                if isinstance(error, FrameDropped):
                    self._counters = replace(counters, dropped=counters.dropped + 1)
                else:
                    self._counters = replace(counters, failed=counters.failed + 1)
            self._tell(frame, self._listener.on_failure, frame, error)
            if isinstance(error, FrameDropped) and self._newest is not None:  # objects may be out of sight by it
                self._tell(frame, self._tell_changes, self._newest, backend)
            return
        with self._condition:
            self._counters = counters = replace(self._counters, processed=self._counters.processed + 1)
            if self._queue_length:  # as of this frame, so that a replay says the same however fast frames come in
                counters = replace(counters, received=counters.processed + counters.dropped + counters.failed)
            self._newest = processed = Processed(frame, image, result, start_time, end_time, counters)
            self._newest_is_current = True
        self._tell(frame, self._listener.on_processed, processed)

    def _restart_if_interrupted(self, frame: Frame, image: NDArray[np.uint8], backend: Backend) -> None:
        last = self._newest
        if last is None:
            return
        reason = interruption(frame.stamp, image.shape, last.frame.stamp, last.image.shape, self.jump_back)
        if not reason:
            return
        backend.reset()
        self._tell(frame, self._listener.on_restart, frame, reason)
        self._tell(frame, self._tell_changes, last, backend)

    def _tell(self, frame: Frame, tell: Callable[..., None], *arguments: Any) -> None:
        """A fault in telling must not end the thread; one in ``on_failure`` itself has nowhere to go."""
        try:
            tell(*arguments)
        except Exception as error:
            if tell != self._listener.on_failure:
                self._tell(frame, self._listener.on_failure, frame, error)


def interruption(stamp: int, shape: Sequence[int], last_stamp: int, last_shape: Sequence[int], jump_back: float) -> str:
    """Why objects can't be followed from the last frame into this one; empty where they can.

    Another resolution of the same aspect is the same view: the network sees a square anyway. With another aspect the
    same object has another shape in that square, and what is remembered of it fits no longer.

    Args:
        stamp, last_stamp: nanoseconds.
        shape, last_shape: of the images, height and width first.
        jump_back: seconds; a stamp that lies further back than this is of another run. 0 = stamps are not looked at.
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
