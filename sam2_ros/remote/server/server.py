"""The server's socket: reads messages, hands them to the streams, and sends their answers."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import zmq

from sam2_ros.inference.backend import Backend
from sam2_ros.remote import protocol
from sam2_ros.remote.codec import from_wire
from sam2_ros.remote.protocol import Header, ProtocolError
from sam2_ros.remote.server.metrics import Metrics
from sam2_ros.remote.server.security import Security
from sam2_ros.remote.server.stream import OPERATIONS, REPLIES, Limits, Request, Stream, refusal
from sam2_ros.tracking.config import TrackerConfig

_TICK = 0.2  # s, between checks for idle streams and for the end
_MAX_TOKEN = 64  # characters


class Server:
    """Serves until :meth:`stop` is called, in the thread that calls :meth:`run`.

    Args:
        make_backend: makes the engine of a stream, in the stream's thread; engines may share one network.
        endpoints: what to bind to, e.g. ``ipc:///run/sam2``, ``tcp://127.0.0.1:5555``; port ``*`` takes a free one.
        security: keys; None = clients need none.

    Raises:
        zmq.ZMQError: an endpoint is in use, or can't be bound to.
    """

    def __init__(
        self,
        make_backend: Callable[[TrackerConfig], Backend],
        endpoints: Sequence[str],
        limits: Limits | None = None,
        security: Security | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._make_backend = make_backend
        self._limits = limits or Limits()
        self.metrics = metrics or Metrics()
        self._streams: dict[str, Stream] = {}  # by token
        self._clients: dict[bytes, str] = {}  # token by routing id
        self._ending: list[Stream] = []
        self._stopping = threading.Event()
        self._draining = False
        self._context: zmq.Context[Any] = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 1000
        # A larger part ends the connection before it takes memory. Other messages beyond the limit get an answer.
        self._socket.maxmsgsize = 2 * self._limits.message_bytes
        self._socket.rcvhwm = self._limits.waiting_commands
        self._socket.setsockopt(zmq.HEARTBEAT_IVL, 1000)
        self._socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 5000)
        self._end_security = security.apply(self._context, self._socket, self.metrics) if security else None
        self._replies = self._context.socket(zmq.PULL)
        self._replies.bind(REPLIES)
        try:
            for endpoint in endpoints:
                self._socket.bind(endpoint)
        except zmq.ZMQError:
            self._destroy()
            raise
        self.endpoints = list(endpoints)
        if len(endpoints) == 1:  # whose port may have been *
            self.endpoints = [bytes(self._socket.getsockopt(zmq.LAST_ENDPOINT)).rstrip(b"\0").decode()]

    def stop(self) -> None:
        """Ends :meth:`run`: refuses new frames, answers accepted requests. For any thread or signal handler."""
        self._stopping.set()

    def health(self) -> dict[str, Any]:
        """For the health page and pings; ``ready`` is False while the server stops."""
        streams = list(self._streams.values())
        return {
            "ready": not (self._stopping.is_set() or self._draining),
            "streams": len(streams),
            "streams_at_most": self._limits.streams,
            "objects": sum(stream.object_count for stream in streams),
            "protocol": protocol.VERSION,
        }

    def run(self, grace: float = 10.0) -> None:
        """Serves; after :meth:`stop`, accepted requests have ``grace`` seconds to end."""
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._replies, zmq.POLLIN)
        deadline, next_check = float("inf"), 0.0
        try:
            while time.monotonic() < deadline:
                ready = dict(poller.poll(round(_TICK * 1000)))
                if self._replies in ready:
                    self._send_replies()
                if self._socket in ready:
                    self._receive()
                if time.monotonic() > next_check:
                    next_check = time.monotonic() + _TICK
                    self._end_idle_streams()
                if self._stopping.is_set() and not self._draining:
                    self._draining, deadline = True, time.monotonic() + grace
                    for token in list(self._streams):
                        self._end_stream(token)
                if self._draining and not self._ending:
                    self._send_replies()
                    break
        finally:
            self._destroy()

    def _send_replies(self) -> None:
        with contextlib.suppress(zmq.Again):
            while True:
                self._socket.send_multipart(self._replies.recv_multipart(zmq.NOBLOCK))  # dropped if the client is gone

    def _receive(self) -> None:
        try:
            frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return
        client, parts = frames[0].bytes, [frame.buffer for frame in frames[1:]]
        seq = 0
        try:
            header = protocol.unpack(parts, self._limits.message_bytes)
            seq = protocol.integer(header, "seq", 0, (1 << 63) - 1)
            op = protocol.text(header, "op", 32)
            self.metrics.requests.labels(op if op in OPERATIONS else "other").inc()
            request = Request(client, header, parts[2] if len(parts) > 2 else None, time.monotonic())
            answer = self._dispatch(request, op)
        except ProtocolError as error:
            answer = refusal(error.code, str(error))
        if answer is not None:
            if not answer["ok"]:
                self.metrics.refused.labels(answer["code"]).inc()
            self._reply(client, answer | {"seq": seq})

    def _reply(self, client: bytes, answer: Header) -> None:
        self._socket.send_multipart([client, *protocol.pack(answer)])

    def _dispatch(self, request: Request, op: str) -> Header | None:
        """The answer, or None where a stream will answer."""
        token = self._clients.get(request.client, "")
        stream = self._streams.get(token)
        if op == "ping":
            if stream is not None:
                stream.last_heard = request.arrival
            return {"ok": True, "health": self.health()}
        if self._draining:
            raise ProtocolError("the server is stopping; use another one, or come back", protocol.DRAINING)
        if op == "hello":
            self._hello(request)
            return None
        if stream is None:
            raise ProtocolError("this connection has no stream; say hello first", protocol.NO_STREAM)
        if op == "bye":
            self._end_stream(token)
            return {"ok": True}
        replaced = stream.put(request)
        if replaced is not None:
            self.metrics.dropped.inc()
            reason = refusal(protocol.DROPPED, "a newer frame came before this one had its turn")
            self._reply(replaced.client, reason | {"seq": replaced.header["seq"]})
        return None

    def _hello(self, request: Request) -> None:
        token = protocol.text(request.header, "stream", _MAX_TOKEN)
        if len(token) < 16:
            raise ProtocolError(f"stream has {len(token)} characters; accepted: 16 to {_MAX_TOKEN}")
        try:
            config = from_wire(TrackerConfig, request.header.get("tracker"))
        except ProtocolError:
            raise
        except ValueError as error:
            raise ProtocolError(f"tracker.{error}", protocol.INVALID) from error
        if config.max_objects > self._limits.objects:
            accepted = f"this server accepts up to {self._limits.objects}"
            raise ProtocolError(f"tracker.max_objects is {config.max_objects}; {accepted}", protocol.LIMIT)
        if token in self._streams:  # its client starts anew
            self._end_stream(token)
        if len(self._streams) >= self._limits.streams:
            reason = f"{len(self._streams)} streams are open, as many as this server serves"
            raise ProtocolError(f"{reason}; use another one, or raise --max-streams", protocol.LIMIT)
        make = partial(self._make_backend, config)
        self._streams[token] = Stream(self._context, make, request, self._limits, self.metrics)
        self._clients[request.client] = token

    def _end_stream(self, token: str) -> None:
        stream = self._streams.pop(token)
        stream.close()
        self._ending.append(stream)
        self._clients = {client: other for client, other in self._clients.items() if other != token}

    def _end_idle_streams(self) -> None:
        for token, stream in list(self._streams.items()):
            if stream.idle or stream.failed:
                self._end_stream(token)
        self._ending = [stream for stream in self._ending if not stream.join(0)]
        self.metrics.streams.set(len(self._streams))
        self.metrics.objects.set(sum(stream.object_count for stream in self._streams.values()))

    def _destroy(self) -> None:
        for stream in [*self._streams.values(), *self._ending]:
            stream.close()
        self._streams.clear()
        if self._end_security is not None:
            self._end_security()
        self._socket.close()
        self._replies.close()
        if all(stream.join(0.2) for stream in self._ending):
            self._context.term()
