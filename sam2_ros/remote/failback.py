"""Failback: a thread that watches the preferred servers, so that a client can return to one of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import zmq

from sam2_ros.remote.connection import FAILED, Connection, WrongAnswer
from sam2_ros.remote.protocol import Header

_LONGEST_PERIOD = 2.0  # s between pings


class Failback:
    """Opens a stream with the first of ``endpoints`` that was healthy for long enough, and offers it to the client.

    Args:
        endpoints: the preferred servers, the best first.
        after: seconds for which a server must have answered every ping.
        connect: connects to an endpoint; the event ends its waits.
        hello: opens a stream on the connection.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        after: float,
        connect: Callable[[str, threading.Event], Connection],
        hello: Callable[[Connection], None],
    ) -> None:
        self.state = "does not answer"
        self._endpoints = tuple(endpoints)
        self._after = after
        self._period = min(_LONGEST_PERIOD, after / 3)
        self._connect = connect
        self._hello = hello
        self._stopping = threading.Event()
        self._since: dict[str, float] = {}  # s, monotonic, since when an endpoint answers
        self._lock = threading.Lock()  # guards the offer
        self.offer: Connection | None = None  # an open stream, for :meth:`take`
        self._thread = threading.Thread(target=self._run, name="failback", daemon=True)
        self._thread.start()

    def take(self) -> Connection | None:
        """The open stream, which the caller then owns; None if there is none now. Never waits."""
        offer = None
        if self._lock.acquire(blocking=False):
            offer, self.offer = self.offer, None
            self._lock.release()
        return offer

    def close(self) -> None:
        """Ends the thread and closes a stream that was not taken."""
        self._stopping.set()
        self._thread.join()
        if offer := self.take():
            offer.close("no longer needed", bye=True)

    def _run(self) -> None:
        while not self._stopping.wait(self._period):
            with self._lock:
                if self.offer is not None and self._health(self.offer) is not None:
                    continue
                self.offer = None
            offer = self._look()
            if offer is not None:
                with self._lock:
                    self.offer = offer
                    self.state = "ready; waits until no object is hidden"

    def _look(self) -> Connection | None:
        self.state = "does not answer"
        for endpoint in self._endpoints:
            try:
                connection = self._connect(endpoint, self._stopping)
            except (ValueError, zmq.ZMQError, WrongAnswer):
                self._since.pop(endpoint, None)
                continue
            health = self._health(connection)
            if not health or not health["ready"] or health["streams"] >= health["streams_at_most"]:
                self._since.pop(endpoint, None)
                connection.close("not now")
                continue
            waited = time.monotonic() - self._since.setdefault(endpoint, time.monotonic())
            self.state = f"answers since {waited:.0f} s"
            if waited < self._after:
                connection.close("not yet")
                return None  # it may be ready soon, and is better than the servers after it
            try:
                self._hello(connection)
                return connection
            except (*FAILED, zmq.ZMQError) as error:
                self._since.pop(endpoint, None)
                connection.close(str(error))
        return None

    def _health(self, connection: Connection) -> Header | None:
        try:
            return connection.ping()
        except (*FAILED, zmq.ZMQError) as error:
            connection.close(str(error))
            return None
