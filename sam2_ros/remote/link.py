"""The client's link to one of several servers: connects to the first that answers, with backoff, and fails back."""

from __future__ import annotations

import concurrent.futures
import math
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import zmq

from sam2_ros.remote.connection import FAILED, ClientKeys, Connection, LinkDown, WrongAnswer
from sam2_ros.remote.failback import Failback
from sam2_ros.remote.protocol import Header

_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.1, 5.0  # s, between rounds through the list of servers
_DISTRUST = 10.0  # s for which a server is not asked after a wrong answer


class Link:
    """One stream's connection. Not thread-safe, except for :meth:`status`.

    A thread tries the servers, so that :meth:`connect` waits no longer than it is asked to.

    Args:
        endpoints: servers in the order of preference.
        hello: returns the fields of the message that opens the stream.
        on_late: receives answers that came after their timeout.
        return_after: seconds for which a preferred server must be healthy before failback; 0 = no failback.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        hello: Callable[[], Header],
        on_late: Callable[[Header], None],
        client_keys: ClientKeys | None = None,
        return_after: float = 0.0,
    ) -> None:
        if not endpoints:
            raise ValueError("the list of endpoints is empty; give at least one, e.g. tcp://127.0.0.1:5555")
        self.endpoints = tuple(endpoints)
        self._hello = hello
        self._on_late = on_late
        self._keys = client_keys
        self._return_after = return_after
        self._token = uuid.uuid4().hex
        self._distrusted: dict[str, float] = {}  # by endpoint: until when, s, monotonic
        self._context: zmq.Context[Any] = zmq.Context()
        self._ending = threading.Event()
        self._connection: Connection | None = None
        self._attempt: concurrent.futures.Future[Connection] | None = None
        self._attempt_start, self._trying = 0.0, ""
        self._failback: Failback | None = None
        self._backoff, self._retry_at = _FIRST_BACKOFF, 0.0
        self._reason = "not connected yet"
        self._connections = self._timeouts = 0

    @property
    def up(self) -> bool:
        return self._connection is not None

    @property
    def connection(self) -> Connection:
        """The connection to the server.

        Raises:
            LinkDown: there is none.
        """
        if self._connection is None:
            raise LinkDown(f"no inference server: {self._reason}")
        return self._connection

    def status(self) -> dict[str, object]:
        """For diagnostics, from any thread."""
        connection, failback = self._connection, self._failback
        times = sorted(connection.round_trips) if connection else []
        preferred = failback.state if failback else "not asked"
        if connection and connection.endpoint == self.endpoints[0]:
            preferred = "serves"
        return {
            "link": "connected" if connection else f"down: {self._why_down()}",
            "server": connection.endpoint if connection else "none",
            "preferred server": preferred,
            "round trip p50 [ms]": times[len(times) // 2] if times else math.nan,
            "round trip p99 [ms]": times[len(times) * 99 // 100] if times else math.nan,
            "in flight": len(connection.in_flight) if connection else 0,
            "connections": self._connections,
            "timeouts": self._timeouts + (connection.timeouts if connection else 0),
        }

    def connect(self, patience: float) -> None:
        """Opens the stream with the first server that answers. After ``patience`` seconds a thread continues, and a
        later call takes over its connection.

        Raises:
            LinkDown: no server answered, or none yet, or the backoff is not over.
            ValueError: the keys can't be used.
        """
        now = time.monotonic()
        if self._attempt is None:
            if now < self._retry_at:
                raise LinkDown(f"no inference server: {self._reason}; next try in {self._retry_at - now:.1f} s")
            self._attempt, self._attempt_start = self._begin(), now
        attempt = self._attempt
        if not concurrent.futures.wait([attempt], patience).done:
            raise LinkDown(f"no inference server: {self._why_down()}")
        self._attempt = None
        try:
            self._adopt(attempt.result())
        except LinkDown as error:
            self._reason = str(error)
            self._retry_at = time.monotonic() + self._backoff
            self._backoff = min(2 * self._backoff, _LONGEST_BACKOFF)
            raise LinkDown(f"no inference server: {self._reason}") from error
        self._backoff = _FIRST_BACKOFF

    def request(self, op: str, timeout: float, fields: Mapping[str, Any], pixels: Any = None) -> Header:
        """As :meth:`Connection.request`."""
        connection = self.connection
        try:
            return connection.request(op, timeout, fields, pixels)
        except WrongAnswer:
            self._avoid(connection.endpoint)
            raise
        finally:
            if connection.closed:
                self.drop(connection.why_closed)

    def distrust(self, error: Exception) -> WrongAnswer:
        """Closes the connection because an answer can't be right; returns what to raise. Another server, if there is
        one, is connected next."""
        connection = self.connection
        wrong = connection.distrust(error)
        self._avoid(connection.endpoint)
        self.drop(str(wrong))
        return wrong

    def _avoid(self, endpoint: str) -> None:
        self._distrusted[endpoint] = time.monotonic() + _DISTRUST

    @property
    def offered(self) -> bool:
        """Whether a preferred server has a stream open for this client, and the present one owes no answer."""
        failback = self._failback
        return failback is not None and failback.offer is not None and not self.connection.in_flight

    def fail_back(self, hand_over: Callable[[], None]) -> bool:
        """Moves to the preferred server if ``hand_over`` succeeds there; the present server notices nothing else."""
        before, offer = self.connection, self._failback.take() if self._failback is not None else None
        if offer is None:
            return False
        offer.ending = self._ending
        self._connection = offer
        try:
            hand_over()
        except FAILED:
            offer.close("it could not take over", bye=True)
            self._connection = before
            self._watch()
            return False
        self._timeouts += before.timeouts
        before.close("left for a preferred server", bye=True)
        self._adopt(offer)
        return True

    def drop(self, reason: str) -> None:
        """Closes the connection; the next :meth:`connect` may try at once."""
        self._reason = reason
        connection, self._connection = self._connection, None
        if connection is not None:
            self._timeouts += connection.timeouts
            connection.close(reason)
        self._end_failback()

    def close(self) -> None:
        self._ending.set()
        if self._connection is not None:
            self._connection.close("closed", bye=True)
        self.drop("closed")
        if self._attempt is not None:
            concurrent.futures.wait([self._attempt])
            if self._attempt.exception() is None:
                self._attempt.result().close("closed", bye=True)
            self._attempt = None
        self._context.term()

    def _why_down(self) -> str:
        if self._attempt is not None and self._trying:
            return f"connecting to {self._trying} for {time.monotonic() - self._attempt_start:.1f} s; {self._reason}"
        return self._reason

    def _adopt(self, connection: Connection) -> None:
        self._connection, self._token = connection, connection.token
        self._connections += 1
        self._watch()

    def _watch(self) -> None:
        """Starts to watch the servers before the present one in the list."""
        self._end_failback()
        preferred = self.endpoints[: self.endpoints.index(self.connection.endpoint)]
        if preferred and self._return_after:
            self._failback = Failback(preferred, self._return_after, self._connect, self._greet)

    def _end_failback(self) -> None:
        failback, self._failback = self._failback, None
        if failback is not None:
            failback.close()

    def _connect(self, endpoint: str, ending: threading.Event) -> Connection:
        """
        Raises:
            WrongAnswer: the server gave one lately.
            ValueError, zmq.ZMQError: as :class:`Connection`.
        """
        left = self._distrusted.get(endpoint, 0.0) - time.monotonic()
        if left > 0:
            raise WrongAnswer(f"it gave a wrong answer; asked again in {left:.0f} s")
        return Connection(self._context, endpoint, self._keys, self._on_late, ending)

    def _greet(self, connection: Connection) -> None:
        """Opens a stream beside the present one, with a new name: both endpoints may belong to one server."""
        connection.hello(uuid.uuid4().hex, self._hello())

    def _begin(self) -> concurrent.futures.Future[Connection]:
        attempt: concurrent.futures.Future[Connection] = concurrent.futures.Future()

        def run() -> None:
            try:
                attempt.set_result(self._first_that_answers())
            except BaseException as error:
                attempt.set_exception(error)

        threading.Thread(target=run, name="connect", daemon=True).start()
        return attempt

    def _first_that_answers(self) -> Connection:
        reasons = []
        for endpoint in self.endpoints:
            self._trying, connection = endpoint, None
            try:
                connection = self._connect(endpoint, self._ending)
                connection.ping()
                # With the old name, so that this stream replaces one that is still open there.
                connection.hello(self._token, self._hello())
                return connection
            except (*FAILED, zmq.ZMQError) as error:
                reasons.append(f"{endpoint}: {error}")
                if connection is not None:
                    if isinstance(error, WrongAnswer):
                        self._avoid(endpoint)
                    connection.close(str(error))
        raise LinkDown("; ".join(reasons))
