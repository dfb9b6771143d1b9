"""The server's socket: reads messages, hands them to the streams, and sends their answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import zmq

from sam2_ros.inference.backend import Backend
from sam2_ros.remote import protocol
from sam2_ros.remote.codec import from_wire
from sam2_ros.remote.protocol import Header, ProtocolError
from sam2_ros.remote.server.commands import OPERATIONS
from sam2_ros.remote.server.door import Door, rules_for
from sam2_ros.remote.server.limits import Limits
from sam2_ros.remote.server.metrics import Metrics
from sam2_ros.remote.server.security import Security, key_of
from sam2_ros.remote.server.stream import Answers, Request, Stream, refusal, room
from sam2_ros.tracking.config import TrackerConfig

_TICK = 0.2  # s, between checks for idle streams and for the end
_MAX_TOKEN = 64  # characters
_HANDSHAKE = 5000  # ms
_SHARE = 4  # one stream's engine may take a quarter of what all may
_UNUSED = 1 << 16  # bytes of pixels that a request does not need; more ends the connection
_READ_AHEAD = 16  # messages of one connection that libzmq stores
_ANSWERS = 1000  # for one connection, of which the door counts the bytes; libzmq drops more


@dataclass
class Client:
    """A connection that has sent a message."""

    connection: int  # the door's number
    local: bool
    key: str  # public one; empty without keys
    token: str = ""  # of its stream


class Server:
    """Serves until :meth:`stop` is called, in the thread that calls :meth:`run`.

    Args:
        make_backend: makes the engine of a stream, in the stream's thread; engines may share one network.
        endpoints: what to bind to, e.g. ``ipc:///run/sam2``, ``tcp://127.0.0.1:5555``; port ``*`` takes a free one.
        security: keys; None = clients need none.
        engine_bytes: says what an engine with these settings will allocate.

    Raises:
        OSError: an endpoint is in use, or can't be bound to.
    """

    def __init__(
        self,
        make_backend: Callable[[TrackerConfig], Backend],
        endpoints: Sequence[str],
        limits: Limits | None = None,
        security: Security | None = None,
        metrics: Metrics | None = None,
        engine_bytes: Callable[[TrackerConfig], int] = lambda config: 0,
    ) -> None:
        self._make_backend = make_backend
        self._engine_bytes = engine_bytes
        self._limits = limits or Limits()
        self.metrics = metrics or Metrics()
        self._streams: dict[str, Stream] = {}  # by token
        self._clients: dict[bytes, Client] = {}  # by routing id
        self._ending: list[Stream] = []
        self._stopping = threading.Event()
        self._draining = False
        self._answers = Answers()
        self._door = Door(
            endpoints, self._limits, security is not None, lambda reason: self.metrics.rejected.labels(reason).inc()
        )
        self.endpoints = self._door.endpoints
        self._context: zmq.Context[Any] = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 1000
        self._socket.maxmsgsize = rules_for(self._limits).part
        self._socket.rcvhwm, self._socket.sndhwm = _READ_AHEAD, _ANSWERS
        self._socket.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE)
        # The front sees whether they are answered: here, a message that takes long would hide it.
        self._socket.setsockopt(zmq.HEARTBEAT_IVL, 1000)
        self._socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 3_600_000)
        self._security = security
        self._end_security = security.apply(self._context, self._socket, self.metrics) if security else None
        self._socket.bind(self._door.address)
        self._door.open()

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
        deadline, next_check = float("inf"), 0.0
        try:
            while time.monotonic() < deadline:
                poller = zmq.Poller()
                for source in (self._socket, self._answers.fd, self._door.control.fileno()):
                    poller.register(source, zmq.POLLIN)
                ready = dict(poller.poll(round(_TICK * 1000)))
                self._send_answers()
                if self._door.control.fileno() in ready:
                    self._forget(self._door.look())
                if self._socket in ready:
                    self._receive()
                if time.monotonic() > next_check:
                    next_check = time.monotonic() + _TICK
                    self._end_idle_streams()
                    self._end_removed_keys()
                    self._door.tick()
                if self._stopping.is_set() and not self._draining:
                    self._draining, deadline = True, time.monotonic() + grace
                    for token in list(self._streams):
                        self._end_stream(token)
                if self._draining and not self._ending:
                    self._send_answers()
                    break
        finally:
            self.close()

    def _send_answers(self) -> None:
        for message in self._answers.take():
            self._send(message)

    def _send(self, message: list[bytes]) -> None:
        client = self._clients.get(message[0])
        if client is not None and self._door.may_answer(client.connection, sum(map(len, message))):
            self._socket.send_multipart(message)

    def _receive(self) -> None:
        try:
            frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return
        routing_id, parts = frames[0].bytes, [frame.buffer for frame in frames[1:]]
        client = self._clients.get(routing_id)
        if client is None:
            found = self._door.connection_of(frames[0])
            if found is None:
                return  # it has ended, and nobody reads an answer
            key = key_of(frames[-1])
            if self._security is not None and not self._security.keeps(key):
                return self._door.end(found[0])  # sent before its key was removed
            client = self._clients[routing_id] = Client(*found, key)
        self._door.taken(client.connection, parts)
        answer = self._handle(client, routing_id, parts)
        if answer is not None:
            if not answer["ok"]:
                self.metrics.refused.labels(answer["code"]).inc()
            self._reply(routing_id, answer)

    def _handle(self, client: Client, routing_id: bytes, parts: Sequence[memoryview]) -> Header | None:
        """The answer, or None where a stream will answer."""
        seq = None
        try:
            header = protocol.unpack(parts, protocol.MAX_HEADER_BYTES, protocol.MAX_VALUES)
            seq = protocol.integer(header, "seq", 0, (1 << 63) - 1)
            protocol.check_size(parts, self._limits.message_bytes)
            op = protocol.text(header, "op", 32)
            self.metrics.requests.labels(op if op in OPERATIONS else "other").inc()
            pixels = parts[2] if len(parts) > 2 else None
            if pixels is not None and op != "step":
                if len(pixels) > _UNUSED:
                    self._end_connection(client, "unused part")
                raise ProtocolError(f"'{op[:32]}' comes with pixels; accepted: two parts, pixels with 'step' only")
            size = len(parts[1]) + (len(pixels) if pixels is not None else 0)
            answer = self._dispatch(client, Request(routing_id, header, pixels, time.monotonic(), size), op)
        except ProtocolError as error:
            answer = refusal(error.code, str(error))
        except Exception as error:  # of this client alone: for instance, there is no thread for its stream
            answer = refusal(protocol.FAILED, f"{type(error).__name__}: {error}")
        if answer is None:
            return None
        return answer | {"seq": protocol.find_sequence(parts) if seq is None else seq}

    def _reply(self, client: bytes, answer: Header) -> None:
        self._send([client, *protocol.pack(answer)])

    def _dispatch(self, client: Client, request: Request, op: str) -> Header | None:
        """The answer, or None where a stream will answer."""
        stream = self._streams.get(client.token)
        if op == "ping":
            if stream is not None:
                stream.last_heard = request.arrival
            return {"ok": True, "health": self.health()}
        if self._draining:
            raise ProtocolError("the server is stopping; use another one, or come back", protocol.DRAINING)
        if op == "hello":
            self._hello(client, request)
            return None
        if stream is None:
            raise ProtocolError("this connection has no stream; say hello first", protocol.NO_STREAM)
        if op == "bye":
            self._end_stream(client.token)
            return {"ok": True}
        if op == "configure":
            self._let_grow(stream, request.header)
        replaced = stream.put(request, room(self._all_streams(), self._limits))
        if replaced is not None:
            self.metrics.dropped.inc()
            reason = refusal(protocol.DROPPED, "a newer frame came before this one had its turn")
            self._reply(replaced.client, reason | {"seq": replaced.header["seq"]})
        return None

    def _hello(self, client: Client, request: Request) -> None:
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
        for old in {token, client.token} & self._streams.keys():  # the client starts anew
            self._end_stream(old)
        engine_bytes = self._engine_bytes(config)
        self._check_room(engine_bytes)
        make = partial(self._make_backend, config)
        self._streams[token] = Stream(
            self._answers, make, request, self._limits, self.metrics, engine_bytes, client.local
        )
        client.token = token

    def _let_grow(self, stream: Stream, header: Header) -> None:
        """Counts what the engine of ``stream`` will allocate with the settings of a request; raises as
        :meth:`_check_room`. The engine refuses settings that are wrong."""
        try:
            engine_bytes = self._engine_bytes(from_wire(TrackerConfig, header.get("tracker")))
        except ValueError:
            return
        if engine_bytes > stream.engine_bytes:
            self._check_room(engine_bytes, instead_of=stream)
            stream.engine_bytes = engine_bytes

    def _check_room(self, engine_bytes: int, instead_of: Stream | None = None) -> None:
        """
        Raises:
            ProtocolError: LIMIT: no place for another stream, or for a larger one ``instead_of`` what it is.
        """
        streams, most = [each for each in self._all_streams() if each is not instead_of], self._limits.engine_bytes
        if len(streams) >= self._limits.streams:
            reason = f"{len(streams)} streams are open or ending, as many as this server serves"
            raise ProtocolError(f"{reason}; use another one, or raise --max-streams", protocol.LIMIT)
        if engine_bytes > most // _SHARE:
            reason = f"these tracker settings need {engine_bytes >> 20} MiB; accepted: {(most // _SHARE) >> 20} MiB"
            cure = "use fewer objects or slots, or tracker.window: off, or raise --max-memory"
            raise ProtocolError(f"{reason}; {cure}", protocol.LIMIT)
        if engine_bytes + sum(stream.engine_bytes for stream in streams) > most:
            reason = f"the engines of all streams would need more than {most >> 20} MiB"
            raise ProtocolError(f"{reason}; use another server, or raise --max-memory", protocol.LIMIT)

    def _all_streams(self) -> list[Stream]:
        """With those that are ending, whose memory is still in use."""
        self._ending = [stream for stream in self._ending if not stream.join(0)]
        return [*self._streams.values(), *self._ending]

    def _end_stream(self, token: str) -> None:
        stream = self._streams.pop(token)
        stream.close()
        self._ending.append(stream)

    def _forget(self, connections: Sequence[int]) -> None:
        """Ends the streams of connections that have ended: a client that comes back says hello again."""
        gone = set(connections)
        for routing_id, client in list(self._clients.items()):
            if client.connection in gone:
                del self._clients[routing_id]
                if client.token in self._streams:
                    self._end_stream(client.token)

    def _end_idle_streams(self) -> None:
        for token, stream in list(self._streams.items()):
            if stream.over:
                self._end_stream(token)
        self._all_streams()
        self.metrics.streams.set(len(self._streams))
        self.metrics.objects.set(sum(stream.object_count for stream in self._streams.values()))

    def _end_removed_keys(self) -> None:
        """Ends the connections of clients whose keys were taken out of the folder."""
        if self._security is None:
            return
        removed = [client for client in self._clients.values() if not self._security.keeps(client.key)]
        for client in removed:
            self._end_connection(client, "removed key")

    def _end_connection(self, client: Client, reason: str) -> None:
        self.metrics.rejected.labels(reason).inc()
        self._door.end(client.connection)
        self._forget([client.connection])

    def close(self) -> None:
        """Frees the endpoints; :meth:`run` does it at its end."""
        for stream in [*self._streams.values(), *self._ending]:
            stream.close()
        self._streams.clear()
        if self._end_security is not None:
            self._end_security()
        self._socket.close()
        if all(stream.join(0.2) for stream in self._ending):
            self._context.term()
        self._door.close()
