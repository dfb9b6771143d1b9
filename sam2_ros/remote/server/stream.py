"""One camera's tracker in the server: a thread that handles its client's requests in order."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import zmq
from numpy.typing import NDArray

from sam2_ros.inference.backend import Backend
from sam2_ros.inference.recovery import restore_objects
from sam2_ros.remote import protocol
from sam2_ros.remote.codec import from_wire, to_wire
from sam2_ros.remote.pixels import PixelReader
from sam2_ros.remote.protocol import Header, ProtocolError
from sam2_ros.remote.server.metrics import Metrics
from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.prompt_checks import MAX_PROMPTS, check_count
from sam2_ros.tracking.types import PromptError, PromptRequest

REPLIES = "inproc://replies"  # from the streams' threads to the server's socket


@dataclass(frozen=True)
class Limits:
    """What clients may use at most; the server refuses more, with a reason."""

    streams: int = 16  # cameras at the same time
    objects: int = 64  # tracker.max_objects of one stream
    message_bytes: int = 64 << 20  # of one message, and of one frame's pixels
    idle: float = 60.0  # s without a message after which a stream ends
    waiting_commands: int = 64  # of one stream

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0:
                raise ValueError(f"{name} is {value}; accepted: more than 0")


@dataclass(frozen=True)
class Request:
    """A client's message; ``pixels`` is a view that keeps the received part alive."""

    client: bytes  # routing id that the answer goes to
    header: Header
    pixels: memoryview | None
    arrival: float  # s, time.monotonic()

    @property
    def is_frame(self) -> bool:
        return self.header["op"] == "step"


class Stream:
    """Lives from a client's ``hello`` to its ``bye``, the idle limit, or the end of the server.

    Args:
        make_backend: called in the stream's thread.
        opening: the ``hello``, which gets the first answer.
    """

    def __init__(
        self,
        context: zmq.Context[Any],
        make_backend: Callable[[], Backend],
        opening: Request,
        limits: Limits,
        metrics: Metrics,
    ) -> None:
        self.last_heard = time.monotonic()
        self.failed = False  # there is no engine; only a new hello can help
        self.object_count = 0
        self._context = context
        self._make_backend = make_backend
        self._limits = limits
        self._metrics = metrics
        self._pixels = PixelReader(limits.message_bytes)
        self._waiting: deque[Request] = deque()
        self._changed = threading.Condition()  # guards _waiting and _closing
        self._closing = False
        self._thread = threading.Thread(target=self._run, args=(opening,), name="stream", daemon=True)
        self._thread.start()

    def put(self, request: Request) -> Request | None:
        """Queues a request; a new frame replaces a waiting one, which is returned.

        Raises:
            ProtocolError: BUSY.
        """
        self.last_heard = request.arrival
        replaced = None
        with self._changed:
            if request.is_frame:
                replaced = next((waiting for waiting in self._waiting if waiting.is_frame), None)
                if replaced is not None:
                    self._waiting.remove(replaced)
            elif len(self._waiting) >= self._limits.waiting_commands:
                reason = f"{len(self._waiting)} requests of this stream wait already; wait for their answers"
                raise ProtocolError(reason, protocol.BUSY)
            self._waiting.append(request)
            self._changed.notify_all()
        return replaced

    @property
    def idle(self) -> bool:
        """Whether the client has been silent for too long."""
        with self._changed:
            return not self._waiting and time.monotonic() - self.last_heard > self._limits.idle

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
        socket = self._context.socket(zmq.PUSH)
        socket.linger = 1000
        socket.connect(REPLIES)
        with closing(socket), closing(self._pixels):
            try:
                backend = self._make_backend()
            except Exception as error:
                self.failed = True
                self._reply(socket, opening, refusal(protocol.FAILED, f"the stream can't be opened: {error}"))
                return
            with closing(backend):
                opened = {"ok": True, "info": to_wire(backend.info), "next_id": backend.next_id}
                self._reply(socket, opening, opened)
                while (request := self._next()) is not None:
                    self._reply(socket, request, self._answer(backend, request))

    def _next(self) -> Request | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            return self._waiting.popleft() if self._waiting else None

    def _reply(self, socket: zmq.Socket[Any], request: Request, answer: Header) -> None:
        if not answer["ok"]:
            self._metrics.refused.labels(answer["code"]).inc()
        answer["seq"] = request.header["seq"]
        socket.send_multipart([request.client, *protocol.pack(answer)])

    def _answer(self, backend: Backend, request: Request) -> Header:
        try:
            op = request.header["op"]
            if op == "step":
                answer = self._step(backend, request)
            elif op == "pixels":
                answer = {"shape": list(self._read(request).shape)}
            else:
                answer = _command(backend, request.header)
        except ProtocolError as error:
            return refusal(error.code, str(error))
        except PromptError as error:
            return refusal(protocol.PROMPT, str(error), prompt_code=int(error.code))
        except ValueError as error:
            return refusal(protocol.INVALID, str(error))
        except Exception as error:  # an error in one request must not end the stream
            return refusal(protocol.FAILED, f"{type(error).__name__}: {error}")
        return {"ok": True, "next_id": backend.next_id} | answer

    def _step(self, backend: Backend, request: Request) -> Header:
        start = time.monotonic()
        self._metrics.waiting.observe(start - request.arrival)
        result = backend.step(self._read(request), _stamp(request.header))
        self._metrics.engine.observe(time.monotonic() - start)
        self._metrics.frames.inc()
        self.object_count = len(result.objects)
        return {"result": to_wire(result)}

    def _read(self, request: Request) -> NDArray[np.uint8]:
        about = request.header.get("frame")
        if not isinstance(about, dict):
            raise ProtocolError("'frame' is missing: a map with height, width and encoding")
        return self._pixels.read(about, request.pixels)


