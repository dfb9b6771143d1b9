"""A server without a socket: a client's connections reach an engine in this thread, through the same bytes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgpack
import numpy as np

from sam2_ros.inference import NullBackend
from sam2_ros.inference.backend import Backend
from sam2_ros.remote import protocol
from sam2_ros.remote.codec import from_wire, to_wire
from sam2_ros.remote.server.commands import run_command
from sam2_ros.tracking import TrackerConfig
from sam2_ros.tracking.types import PromptError

Answer = list[bytes]


class DirectContext:
    """In place of the ZeroMQ context of a client's link.

    Args:
        change: gets an answer's parts, and returns those of one or more answers.
    """

    def __init__(self, change: Callable[[Answer], list[Answer]]) -> None:
        self.change = change

    def socket(self, kind: int) -> DirectSocket:
        return DirectSocket(self)

    def term(self) -> None:
        pass


class Descriptor(int):
    """A descriptor, which is what ZeroMQ's poller takes beside its own sockets; readable as often as it was written."""

    def __new__(cls, *_: object) -> Descriptor:
        return super().__new__(cls, os.eventfd(0, os.EFD_SEMAPHORE))

    def close(self, linger: int = 0) -> None:
        os.close(self)

    def poll(self, timeout: int) -> int:
        return 0


class DirectSocket(Descriptor):
    """What :class:`~sam2_ros.remote.connection.Connection` uses of a socket; answers are there at once."""

    def __init__(self, context: DirectContext) -> None:
        self._context = context
        self._answers: deque[Answer] = deque()
        self._engine: Backend = NullBackend(TrackerConfig())
        self.closed = False

    def get_monitor_socket(self, events: int) -> Descriptor:
        return Descriptor()

    def disable_monitor(self) -> None:
        pass

    def setsockopt(self, option: int, value: int) -> None:
        pass

    def connect(self, endpoint: str) -> None:
        pass

    def send_multipart(self, parts: Sequence[bytes], flags: int = 0, copy: bool = True) -> None:
        header = msgpack.unpackb(parts[1])
        try:
            answer = {"ok": True, "next_id": self._engine.next_id} | self._answer(header, parts[2:])
        except PromptError as error:
            answer = {"ok": False, "code": protocol.PROMPT, "message": str(error), "prompt_code": int(error.code)}
        except ValueError as error:
            answer = {"ok": False, "code": protocol.INVALID, "message": str(error)}
        for changed in self._context.change(protocol.pack(answer | {"seq": header["seq"]})):
            self._answers.append(changed)
            os.eventfd_write(self, 1)

    def recv_multipart(self) -> Answer:
        os.eventfd_read(self)
        return self._answers.popleft()

    def close(self, linger: int = 0) -> None:
        self.closed = True
        super().close()

    def _answer(self, header: dict[str, Any], pixels: Sequence[bytes]) -> dict[str, Any]:
        if header["op"] == "ping":
            return {"health": {"ready": True, "streams": 0, "streams_at_most": 16}}
        if header["op"] == "hello":
            self._engine = NullBackend(from_wire(TrackerConfig, header["tracker"]))
            return {"info": to_wire(self._engine.info), "max_bytes": 1 << 26}
        if header["op"] == "step":
            about = header["frame"]
            frame = np.frombuffer(pixels[0], np.uint8).reshape(about["height"], about["width"], 3)
            return {"result": to_wire(self._engine.step(frame, header["stamp"]))}
        return run_command(self._engine, header)
