"""The server's front: a process of its own that accepts connections and passes on no more bytes than the server reads.

libzmq stores the parts of a message until the last one has come, with no bound on their number, and starts before any
key was shown. So clients do not reach the server's socket. They reach this process, which moves their bytes to it,
counts what the server has not read yet, and stops reading from a client, or ends the connection, at the limits of
:class:`Rules`. While it serves several clients, it reads from each at a limited pace, so that one that sends without
end takes no more than a camera's share of the processor. It reads the outer framing of ZMTP 3 only; encryption and
messages pass through unchanged.

The server starts this file as a script, without any package (see ``door.py``). It ends when the server does.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import struct
import sys
import time
from dataclasses import dataclass

CONTROL = struct.Struct("<BQQ")  # kind, connection, amount
TAKEN, CLOSE, GONE, REJECTED, READ = range(5)  # the first two from the server; READ: bytes that the server wrote
REASONS = ("too many", "silent", "no ZMTP 3", "first message", "part", "unread", "stalled", "no answer read")
TOO_MANY, SILENT, NO_ZMTP, FIRST, PART, UNREAD, STALLED, DEAF = range(len(REASONS))
PART_COST = 128  # bytes that libzmq needs for a part beside its content
_CHUNK, _SMALL_CHUNK = 1 << 18, 1 << 12  # bytes moved at a time, of a large part and otherwise
_TICK = 0.5  # s
_REPORTED_AT_ONCE = 1 << 18  # bytes that the server wrote
_LEAK = 512  # bytes a second of encrypted heartbeats, which the server's socket reads but nobody counts
_GREETING = 64  # bytes
_COMMAND = 4096  # bytes of a ZMTP command at most
_MORE, _LONG, _IS_COMMAND = 1, 2, 4  # flags of a ZMTP frame
_BURST, _PAUSE = 0.25, 0.005  # s that a client may be ahead of its pace; between looks at those who wait for theirs
_PARTS = 16  # of a message, where they can be seen: encryption hides the flag


@dataclass(frozen=True)
class Rules:
    """What a connection may do; the server fills it in (``door.py``)."""

    connections: int  # at the same time
    part: int  # bytes of a part
    unread: int  # bytes that the server has not read, of one connection
    unread_in_all: int
    pace: int  # bytes a second of one connection, while messages of others are read, too
    first: int = 1 << 16  # bytes that are read before the server has read a message
    handshake: float = 10.0  # s until the first message
    stall: float = 10.0  # s in the middle of a message, at a limit, or without reading an answer
    idle: float = 120.0  # s between messages
    dead: float = 5.0  # s without any byte, not even an answer to a heartbeat; a frame may take longer on a slow link


class Connection:
    """A client's socket, and the one to the server."""

    def __init__(self, number: int, client: socket.socket, server: socket.socket) -> None:
        self.number = number
        self.client, self.server = client, server
        self.to_client, self.to_server = bytearray(), bytearray()  # read but not yet written
        self.unreported = 0  # bytes that the server wrote
        self.ended = False  # one side has closed: the rest is written, then both are
        self.unread = 0  # bytes of messages that the server has not read, with PART_COST for each part
        self.known = False  # the server has read a message
        self.raw = 0  # bytes before that
        now = time.monotonic()
        self.heard = self.moved = self.read_at = now  # newest message, bytes of the client, and bytes that it read
        self.paid = now  # until when what it sent takes at its pace
        self.paused = False  # it is ahead of its pace
        self.since = now  # when the server read last, or when there was something to read
        self._header = b""
        self._greeting = _GREETING
        self._left = 0  # of the present frame's body
        self._counts = False  # that frame is part of a message
        self._parts = 0  # of the present message

    @property
    def chunk(self) -> int:
        """Bytes to read at a time: few where they may hold many parts, so that other connections have their turn."""
        return max(_SMALL_CHUNK, min(_CHUNK, self._left)) if self.known else _SMALL_CHUNK

    def may_send(self, rules: Rules) -> bool:
        """Whether more is read of the client now."""
        free = not (self.ended or self.paused) and self.unread <= rules.unread
        return free and (self.known or self.raw <= rules.first)

    def is_dead(self, now: float, rules: Rules) -> bool:
        """Whether a known client sends nothing, though its bytes would be read."""
        reads = self.may_send(rules) and not self.to_server
        return self.known and reads and now - max(self.moved, self.since) > rules.dead

    def fault(self, data: memoryview, rules: Rules) -> int | None:
        """Counts what the client sent; returns why the connection must end, or None."""
        if not self.known:
            self.raw += len(data)
        at, end = 0, len(data)
        while at < end:
            if self._greeting:
                step = min(self._greeting, end - at)
                self._header += bytes(data[at : at + step])
                self._greeting -= step
                at += step
                if not _is_greeting(self._header):
                    return NO_ZMTP
                if not self._greeting:
                    self._header = b""
            elif self._left:
                step = min(self._left, end - at)
                self._left -= step
                self.unread += step if self._counts else 0
                at += step
            else:
                flags = self._header[0] if self._header else data[at]
                need = (9 if flags & _LONG else 2) - len(self._header)
                self._header += bytes(data[at : at + need])
                at += need
                if at > end:
                    return None
                size = int.from_bytes(self._header[1:], "big")
                self._header = b""
                if flags & ~7 or size > (_COMMAND if flags & _IS_COMMAND else rules.part):
                    return PART
                self._left, self._counts = size, not flags & _IS_COMMAND
                if self._counts:
                    self.unread += PART_COST
                    self._parts += 1
                    if self._parts > _PARTS:
                        return PART
                    if not flags & _MORE:
                        self._parts = 0
        return None


