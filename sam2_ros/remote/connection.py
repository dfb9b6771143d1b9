"""A connection to one inference server: requests, answers, time limits, and the ways in which it ends."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from sam2_ros.remote import keys, protocol
from sam2_ros.remote.protocol import Header

MAX_ANSWER_BYTES = 1 << 30
HELLO_TIME = 10.0  # s that a server which answers pings may take to make an engine, before another one is tried
PING_TIME = 1.0  # s that one may take to answer a ping
_SILENCES = 3  # unanswered requests in a row after which a server is given up
_WINDOW = 200  # round trips that percentiles are taken of
_LOOK = 0.1  # s between looks at the wish to end


class LinkDown(ConnectionError):
    """There is no server just now; the message says why."""


class NoAnswer(TimeoutError):
    """The server did not answer in time; it may still do what was asked."""


class ServerRefusal(RuntimeError):
    """The server's reason; ``code`` is one of :mod:`sam2_ros.remote.protocol`, ``header`` the whole answer."""

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


class Connection:
    """One thread at a time may use it; it may be opened by one and handed to another.

    Args:
        endpoint: of the server.
        client_keys: for a server that asks for keys.
        on_stray: is given answers that came too late.
        ending: set by another thread, it ends whatever is waited for.

    Raises:
        ValueError: the keys can't be used.
        zmq.ZMQError: the endpoint is none.
    """

    def __init__(
        self,
        context: zmq.Context[Any],
        endpoint: str,
        client_keys: ClientKeys | None,
        on_stray: Callable[[Header], None],
        ending: threading.Event,
    ) -> None:
        self.endpoint = endpoint
        self.token = ""  # of the stream, once it is open
        self.answer: Header = {}  # the server's to the hello
        self.in_flight: set[int] = set()
        self.timeouts = 0
        self.round_trips: deque[float] = deque(maxlen=_WINDOW)  # ms
        self.why_closed = ""
        self._on_stray = on_stray
        self.ending = ending
        self._sequence = itertools.count(1)
        self._silences = 0
        self._socket = context.socket(zmq.DEALER)
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_AUTH)
        try:
            self._socket.linger = 0
            self._socket.sndhwm = 8
            self._socket.setsockopt(zmq.HEARTBEAT_IVL, 1000)
            self._socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 3000)
            if client_keys is not None:
                client_keys.apply(self._socket)
            self._socket.connect(endpoint)
        except BaseException:
            self.close("it could not be opened")
            raise
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)

    @property
    def closed(self) -> bool:
        return bool(self._socket.closed)

    def ping(self) -> Header:
        """The server's health; raises as :meth:`request`."""
        return dict(self.request("ping", PING_TIME, {}).get("health", {}))

    def hello(self, token: str, fields: Mapping[str, Any]) -> None:
        """Opens the stream ``token``; one of this name that is open already is closed. Raises as :meth:`request`."""
        self.answer = self.request("hello", HELLO_TIME, {"stream": token, **fields})
        self.token = token

    def request(self, op: str, timeout: float, fields: Mapping[str, Any], pixels: Any = None) -> Header:
        """Sends a request and waits for its answer, ``timeout`` seconds at most.

        Raises:
            LinkDown: the connection broke; it is closed now.
            NoAnswer: after ``timeout``.
            ServerRefusal: the server said no.
            ProtocolError: the answer is not understood.
        """
        if self.closed:
            raise LinkDown(self.why_closed)
        seq, start = next(self._sequence), time.monotonic()
        parts = [*protocol.pack({"op": op, "seq": seq, **fields}), *([] if pixels is None else [pixels])]
        try:
            self._socket.send_multipart(parts, zmq.NOBLOCK, copy=False)
            self.in_flight.add(seq)
            answer = self._wait_for(seq, start + timeout)
        except zmq.Again:
            self._silence(f"its queue is full; nothing was read for {timeout:g} s")
            raise NoAnswer(f"{self.endpoint} takes no more messages") from None
        except LinkDown as error:
            self.close(str(error))
            raise
        if answer is None:
            self.timeouts += 1
            self._silence(f"no answer within {timeout:g} s, {_SILENCES} times in a row")
            raise NoAnswer(f"no answer to '{op}' within {timeout:g} s")
        self.round_trips.append((time.monotonic() - start) * 1e3)
        if not answer.get("ok"):
            refusal = ServerRefusal(answer)
            if refusal.code in (protocol.NO_STREAM, protocol.DRAINING):
                self.close(str(refusal))
                raise LinkDown(str(refusal))
            raise refusal
        return answer

    def close(self, reason: str, bye: bool = False) -> None:
        """``bye`` lets the server forget the stream at once, and waits a moment for it to have heard."""
        if self.closed:
            return
        if bye and self.token:
            self._socket.linger = 500
            try:
                self._socket.send_multipart(protocol.pack({"op": "bye", "seq": next(self._sequence)}), zmq.NOBLOCK)
                self._poller.poll(500)
            except zmq.ZMQError:
                pass
        self.why_closed = reason
        self.in_flight.clear()
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close()

    # ---- within ----

    def _wait_for(self, seq: int, deadline: float) -> Header | None:
        """The answer to ``seq``; None at the ``deadline`` (s, monotonic)."""
        while True:
            left = deadline - time.monotonic()
            ready = dict(self._poller.poll(math.ceil(1000 * min(max(0.0, left), _LOOK))))
            if self._socket in ready:
                answer = protocol.unpack(self._socket.recv_multipart(), MAX_ANSWER_BYTES)
                self._silences = 0
                self.in_flight.discard(answer.get("seq", 0))
                if answer.get("seq") == seq:
                    return answer
                self._on_stray(answer)
            elif self._monitor in ready:
                event = recv_monitor_message(self._monitor)["event"]
                raise LinkDown(self._why_broken(event))
            elif left <= 0:
                return None
            elif self.ending.is_set():
                raise LinkDown("closed")

    def _why_broken(self, event: int) -> str:
        if event != zmq.EVENT_DISCONNECTED:
            return "the server does not accept this client's key"
        if self.round_trips:
            return "the connection broke"
        return (
            "the connection broke before the first answer; so it does where a server asks for keys: give the right ones"
        )

    def _silence(self, reason: str) -> None:
        self._silences += 1
        if self._silences >= _SILENCES:
            self.close(reason)