def refusal(code: str, message: str, **more: Any) -> Header:
    """The header of an answer that refuses."""
    return {"ok": False, "code": code, "message": message, **more}


def _command(backend: Backend, header: Header) -> Header:
    """Runs a command; the answer carries the objects as they are afterwards, and what changed."""
    op = protocol.text(header, "op")
    if op not in _COMMANDS:
        raise ProtocolError(f"op is {op[:40]!r}; accepted: {', '.join(OPERATIONS)}")
    result = _COMMANDS[op](backend, header)
    changes = backend.take_changes()
    return {"result": to_wire(result), "changes": to_wire(changes), "objects": to_wire(backend.objects())}


def _stamp(header: Header) -> int:
    return protocol.integer(header, "stamp", -(1 << 63), (1 << 63) - 1)


def _object_id(header: Header) -> int:
    return protocol.integer(header, "object_id", 0, (1 << 63) - 1)


def _requests(header: Header) -> list[PromptRequest]:
    requests = header.get("requests")
    check_count("requests", len(requests) if isinstance(requests, list) else 0, MAX_PROMPTS)
    return from_wire(list[PromptRequest], requests)


def _rename(backend: Backend, header: Header) -> None:
    name, label = protocol.text(header, "name", 4096), protocol.text(header, "label", 4096)
    score = from_wire(float, header["label_score"]) if "label_score" in header else None
    backend.rename(_object_id(header), name, label, score)


def _set_next_id(backend: Backend, header: Header) -> None:
    backend.next_id = protocol.integer(header, "next_id", 1, (1 << 63) - 1)


_COMMANDS: dict[str, Callable[[Backend, Header], Any]] = {
    "add": lambda backend, header: backend.add(_requests(header), _stamp(header)),
    "refine": lambda backend, header: backend.refine(from_wire(PromptRequest, header.get("request")), _stamp(header)),
    "remove": lambda backend, header: backend.remove(_object_id(header)),
    "rename": _rename,
    "reset": lambda backend, header: backend.reset(),
    "objects": lambda backend, header: None,  # every answer carries them
    "next_id": _set_next_id,
    "configure": lambda backend, header: backend.configure(from_wire(TrackerConfig, header["tracker"])),
    "restore": lambda backend, header: restore_objects(backend, _requests(header)),
}
OPERATIONS = ("hello", "ping", "bye", "step", "pixels", *_COMMANDS)
