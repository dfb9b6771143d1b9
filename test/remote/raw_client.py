"""A client that keeps to the protocol only as far as a test wants."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
import zmq
from served import PATIENCE

from sam2_ros.remote import protocol
from sam2_ros.remote.codec import to_wire
from sam2_ros.tracking import TrackerConfig


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    pytest.fail(f"waited in vain for {what}")


class Raw:
    """A client that says what it likes."""

    def __init__(self, endpoint: str) -> None:
        self._context: zmq.Context[Any] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 0
        self._socket.rcvtimeo = round(PATIENCE * 1000)
        self._socket.connect(endpoint)

    def send(self, *parts: bytes) -> None:
        self._socket.send_multipart(list(parts))

    def receive(self) -> dict[str, Any]:
        prefix, header = self._socket.recv_multipart()
        assert prefix == protocol.PREFIX
        return dict(msgpack.unpackb(header))

    def ask(self, op: str, seq: int = 1, pixels: bytes | None = None, **fields: Any) -> dict[str, Any]:
        self.tell(op, seq, pixels, **fields)
        return self.receive()

    def tell(self, op: str, seq: int = 1, pixels: bytes | None = None, **fields: Any) -> None:
        parts = protocol.pack({"op": op, "seq": seq, **fields})
        self.send(*parts, *([] if pixels is None else [pixels]))

    def hello(self, **changes: Any) -> dict[str, Any]:
        return self.ask("hello", **{"stream": "0123456789abcdef", "tracker": to_wire(TrackerConfig())} | changes)

    def step(self, seq: int, **changes: Any) -> None:
        frame = {"height": 4, "width": 4, "encoding": "raw"}
        self.tell("step", seq, bytes(48), **{"stamp": seq, "frame": frame} | changes)

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self._context.destroy(0)
