"""One camera's tracker in the server: a thread that handles its client's requests in order."""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam2_ros.inference.backend import Backend
from sam2_ros.remote import protocol
from sam2_ros.remote.codec import to_wire
from sam2_ros.remote.pixels import PROOF_BYTES, PixelReader
from sam2_ros.remote.protocol import Header, ProtocolError
from sam2_ros.remote.server.commands import run_command, stamp_of
from sam2_ros.remote.server.limits import Limits
from sam2_ros.remote.server.metrics import Metrics
from sam2_ros.tracking.types import PromptError

_HELD = 3  # messages of the largest size that one stream may hold: a frame in work, one that waits, and commands


@dataclass(frozen=True)
class Request:
    """A client's message; ``pixels`` is a view that keeps the received part alive."""

    client: bytes  # routing id that the answer goes to
    header: Header
    pixels: memoryview | None
    arrival: float  # s, time.monotonic()
    size: int = 0  # bytes that it keeps

    @property
    def is_frame(self) -> bool:
        return self.header["op"] == "step"


class Answers:
    """Messages from the streams' threads to the socket's thread, for which :attr:`fd` becomes readable."""

    def __init__(self) -> None:
        self._messages: deque[list[bytes]] = deque()
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def put(self, message: list[bytes]) -> None:
        """For any thread."""
        self._messages.append(message)
        os.eventfd_write(self.fd, 1)

    def take(self) -> list[list[bytes]]:
        """All that were put, the oldest first."""
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            return []
        return [self._messages.popleft() for _ in range(len(self._messages))]


