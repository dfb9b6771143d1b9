"""One thread that owns the engine: the newest frame wins, commands run between frames. Knows nothing of ROS.

No caller waits for the network: :meth:`Worker.submit` puts a frame into a slot, and commands return a
:class:`concurrent.futures.Future`. Results leave through a :class:`Listener`, in the inference thread.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from sam2_ros.inference.backend import Backend, BackendInfo, EncodesAhead, FrameDropped
from sam2_ros.inference.frames import Counters, Frame, Listener, Processed, interruption
from sam2_ros.inference.pacing import Pace
from sam2_ros.tracking.frame_lookup import seconds
from sam2_ros.tracking.types import PromptCode, PromptError

T = TypeVar("T")

MAX_COMMANDS = 256  # that may wait


@dataclass(frozen=True, eq=False)
class _Command(Generic[T]):
    apply: Callable[[Backend], T]
    future: Future[T]
    stamp: int | None = None  # ns, of the frame that it is meant for; 0 = the newest; None = it needs no frame
    deadline: int = 0  # ns, time.monotonic_ns(), until when it waits for that frame


@dataclass(eq=False)
class _Taken:
    """The next frame, encoded ahead or not."""

    frame: Frame
    start_time: int = 0  # ns, when the encoder took it; 0 = not encoded ahead
    image: NDArray[np.uint8] | None = None
    encoded: Any = None
    error: Exception | None = None  # why it could not be decoded or encoded


class _Nobody:
    """Takes the place of a listener that has left."""

    def on_processed(self, *_: object, **__: object) -> None:
        pass

    on_changes = on_objects = on_hidden = on_restart = on_failure = on_processed


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
        last: Processed | None = None,
    ) -> None:
        """
        Args:
            make_backend: called in the inference thread.
            name: part of the thread's name.
            queue: frames that may wait. All of them are processed in order; a new frame is dropped while the queue is
                full. 0: one frame may wait, and a newer one replaces it.
            jump_back: seconds, see :func:`interruption`; may be set at any time.
            last: the newest frame of an earlier worker whose objects the engine continues.
        """
        self._make_backend = make_backend
        self._listener = listener
        self._name = f"inference {name}" if name else "inference"
        self._condition = threading.Condition()  # guards everything below
        self._queue_length = queue
        self.jump_back = jump_back
        self._waiting: deque[Frame] = deque()
        self._pace = Pace()
        self._encodes_ahead = False
        self._ahead: _Taken | None = None  # encoded ahead
        self._encoding: _Taken | None = None  # being encoded; a pause clears it
        self._encoder_busy = False
        self._commands: list[_Command[Any]] = []
        self._newest = last
        self._current: Frame | None = None  # the newest processed since resume(); prompts apply to such frames only
        self._counters = Counters()
        self._closing = False
        self._paused = True
        self._thread: threading.Thread | None = None

    def start(self) -> Future[BackendInfo]:
        """Builds the engine in its thread; the future raises what building it raised."""
        started: Future[BackendInfo] = Future()
        self._thread = threading.Thread(target=self._run, args=(started,), name=self._name, daemon=True)
        self._thread.start()
        return started

    def close(self, timeout: float | None = None) -> None:
        """Refuses waiting commands, ends the thread after the current frame and frees the engine.

        After ``timeout`` seconds it no longer waits for the thread, which ends with the process. From then on the
        listener is not called.
        """
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        if self._thread is not None:
            self._thread.join(timeout)
        self._listener = _Nobody()
        self._refuse_waiting("the tracker is being shut down")

    def resume(self) -> None:
        """Accepts frames and prompts for them; the counters begin at zero."""
        with self._condition:
            self._counters = Counters()
            self._current = None
            self._paused = False

    def pause(self) -> None:
        """Accepts no more frames, refuses commands that wait for one, and returns when the current frame is done."""
        with self._condition:
            self._paused = True
            self._count(dropped=len(self._waiting) + (self._ahead is not None) + (self._encoding is not None))
            self._waiting.clear()
            self._ahead = self._encoding = None
        self._refuse_waiting("the tracker was deactivated meanwhile; activate it and send the prompt again")
        self._queue(_Command(lambda backend: None, Future())).result()
        with self._condition:
            self._condition.wait_for(lambda: not self._encoder_busy)

    def submit(self, frame: Frame) -> None:
        """Hands over a frame. It replaces the one that waits; with a full ``queue`` it is dropped itself."""
        with self._condition:
            if self._paused or self._closing:
                return
            full = len(self._waiting) >= max(1, self._queue_length)
            self._count(received=1, dropped=int(full))
            self._pace.arrived(time.monotonic_ns())
            if full and not self._queue_length:
                self._waiting[0] = frame
            elif not full:
                self._waiting.append(frame)
            self._condition.notify_all()

    def call(self, apply: Callable[[Backend], T]) -> Future[T]:
        """Runs ``apply`` between two frames; refused (PromptError, FAILED) while :data:`MAX_COMMANDS` wait."""
        return self._queue(_Command(apply, Future()), MAX_COMMANDS)

    def call_on_frame(self, apply: Callable[[Backend], T], stamp: int = 0, wait: float = 0.0) -> Future[T]:
        """Runs ``apply`` once a frame was processed since :meth:`resume` that is not older than ``stamp`` (ns; 0: any).

        After ``wait`` seconds ``apply`` runs on what there is: the engine decides which stored frame a stamp means. The
        future raises :class:`PromptError`: NO_FRAME when no frame came at all, NOT_ACTIVE after a pause or the end,
        FAILED while :data:`MAX_COMMANDS` wait.
        """
        deadline = time.monotonic_ns() + round(wait * 1e9)
        return self._queue(_Command(apply, Future(), stamp, deadline), MAX_COMMANDS)

    @property
    def counters(self) -> Counters:
        with self._condition:
            return self._counters

    @property
    def newest(self) -> Frame | None:
        """The newest processed frame, also one from before a pause."""
        with self._condition:
            return self._newest.frame if self._newest else None

    def _queue(self, command: _Command[T], most: float = math.inf) -> Future[T]:
        with self._condition:
            if self._closing or self._thread is None:
                command.future.set_exception(PromptError(PromptCode.NOT_ACTIVE, "the tracker is not running"))
            elif len(self._commands) >= most:
                reason = f"{len(self._commands)} commands wait already, as many as may; wait for their answers"
                command.future.set_exception(PromptError(PromptCode.FAILED, reason))
            else:
                self._commands.append(command)
                self._condition.notify_all()
        return command.future

    def _refuse_waiting(self, reason: str) -> None:
        with self._condition:
            waiting = [command for command in self._commands if command.stamp is not None or self._closing]
            refused = set(waiting)
            self._commands = [command for command in self._commands if command not in refused]
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
        finally:
            del self._make_backend  # it may hold the frames of an earlier process
        with contextlib.closing(backend), contextlib.ExitStack() as stack:
            if isinstance(backend, EncodesAhead) and backend.encodes_ahead:
                self._encodes_ahead = True
                name = f"{self._name} ahead"
                helper = threading.Thread(target=self._encode_ahead, args=(backend,), name=name, daemon=True)
                helper.start()
                stack.callback(helper.join)
            started.set_result(backend.info)
            while self._work(backend):
                pass

    def _encode_ahead(self, backend: EncodesAhead) -> None:
        """Runs in the second thread."""
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._closing or (self._waiting and self._ahead is None))
                if self._closing:
                    return
                taken = self._encoding = _Taken(self._waiting.popleft(), time.monotonic_ns())
                self._encoder_busy = True
            try:
                taken.image = taken.frame.decode()
                taken.encoded = backend.encode(taken.image)
            except Exception as error:
                taken.error = error
            with self._condition:
                if self._encoding is taken:  # else a pause has counted it as dropped
                    self._ahead, self._encoding = taken, None
                self._encoder_busy = False
                self._condition.notify_all()

    def _work(self, backend: Backend) -> bool:
        """Waits for something to do and does it; False when the worker is closing."""
        with self._condition:
            while not (self._closing or self._ahead or (self._waiting and not self._encodes_ahead) or self._due()):
                self._condition.wait(self._seconds_to_deadline())
            if self._closing:
                return False
            commands = self._due()
            due = set(commands)
            self._commands = [command for command in self._commands if command not in due]
        for command in commands:
            self._apply(command, backend)
        with self._condition:
            taken, self._ahead = self._ahead, None
            if self._encodes_ahead:
                self._condition.notify_all()
            elif self._waiting:
                if not self._queue_length:
                    self._wait_for_newer(self._waiting[0])
                taken = _Taken(self._waiting.popleft()) if self._waiting else None
        if taken is not None:
            self._process(taken, backend)
        return True

    def _wait_for_newer(self, frame: Frame) -> None:
        """Where the next frame is nearly due, it is worth more than one that has waited."""
        wait = self._pace.seconds_to_wait(time.monotonic_ns())
        if wait > 0:
            self._condition.wait_for(lambda: self._closing or frame not in self._waiting or self._due(), wait)

    def _due(self) -> list[_Command[Any]]:
        """Commands that can be applied, or refused, now."""
        now, newest = time.monotonic_ns(), self._current

        def is_due(command: _Command[Any]) -> bool:
            arrived = command.stamp is None or (newest is not None and command.stamp <= newest.stamp)
            return arrived or now >= command.deadline

        return [command for command in self._commands if is_due(command)]

    def _seconds_to_deadline(self) -> float | None:
        deadlines = [command.deadline for command in self._commands]
        return max(0.0, (min(deadlines) - time.monotonic_ns()) / 1e9) if deadlines else None

    def _apply(self, command: _Command[Any], backend: Backend) -> None:
        if not command.future.set_running_or_notify_cancel():
            return
        try:
            if command.stamp is not None and self._current is None:
                asked = f"no frame stamped {seconds(command.stamp)}" if command.stamp else "no frame"
                reason = (
                    f"{asked} was processed within the time allowed; is the camera running? The node's log says more"
                )
                raise PromptError(PromptCode.NO_FRAME, reason)
            try:
                answer = command.apply(backend)
            finally:
                self._report_changes(backend)
        except Exception as error:
            command.future.set_exception(error)
        else:
            command.future.set_result(answer)

    def _report_changes(self, backend: Backend) -> None:
        newest = self._newest
        if newest is None:  # without a frame there are no objects
            return
        with self._reporting_failure(newest.frame):
            changes, objects = tuple(backend.take_changes()), backend.objects()
            if objects is None:
                return
            now = replace(newest, result=replace(objects, changes=changes))
            if changes:
                self._listener.on_changes(now)
            self._listener.on_objects(now)

    def _process(self, taken: _Taken, backend: Backend) -> None:
        frame, image, start_time = taken.frame, taken.image, taken.start_time or time.monotonic_ns()
        try:
            if taken.error is not None:
                raise taken.error
            image = frame.decode() if image is None else image
            self._restart_if_interrupted(frame, image, backend)
            start_time = taken.start_time or time.monotonic_ns()
            result = backend.step(image if taken.encoded is None else taken.encoded, frame.stamp)
            end_time = time.monotonic_ns()
        except Exception as error:
            dropped = isinstance(error, FrameDropped)
            with self._condition:
                self._count(dropped=int(dropped), failed=int(not dropped))
            with contextlib.suppress(Exception):
                self._listener.on_failure(frame, error)
            if dropped:
                self._report_changes(backend)  # the loss of a server hides objects
            if isinstance(error, FrameDropped) and error.hidden is not None and image is not None:
                hidden = Processed(frame, image, error.hidden, start_time, time.monotonic_ns(), self.counters)
                with self._reporting_failure(frame):
                    self._listener.on_hidden(hidden)
            return
        with self._condition:
            self._count(processed=1)
            self._pace.processed(end_time - start_time)
            counters = self._counters
            if self._queue_length:  # a replay counts the same however fast its frames come in
                counters = replace(counters, received=counters.processed + counters.dropped + counters.failed)
            self._newest = processed = Processed(frame, image, result, start_time, end_time, counters)
            self._current = frame
        with self._reporting_failure(frame):
            self._listener.on_processed(processed)

    def _restart_if_interrupted(self, frame: Frame, image: NDArray[np.uint8], backend: Backend) -> None:
        reason = interruption(frame, image, self._newest, self.jump_back)
        if reason:
            backend.reset()
            with self._reporting_failure(frame):
                self._listener.on_restart(frame, reason)
            self._report_changes(backend)

    @contextlib.contextmanager
    def _reporting_failure(self, frame: Frame) -> Iterator[None]:
        """The listener's errors must not end the thread; one in ``on_failure`` itself is lost."""
        try:
            yield
        except Exception as error:
            with contextlib.suppress(Exception):
                self._listener.on_failure(frame, error)
