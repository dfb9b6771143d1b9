"""A connection to one inference server: requests, answers, timeouts, heartbeats, and how it ends."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from sam2_ros.remote import answers, keys, protocol
from sam2_ros.remote.protocol import Header
from sam2_ros.text import printable

MAX_ANSWER_BYTES = 64 << 20  # of a part: the masks of 64 objects that fill images of 8 megapixels
_MAX_ANSWER_VALUES, _UNCOUNTED_BYTES = 400_000, 1 << 20  # in an answer; a smaller one can't have many
_WAITING_ANSWERS = 4  # that libzmq stores
_UNREAD_BYTES = 3 * MAX_ANSWER_BYTES  # that a server may send until there is an answer to read
_BYTES_RECEIVED = 128  # where Linux's tcp_info has it, 8 bytes
HELLO_TIMEOUT = 10.0  # s, for a server that answers pings to make an engine
PING_TIMEOUT = 1.0  # s
_MAX_UNANSWERED = 3  # requests in a row after which the connection is closed
_LONGEST_REASON = 500  # characters
_WINDOW = 200  # newest round trips, of which percentiles are taken
_POLL_PERIOD = 0.1  # s between looks at the event that ends the wait


class LinkDown(ConnectionError):
    """No server is connected; the message says why."""


class WrongAnswer(LinkDown):
    """The server said something that can't be right; the connection is closed."""


class NoAnswer(TimeoutError):
    """The server did not answer in time; it may still carry out the request."""


class ServerRefusal(RuntimeError):
    """The server refused; ``code`` is a constant of :mod:`sam2_ros.remote.protocol`, ``header`` the whole answer."""

    def __init__(self, header: Mapping[str, Any]) -> None:
        super().__init__(printable(header.get("message", "no reason was given"), _LONGEST_REASON))
        self.code = printable(header.get("code", protocol.FAILED))
        self.header = header


FAILED = (LinkDown, NoAnswer, ServerRefusal, protocol.ProtocolError)
"""Whatever :meth:`Connection.request` raises."""


@dataclass(frozen=True)
class ClientKeys:
    """Files with the CURVE keys: the client's own (``*.key_secret``) and the server's public one (``*.key``)."""

    secret_file: str
    server_file: str


