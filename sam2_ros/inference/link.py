"""The client's connection: the first server of a list that answers; back-off, time limits, and what is known of it."""

from __future__ import annotations

import itertools
import math
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from sam2_ros.inference import keys, protocol
from sam2_ros.inference.protocol import Header, ProtocolError

MAX_ANSWER_BYTES = 1 << 30
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0  # s, between rounds through the list of servers
_HELLO_TIME = 60.0  # s that a server which answers pings may take to make an engine
_PING_TIME = 1.0  # s that one may take to answer a ping before the next one is tried
_SILENCES = 3  # unanswered requests in a row after which a server is given up
_WINDOW = 200  # round trips that percentiles are taken of


class LinkDown(ConnectionError):
    """There is no server just now; the message says since when and why."""


class NoAnswer(TimeoutError):
    """The server did not answer in time; it may still do what was asked."""


class ServerRefusal(RuntimeError):
    """The server's reason; ``code`` is one of :mod:`sam2_ros.inference.protocol`, ``header`` the whole answer."""

    def __init__(self, header: Mapping[str, Any]) -> None:
        super().__init__(str(header.get("message", "no reason was given")))
        self.code = str(header.get("code", protocol.FAILED))
        self.header = header


@dataclass(frozen=True)
class ClientKeys:
    """CURVE: the client's own keys (``*.key_secret``), and the server's public one (``*.key``)."""

    secret_file: str
    server_file: str

    def apply(self, socket: zmq.Socket[Any]) -> None:
        """
        Raises:
            ValueError: a file can't be used.
        """
        socket.curve_publickey, socket.curve_secretkey = keys.load_secret(self.secret_file)
        socket.curve_serverkey = keys.load_public(self.server_file)