def _is_greeting(start: bytes) -> bool:
    """Whether a ZMTP greeting may start so: the signature, then the version. Older ones have other frames."""
    return start[0] == 0xFF and (len(start) < 11 or (start[9] == 0x7F and start[10] >= 3))


class Front:
    """Moves bytes until the server ends; single-threaded."""

    def __init__(
        self, rules: Rules, listeners: list[socket.socket], control: socket.socket, server: str, name: str
    ) -> None:
        self._rules = rules
        self._listeners = listeners
        self._control = control
        self._server = server
        self._name = name
        self._numbers = 0
        self._unread = 0  # of all connections
        self._connections: dict[int, Connection] = {}
        self._paused: list[Connection] = []
        self._shared = False  # messages of several connections are read
        self._events = selectors.EpollSelector()
        self._buffer = bytearray(_CHUNK)
        for listener in listeners:
            listener.setblocking(False)
            self._events.register(listener, selectors.EVENT_READ, None)
        control.setblocking(False)
        self._events.register(control, selectors.EVENT_READ, None)

    def run(self) -> None:
        next_tick = time.monotonic() + _TICK
        while True:
            for key, mask in self._events.select(_PAUSE if self._paused else max(0.0, next_tick - time.monotonic())):
                if key.fileobj is self._control:
                    if not self._obey():
                        return self._finish()
                elif key.data is None:
                    self._accept(key.fileobj)  # type: ignore[arg-type]
                elif key.data.number in self._connections:
                    self._move(key.data, key.fileobj, mask)  # type: ignore[arg-type]
            self._resume()
            if time.monotonic() >= next_tick:
                next_tick = time.monotonic() + _TICK
                self._look_round()

    def _finish(self) -> None:
        """The server has ended: what it has written still goes to its clients."""
        for listener in self._listeners:
            self._events.unregister(listener)
            listener.close()
        self._events.unregister(self._control)
        deadline = time.monotonic() + 1
        while self._connections and (left := deadline - time.monotonic()) > 0:
            for key, mask in self._events.select(left):
                if key.data.number in self._connections:
                    self._move(key.data, key.fileobj, mask)  # type: ignore[arg-type]
        with contextlib.suppress(OSError):  # the server may have been killed
            os.unlink(self._server)
            os.rmdir(os.path.dirname(self._server))

    def _tell(self, kind: int, number: int, amount: int = 0) -> None:
        self._control.setblocking(True)
        with contextlib.suppress(OSError):  # the server has ended
            self._control.send(CONTROL.pack(kind, number, amount))
        self._control.setblocking(False)

    def _report(self, connection: Connection) -> None:
        self._tell(READ, connection.number, connection.unreported)
        connection.unreported = 0

    def _obey(self) -> bool:
        """Reads what the server says; False when it has ended."""
        for _ in range(1000):
            try:
                message = self._control.recv(CONTROL.size)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if len(message) != CONTROL.size:
                return False
            kind, number, amount = CONTROL.unpack(message)
            connection = self._connections.get(number)
            if connection is None:  # it ended before the server read its message
                self._tell(GONE, number)
                continue
            if kind == CLOSE:
                self._end(connection)
            else:
                connection.known = True
                connection.heard = connection.since = time.monotonic()
                self._take(connection, amount)
                self._watch(connection)
        return True

    def _take(self, connection: Connection, amount: int) -> None:
        amount = min(amount, connection.unread)
        connection.unread -= amount
        self._unread -= amount

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        if len(self._connections) >= self._rules.connections:
            strangers = (other for other in self._connections.values() if not other.known)
            oldest = next(strangers, None)
            if oldest is None:
                client.close()
                self._tell(REJECTED, 0, TOO_MANY)
                return
            self._end(oldest, TOO_MANY)
        self._numbers += 1
        server = socket.socket(socket.AF_UNIX)
        try:
            server.setblocking(False)
            client.setblocking(False)
            where = "local"
            if client.family != socket.AF_UNIX:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _CHUNK)  # what a client must not leave unread
                address = client.getpeername()[0].removeprefix("::ffff:")
                where = "local" if address == "::1" or address.startswith("127.") else "remote"
            server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * _CHUNK)  # fewer turns for a large frame
            # From the name of this end the server knows which connection it is.
            server.bind(f"\0{self._name}-{where}-{self._numbers}")
            server.connect(self._server)
        except OSError:  # the server accepts none at the moment
            client.close()
            server.close()
            self._tell(REJECTED, 0, TOO_MANY)
            return
        connection = self._connections[self._numbers] = Connection(self._numbers, client, server)
        self._events.register(client, selectors.EVENT_READ, connection)
        self._events.register(server, selectors.EVENT_READ, connection)

    def _move(self, connection: Connection, ready: socket.socket, mask: int) -> None:
        from_client = ready is connection.client
        other = connection.server if from_client else connection.client
        waiting = connection.to_server if from_client else connection.to_client  # what is read from ``ready``
        back = connection.to_client if from_client else connection.to_server  # what is written to it
        try:
            if mask & selectors.EVENT_WRITE and back:
                del back[: ready.send(back)]
                if from_client:
                    connection.read_at = time.monotonic()
            if mask & selectors.EVENT_READ and not waiting and not connection.ended:
                count = ready.recv_into(self._buffer, connection.chunk if from_client else _CHUNK)
                if not count:
                    connection.ended = True
                else:
                    data = memoryview(self._buffer)[:count]
                    if not from_client:
                        connection.unreported += count
                        if connection.unreported > _REPORTED_AT_ONCE:
                            self._report(connection)
                    if from_client and not self._passes(connection, data):
                        return None
                    sent = 0
                    with contextlib.suppress(BlockingIOError):
                        sent = other.send(data)
                    if not from_client:
                        connection.read_at = time.monotonic()  # nothing waited
                    waiting += data[sent:]
        except BlockingIOError:
            pass
        except OSError:
            return self._end(connection)
        if connection.ended and not (connection.to_client or connection.to_server):
            return self._end(connection)
        return self._watch(connection)

    def _passes(self, connection: Connection, data: memoryview) -> bool:
        """Counts bytes of a client; False where they end its connection."""
        before, now = connection.unread, time.monotonic()
        connection.moved = now
        if not before:
            connection.since = now
        fault = connection.fault(data, self._rules)
        self._unread += connection.unread - before
        if fault is not None:
            self._end(connection, fault)
        while self._unread > self._rules.unread_in_all:
            greedy = max(self._connections.values(), key=lambda each: each.unread * (1 + now - each.since))
            self._end(greedy, UNREAD)
        connection.paid = max(connection.paid, now) + len(data) / self._rules.pace if self._shared else now
        if connection.paid > now + _BURST:
            connection.paused = True
            self._paused.append(connection)
        return connection.number in self._connections

    def _resume(self) -> None:
        """Reads on from those that are no longer ahead of their pace."""
        now, paused, self._paused = time.monotonic(), self._paused, []
        for connection in paused:
            connection.paused = connection.paid > now + _BURST
            if connection.paused:
                self._paused.append(connection)
            elif connection.number in self._connections:
                self._watch(connection)

    def _watch(self, connection: Connection) -> None:
        """Waits for what each side may do next."""
        for ready, waiting, back, reads in (
            (connection.client, connection.to_server, connection.to_client, connection.may_send(self._rules)),
            (connection.server, connection.to_client, connection.to_server, not connection.ended),
        ):
            mask = (selectors.EVENT_READ if reads and not waiting else 0) | (selectors.EVENT_WRITE if back else 0)
            before = self._events.get_map().get(ready)
            if before is None:
                if mask:
                    self._events.register(ready, mask, connection)
            elif not mask:
                self._events.unregister(ready)
            elif before.events != mask:
                self._events.modify(ready, mask, connection)

    def _look_round(self) -> None:
        """Ends the connections that are at a limit for too long."""
        now, rules = time.monotonic(), self._rules
        self._shared = sum(each.known and now - each.heard < 2 * _TICK for each in self._connections.values()) > 1
        for connection in list(self._connections.values()):
            self._take(connection, round(_LEAK * _TICK))
            if connection.unreported:
                self._report(connection)
            if connection.to_client and now - connection.read_at > rules.stall:
                self._end(connection, DEAF)
            elif connection.is_dead(now, rules):
                self._end(connection, SILENT)
            elif now - connection.heard > (rules.idle if connection.known else rules.handshake):
                self._end(connection, SILENT if connection.known or connection.raw <= rules.first else FIRST)
            elif connection.unread and now - max(connection.moved, connection.since) > rules.stall:
                self._end(connection, STALLED)  # in the middle of a message, or at the limit

    def _end(self, connection: Connection, reason: int | None = None) -> None:
        del self._connections[connection.number]
        self._unread -= connection.unread
        for each in (connection.client, connection.server):
            with contextlib.suppress(KeyError):
                self._events.unregister(each)
            each.close()
        if reason is not None:
            self._tell(REJECTED, connection.number, reason)
        self._tell(GONE, connection.number)


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends with the server, after the last answers
    told = json.loads(sys.argv[1])
    listeners = [socket.socket(fileno=fd) for fd in told["listeners"]]
    Front(Rules(**told["rules"]), listeners, socket.socket(fileno=told["control"]), told["server"], told["name"]).run()


if __name__ == "__main__":
    main()