class Connection:
    """Used by one thread at a time; one thread may open it and hand it to another.

    Args:
        endpoint: of the server.
        client_keys: for a server that asks for keys.
        on_late: receives answers that came after their timeout.
        ending: another thread sets it to end every wait.

    Raises:
        ValueError: the keys can't be used.
        zmq.ZMQError: the endpoint can't be used.
    """

    def __init__(
        self,
        context: zmq.Context[Any],
        endpoint: str,
        client_keys: ClientKeys | None,
        on_late: Callable[[Header], None],
        ending: threading.Event,
    ) -> None:
        self.endpoint = endpoint
        self.token = ""  # of the stream, once it is open
        self.greeting: Header = {}  # the server's answer to the hello
        self.in_flight: set[int] = set()
        self.timeouts = 0
        self.round_trips: deque[float] = deque(maxlen=_WINDOW)  # ms
        self.why_closed = ""
        self._on_late = on_late
        self.ending = ending
        self._sequence = itertools.count(1)
        self._unanswered = 0
        self._socket = context.socket(zmq.DEALER)
        self._tcp: socket.socket | None = None  # another descriptor of the connection
        self._counted = 0  # bytes received up to the newest answer
        events = zmq.EVENT_CONNECTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_CLOSED
        self._monitor = self._socket.get_monitor_socket(events)
        try:
            self._socket.linger = 0
            self._socket.sndhwm, self._socket.rcvhwm = 8, _WAITING_ANSWERS
            self._socket.maxmsgsize = MAX_ANSWER_BYTES
            # While nobody asks anything, it would reconnect without end, until events fill the monitor and block it.
            self._socket.setsockopt(zmq.RECONNECT_IVL, -1)
            self._socket.ipv6 = "[" in endpoint
            self._socket.setsockopt(zmq.HEARTBEAT_IVL, 1000)
            self._socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 3000)
            if client_keys is not None:
                self._socket.curve_publickey, self._socket.curve_secretkey = keys.load_secret(client_keys.secret_file)
                self._socket.curve_serverkey = keys.load_public(client_keys.server_file)
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
        answer = self.request("ping", PING_TIMEOUT, {})
        try:
            return answers.health(answer)
        except protocol.ProtocolError as error:
            raise self.distrust(error) from error

    def hello(self, token: str, fields: Mapping[str, Any]) -> None:
        """Opens the stream ``token``, and closes an older one of this name. Raises as :meth:`request`."""
        self.greeting = self.request("hello", HELLO_TIMEOUT, {"stream": token, **fields})
        self.token = token

    def request(self, op: str, timeout: float, fields: Mapping[str, Any], pixels: Any = None) -> Header:
        """Sends a request and waits for its answer.

        Raises:
            LinkDown: the connection broke; it is closed now.
            NoAnswer: after ``timeout`` seconds.
            ServerRefusal: the server refused.
            WrongAnswer: the answer is malformed; the connection is closed now.
        """
        if self.closed:
            raise LinkDown(self.why_closed)
        seq, start = next(self._sequence), time.monotonic()
        parts = [*protocol.pack({"op": op, "seq": seq, **fields}), *([] if pixels is None else [pixels])]
        try:
            while self._monitor.poll(0):  # it may have ended long ago
                self._look_at(recv_monitor_message(self._monitor))
            self._socket.send_multipart(parts, zmq.NOBLOCK, copy=False)
            self.in_flight.add(seq)
            answer = self._wait_for(seq, start + timeout)
        except zmq.Again:
            self._count_unanswered(f"its queue is full; it read nothing for {timeout:g} s")
            raise NoAnswer(f"{self.endpoint} takes no more messages") from None
        except LinkDown as error:
            self.close(str(error))
            raise
        except protocol.ProtocolError as error:
            raise self.distrust(error) from error
        if answer is None:
            self.timeouts += 1
            self._count_unanswered(f"no answer within {timeout:g} s, {_MAX_UNANSWERED} times in a row")
            raise NoAnswer(f"no answer to '{op}' within {timeout:g} s")
        self.round_trips.append((time.monotonic() - start) * 1e3)
        if not answer.get("ok"):
            refusal = ServerRefusal(answer)
            if refusal.code in (protocol.NO_STREAM, protocol.DRAINING):
                self.close(str(refusal))
                raise LinkDown(str(refusal))
            raise refusal
        return answer

    def distrust(self, error: Exception) -> WrongAnswer:
        """Closes the connection because of a wrong answer; returns what to raise."""
        wrong = WrongAnswer(f"{self.endpoint} gave a wrong answer: {printable(error, _LONGEST_REASON)}")
        self.close(str(wrong))
        return wrong

    def close(self, reason: str, bye: bool = False) -> None:
        """Closes the connection; with ``bye`` the server forgets the stream at once."""
        if self.closed:
            return
        if bye and self.token:
            self._socket.linger = 500
            with contextlib.suppress(zmq.ZMQError):
                self._socket.send_multipart(protocol.pack({"op": "bye", "seq": next(self._sequence)}), zmq.NOBLOCK)
                self._poller.poll(500)
        self.why_closed = reason
        self.in_flight.clear()
        if self._tcp is not None:
            self._tcp.close()
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close()

    def _wait_for(self, seq: int, deadline: float) -> Header | None:
        """The answer to ``seq``; None at the ``deadline`` (s, monotonic)."""
        while True:
            left = deadline - time.monotonic()
            ready = dict(self._poller.poll(math.ceil(1000 * min(max(0.0, left), _POLL_PERIOD))))
            if self._socket in ready:
                answer = self._read()
                self._unanswered = 0
                # A message that the server can't read has no number for it.
                if answer["seq"] == seq or (answer["seq"] == 0 and not answer.get("ok")):
                    self.in_flight.discard(seq)
                    return answer
                if answer["seq"] not in self.in_flight:
                    raise protocol.ProtocolError("an answer to something that was not asked")
                self.in_flight.discard(answer["seq"])
                self._on_late(answer)
            elif self._monitor in ready:
                self._look_at(recv_monitor_message(self._monitor))
            elif left <= 0:
                return None
            elif self.ending.is_set():
                raise LinkDown("closed")
            elif self._received() - self._counted > _UNREAD_BYTES:
                raise protocol.ProtocolError(f"more than {_UNREAD_BYTES} bytes without an end")

    def _look_at(self, message: Mapping[str, Any]) -> None:
        """
        Raises:
            LinkDown: the connection has ended.
        """
        if message["event"] == zmq.EVENT_CONNECTED:
            with contextlib.suppress(OSError):
                self._tcp = socket.socket(fileno=os.dup(message["value"]))
        elif message["event"] == zmq.EVENT_DISCONNECTED:
            early = " before the first answer; if the server asks for keys, give the right ones"
            raise LinkDown(f"the connection broke{'' if self.round_trips else early}")
        elif message["event"] == zmq.EVENT_CLOSED:
            raise LinkDown("nothing accepts connections there; is the server running?")
        else:
            raise LinkDown("the server does not accept this client's key")

    def _received(self) -> int:
        """Bytes that came so far; 0 where the system does not say. libzmq has no limit for the parts of a message."""
        if self._tcp is None or not hasattr(socket, "TCP_INFO"):
            return 0
        end = _BYTES_RECEIVED + 8
        try:
            info = self._tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, end)
        except OSError:  # no TCP
            return 0
        return int.from_bytes(info[_BYTES_RECEIVED:end], sys.byteorder)

    def _read(self) -> Header:
        """
        Raises:
            ProtocolError: it is no answer.
        """
        parts = self._socket.recv_multipart()
        self._counted = self._received()
        most = _MAX_ANSWER_VALUES if len(parts) > 1 and len(parts[1]) > _UNCOUNTED_BYTES else 0
        answer = protocol.unpack(parts, MAX_ANSWER_BYTES, most)
        protocol.integer(answer, "seq", 0, (1 << 63) - 1)
        return answer

    def _count_unanswered(self, reason: str) -> None:
        self._unanswered += 1
        if self._unanswered >= _MAX_UNANSWERED:
            self.close(reason)