class Link:
    """One stream's connection. Not thread-safe, but for :meth:`status`.

    Args:
        endpoints: servers in the order of preference.
        hello: gives the fields of the message that opens the stream.
        on_stray: is given answers that came too late.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        hello: Callable[[], Header],
        on_stray: Callable[[Header], None],
        client_keys: ClientKeys | None = None,
    ) -> None:
        if not endpoints:
            raise ValueError("the list of endpoints is empty; give at least one, e.g. tcp://127.0.0.1:5555")
        self.endpoints = tuple(endpoints)
        self._hello = hello
        self._on_stray = on_stray
        self._keys = client_keys
        self._token = uuid.uuid4().hex
        self._context: zmq.Context[Any] = zmq.Context()
        self._socket: zmq.Socket[Any] | None = None
        self._monitor: zmq.Socket[Any] | None = None
        self._poller = zmq.Poller()
        self._sequence = itertools.count(1)
        self._in_flight: set[int] = set()
        self._silences = 0
        self._wait, self._retry_at = _FIRST_WAIT, 0.0
        self._reason = "not connected yet"
        self._endpoint = ""
        self._round_trips: deque[float] = deque(maxlen=_WINDOW)  # ms
        self._connections = self._timeouts = 0

    @property
    def up(self) -> bool:
        return self._socket is not None

    @property
    def endpoint(self) -> str:
        """Of the server that serves; empty without one."""
        return self._endpoint

    def status(self) -> dict[str, object]:
        """For diagnostics, from any thread."""
        times = sorted(self._round_trips)
        return {
            "link": "connected" if self._endpoint else f"down: {self._reason}",
            "server": self._endpoint or "none",
            "round trip p50 [ms]": times[len(times) // 2] if times else math.nan,
            "round trip p99 [ms]": times[min(len(times) - 1, len(times) * 99 // 100)] if times else math.nan,
            "in flight": len(self._in_flight),
            "connections": self._connections,
            "timeouts": self._timeouts,
        }

    def connect(self) -> Header:
        """Opens the stream with the first server that answers; returns its answer to the hello.

        Raises:
            LinkDown: none did, or the next round is not due yet.
            ValueError: the keys can't be used.
        """
        now = time.monotonic()
        if now < self._retry_at:
            raise LinkDown(f"no inference server: {self._reason}; next try in {self._retry_at - now:.1f} s")
        reasons = []
        for endpoint in self.endpoints:
            try:
                answer = self._open(endpoint)
            except (LinkDown, NoAnswer, ServerRefusal, ProtocolError, zmq.ZMQError) as error:
                self.drop(str(error))
                reasons.append(f"{endpoint}: {error}")
                continue
            self._endpoint = endpoint
            self._connections += 1
            self._wait = _FIRST_WAIT
            return answer
        self._reason = "; ".join(reasons)
        self._retry_at = time.monotonic() + self._wait
        self._wait = min(2 * self._wait, _LONGEST_WAIT)
        raise LinkDown(f"no inference server: {self._reason}")

    def request(self, op: str, timeout: float, fields: Mapping[str, Any], pixels: Any = None) -> Header:
        """Sends a request and waits for its answer, ``timeout`` seconds at most.

        Raises:
            LinkDown: the connection broke; it is closed now.
            NoAnswer: after ``timeout``.
            ServerRefusal: the server said no.
        """
        if self._socket is None:
            raise LinkDown(f"no inference server: {self._reason}")
        seq, start = next(self._sequence), time.monotonic()
        parts = [*protocol.pack({"op": op, "seq": seq, **fields}), *([] if pixels is None else [pixels])]
        try:
            self._socket.send_multipart(parts, zmq.NOBLOCK, copy=False)
            self._in_flight.add(seq)
            answer = self._wait_for(seq, start + timeout)
        except zmq.Again:
            self._silence(f"its queue is full; nothing was read for {timeout:g} s")
            raise NoAnswer(f"{self._endpoint} takes no more messages") from None
        except LinkDown as error:
            self.drop(str(error))
            raise
        if answer is None:
            self._timeouts += 1
            self._silence(f"no answer within {timeout:g} s, {_SILENCES} times in a row")
            raise NoAnswer(f"no answer to '{op}' within {timeout:g} s")
        self._round_trips.append((time.monotonic() - start) * 1e3)
        if not answer.get("ok"):
            refusal = ServerRefusal(answer)
            if refusal.code in (protocol.NO_STREAM, protocol.DRAINING):
                self.drop(str(refusal))
                raise LinkDown(str(refusal))
            raise refusal
        return answer

    def drop(self, reason: str) -> None:
        """Closes the connection; the next :meth:`connect` may try at once."""
        self._reason, self._endpoint = reason, ""
        self._in_flight.clear()
        self._silences = 0
        if self._monitor is not None:
            self._poller.unregister(self._monitor)
        if self._socket is not None:
            self._poller.unregister(self._socket)
            self._socket.disable_monitor()
            self._socket.close(0)
        self._socket = self._monitor = None

    def close(self) -> None:
        if self._socket is not None and self._endpoint:
            self._socket.linger = 500
            try:
                self._socket.send_multipart(protocol.pack({"op": "bye", "seq": next(self._sequence)}), zmq.NOBLOCK)
            except zmq.ZMQError:
                pass
            else:
                self._poller.poll(500)
        self.drop("closed")
        self._context.term()

    # ---- within ----

    def _open(self, endpoint: str) -> Header:
        socket = self._socket = self._context.socket(zmq.DEALER)
        socket.linger = 0
        socket.sndhwm = 8
        socket.setsockopt(zmq.HEARTBEAT_IVL, 1000)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 3000)
        if self._keys is not None:
            self._keys.apply(socket)
        self._monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_AUTH)
        self._poller.register(socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)
        socket.connect(endpoint)
        self.request("ping", _PING_TIME, {})
        return self.request("hello", _HELLO_TIME, {"stream": self._token, **self._hello()})

    def _wait_for(self, seq: int, deadline: float) -> Header | None:
        """The answer to ``seq``; None at the ``deadline`` (s, monotonic)."""
        assert self._socket is not None and self._monitor is not None
        while True:
            left = deadline - time.monotonic()
            ready = dict(self._poller.poll(math.ceil(max(0.0, left) * 1000)))
            if self._socket in ready:
                answer = protocol.unpack(self._socket.recv_multipart(), MAX_ANSWER_BYTES)
                self._silences = 0
                self._in_flight.discard(answer.get("seq", 0))
                if answer.get("seq") == seq:
                    return answer
                self._on_stray(answer)
            elif self._monitor in ready:
                event = recv_monitor_message(self._monitor)["event"]
                lost = event == zmq.EVENT_DISCONNECTED
                raise LinkDown("the connection broke" if lost else "the server does not accept this client's key")
            elif left <= 0:
                return None

    def _silence(self, reason: str) -> None:
        self._silences += 1
        if self._silences >= _SILENCES:
            self.drop(reason)