class Stream:
    """Lives from a client's ``hello`` to its ``bye``, the idle limit, or the end of its connection or of the server.

    Args:
        make_backend: called in the stream's thread.
        opening: the ``hello``, which gets the first answer.
        engine_bytes: what the engine will allocate.
        local: the client is on this machine and may use shared memory.

    Raises:
        RuntimeError: the system gives no thread.
    """

    def __init__(
        self,
        answers: Answers,
        make_backend: Callable[[], Backend],
        opening: Request,
        limits: Limits,
        metrics: Metrics,
        engine_bytes: int = 0,
        local: bool = False,
    ) -> None:
        self.last_heard = time.monotonic()
        self.object_count = 0
        self.engine_bytes = engine_bytes
        self.held_bytes = 0  # of requests that wait or are in work
        self._answers = answers
        self._make_backend = make_backend
        self._limits = limits
        self._metrics = metrics
        self._proof = secrets.token_bytes(PROOF_BYTES) if local else b""
        self._waiting: deque[Request] = deque()
        self._changed = threading.Condition()  # guards _waiting, held_bytes, _working and _closing
        self._working: Request | None = opening
        self._closing = False
        self._thread = threading.Thread(target=self._run, args=(opening,), name="stream", daemon=True)
        self._thread.start()

    def put(self, request: Request, room: int) -> Request | None:
        """Queues a request; a new frame replaces a waiting one, which is returned. ``room`` is how many bytes all
        streams together may still hold.

        Raises:
            ProtocolError: BUSY, or NO_STREAM where the thread has ended.
        """
        self.last_heard = request.arrival
        with self._changed:
            if self._closing:
                raise ProtocolError("the stream has ended; say hello first", protocol.NO_STREAM)
            replaced = (
                next((waiting for waiting in self._waiting if waiting.is_frame), None) if request.is_frame else None
            )
            if not request.is_frame and len(self._waiting) >= self._limits.waiting_commands:
                reason = f"{len(self._waiting)} requests of this stream wait already; wait for their answers"
                raise ProtocolError(reason, protocol.BUSY)
            more = request.size - (replaced.size if replaced else 0)
            if more > min(room, _HELD * self._limits.message_bytes - self.held_bytes):
                raise ProtocolError(f"{self.held_bytes} bytes of this stream's requests wait already, and others of "
                                    "other streams; wait for their answers", protocol.BUSY)  # fmt: skip
            if replaced is not None:
                self._waiting.remove(replaced)
            self.held_bytes += more
            self._waiting.append(request)
            self._changed.notify_all()
        return replaced

    @property
    def over(self) -> bool:
        """Whether its place is free for others: the client has been silent for too long, or the thread is dead."""
        with self._changed:
            busy = self._waiting or self._working
            silent = not busy and time.monotonic() - self.last_heard > self._limits.idle
        return silent or not self._thread.is_alive()

    def close(self) -> None:
        """Ends the thread after the waiting requests. Returns at once; see :meth:`join`."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def join(self, timeout: float) -> bool:
        """Whether the thread ended within ``timeout`` seconds."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    # ---- the stream's thread ----

    def _run(self, opening: Request) -> None:
        try:
            self._serve(opening)
        except Exception as error:
            if self._working is not None:
                self._reply(
                    self._working, refusal(protocol.FAILED, f"the stream ended: {type(error).__name__}: {error}")
                )
        finally:
            with self._changed:
                self._closing = True
                waiting, self._working = list(self._waiting), None
                self._waiting.clear()
                self.held_bytes = 0
            for request in waiting:
                self._reply(request, refusal(protocol.NO_STREAM, "the stream has ended; say hello first"))

    def _serve(self, opening: Request) -> None:
        with (
            closing(PixelReader(self._limits.message_bytes, self._proof)) as pixels,
            closing(self._make_backend()) as backend,
        ):
            opened = {
                "ok": True, "info": to_wire(backend.info), "next_id": backend.next_id,
                "max_bytes": self._limits.message_bytes,
            }  # fmt: skip
            self._reply(opening, opened | ({"shm": self._proof} if self._proof else {}))
            while (request := self._next()) is not None:
                self._reply(request, self._answer(backend, pixels, request))

    def _next(self) -> Request | None:
        with self._changed:
            if self._working is not None:
                self.held_bytes -= self._working.size
                self.last_heard = time.monotonic()  # a client waits for its answer before it goes on
            self._working = None
            self._changed.wait_for(lambda: self._waiting or self._closing)
            self._working = self._waiting.popleft() if self._waiting else None
            return self._working

    def _reply(self, request: Request, answer: Header) -> None:
        if not answer["ok"]:
            self._metrics.refused.labels(answer["code"]).inc()
        self._answers.put([request.client, *protocol.pack(answer | {"seq": request.header["seq"]})])

    def _answer(self, backend: Backend, pixels: PixelReader, request: Request) -> Header:
        try:
            op = request.header["op"]
            if op == "step":
                answer = self._step(backend, pixels, request)
            elif op == "pixels":
                answer = {"shape": list(_read(pixels, request).shape)}
            else:
                answer = run_command(backend, request.header)
        except ProtocolError as error:
            return refusal(error.code, str(error))
        except PromptError as error:
            return refusal(protocol.PROMPT, str(error), prompt_code=int(error.code))
        except ValueError as error:
            return refusal(protocol.INVALID, str(error))
        except Exception as error:  # an error in one request must not end the stream
            return refusal(protocol.FAILED, f"{type(error).__name__}: {error}")
        return {"ok": True, "next_id": backend.next_id} | answer

    def _step(self, backend: Backend, pixels: PixelReader, request: Request) -> Header:
        start = time.monotonic()
        self._metrics.waiting.observe(start - request.arrival)
        result = backend.step(_read(pixels, request), stamp_of(request.header))
        self._metrics.engine.observe(time.monotonic() - start)
        self._metrics.frames.inc()
        self.object_count = len(result.objects)
        return {"result": to_wire(result)}


def _read(pixels: PixelReader, request: Request) -> NDArray[np.uint8]:
    about = request.header.get("frame")
    if not isinstance(about, dict):
        raise ProtocolError("'frame' is missing: a map with height, width and encoding")
    return pixels.read(about, request.pixels)


def refusal(code: str, message: str, **more: Any) -> Header:
    """The header of an answer that refuses."""
    return {"ok": False, "code": code, "message": message, **more}


def room(streams: Sequence[Stream], limits: Limits) -> int:
    """Bytes that the requests of all streams together may still hold."""
    return limits.waiting_bytes - sum(stream.held_bytes for stream in streams)
