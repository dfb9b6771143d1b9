"""Where clients come in: listening sockets, and the process that accepts connections there (``front.py``)."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import secrets
import shutil
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import zmq

from sam2_ros.remote import protocol
from sam2_ros.remote.server import front
from sam2_ros.remote.server.limits import Limits

_ANSWERED_BEYOND = 16 << 20  # bytes of pixels beyond the limit that still get an answer; more ends the connection
_TOLD_AT_ONCE = 1 << 16  # bytes read, after which the front is told
_UNREAD_ANSWERS, _UNREAD_ANSWERS_IN_ALL = 64 << 20, 256 << 20  # bytes
_PACE = 256 << 20  # bytes a second of a client beside others, at least: 43 raw images of 1920 x 1080
_RETRY = 0.2  # s
_FILES_KEPT = 64  # descriptors that are not for connections
_CURVE_COST = 33  # bytes of encryption in a part
_LONGEST_ADDRESS = len("ipc://") + 107  # of a socket in the file system
_SIOCGIFADDR = 0x8915  # ioctl: an interface's address


def rules_for(limits: Limits) -> front.Rules:
    """What the front lets pass: a message of the largest size, and in all connections together four of them."""
    part = max(protocol.MAX_HEADER_BYTES, limits.message_bytes + _ANSWERED_BEYOND)
    unread = part + protocol.MAX_HEADER_BYTES
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    connections = max(8, min(limits.connections, (files - _FILES_KEPT) // 2))
    pace = max(_PACE, 4 * limits.message_bytes)
    return front.Rules(connections, part, unread, 4 * unread, pace, idle=2 * limits.idle + 10)


class Door:
    """Binds to the endpoints at once; clients get in after :meth:`open`. Not thread-safe.

    Args:
        rejected: is called with the reason for each connection that was ended.

    Raises:
        OSError: an endpoint is in use, or can't be bound to; the message names it.
    """

    def __init__(
        self, endpoints: Sequence[str], limits: Limits, encrypted: bool, rejected: Callable[[str], object]
    ) -> None:
        self._rules = rules_for(limits)
        self._part_cost = front.PART_COST + (_CURVE_COST if encrypted else 0)
        self._rejected = rejected
        self._name = f"sam2_ros-{secrets.token_hex(8)}"
        self._folder = Path(tempfile.mkdtemp(prefix="sam2_ros-"))  # which no other user can enter
        self.address = f"ipc://{self._folder / 'server'}"  # to bind the server's socket to
        self._listeners: list[socket.socket] = []
        self._paths: list[tuple[str, int]] = []  # of sockets in the file system, with their inodes
        self.endpoints: list[str] = []
        self._untold: dict[int, int] = {}  # bytes read, by connection
        self._answers: dict[int, int] = {}  # bytes written that the front has not read
        self._known: set[int] = set()
        self._process: subprocess.Popen[bytes] | None = None
        self.control = socket.socket()
        try:
            if len(os.fsencode(self.address)) > _LONGEST_ADDRESS:
                raise OSError(None, f"the temporary folder {self._folder.parent} has too long a path; set TMPDIR to a "
                              "shorter one")  # fmt: skip
            for endpoint in endpoints:
                try:
                    self.endpoints.append(self._listen(endpoint))
                except OSError as error:
                    raise OSError(error.errno, f"can't bind to {endpoint}: {error.strerror or error}") from error
        except OSError:
            self.close()
            raise

    def open(self) -> None:
        """Starts the front, also anew after it died.

        Raises:
            OSError: the system gives no process or descriptor; nothing has changed then.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        fds = [theirs.fileno(), *(listener.fileno() for listener in self._listeners)]
        told = {
            "rules": asdict(self._rules), "listeners": fds[1:], "control": fds[0], "name": self._name,
            "server": str(self._folder / "server"),
        }  # fmt: skip
        command = [sys.executable, "-I", "-S", front.__file__, json.dumps(told)]
        try:
            self._process = subprocess.Popen(
                command, pass_fds=fds, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self.control.close()
        self.control = ours

    def connection_of(self, frame: zmq.Frame) -> tuple[int, bool] | None:
        """The number of the connection that a received frame came on, and whether its client is on this machine; None
        if it has ended."""
        try:
            end = socket.socket(fileno=int(frame.get(zmq.SRCFD)))
        except (OSError, zmq.ZMQError):
            return None
        try:
            name, where, number = bytes(end.getpeername()).decode().rsplit("-", 2)
        except (OSError, ValueError, TypeError):
            return None
        finally:
            end.detach()  # it is libzmq's
        if name != f"\0{self._name}":
            return None
        self._known.add(int(number))
        return int(number), where == "local"

    def taken(self, connection: int, parts: Sequence[memoryview]) -> None:
        """The server has read a message of this connection."""
        size = sum(len(part) + self._part_cost for part in parts)
        first = connection not in self._untold
        self._untold[connection] = self._untold.get(connection, 0) + size
        if first or self._untold[connection] >= _TOLD_AT_ONCE:
            self._tell(connection)

    def may_answer(self, connection: int, size: int) -> bool:
        """Counts an answer; False where the client reads none and the connection therefore ends."""
        unread = self._answers.get(connection, 0)
        if unread and unread + size > _UNREAD_ANSWERS:
            self._send(front.CLOSE, connection, 0)
            return False
        self._answers[connection] = unread + size
        if sum(self._answers.values()) > _UNREAD_ANSWERS_IN_ALL:
            self._send(front.CLOSE, max(self._answers, key=self._answers.__getitem__), 0)
        return True

    def end(self, connection: int) -> None:
        """Ends a connection; what its client has sent and the server has not read may still come."""
        self._send(front.CLOSE, connection, 0)

    def look(self) -> list[int]:
        """Connections that have ended since the last call; call it when :attr:`control` is readable, and often."""
        gone: list[int] = []
        while True:
            try:
                message = self.control.recv(front.CONTROL.size)
            except BlockingIOError:
                break
            except OSError:
                message = b""
            if len(message) != front.CONTROL.size:  # the front died, and all connections with it
                gone = list(self._known)
                self._restart()
                break
            kind, number, amount = front.CONTROL.unpack(message)
            if kind == front.GONE:
                gone.append(number)
            elif kind == front.REJECTED:
                self._rejected(front.REASONS[amount])
            elif number in self._answers:
                self._answers[number] = max(0, self._answers[number] - amount)
        for number in gone:
            self._known.discard(number)
            self._untold.pop(number, None)
            self._answers.pop(number, None)
        return gone

    def _restart(self) -> None:
        if self._process is not None:
            self._process.kill()
            code, self._process = self._process.wait(), None
            print(f"sam2_ros: the process that accepts connections ended ({code}); starting it anew", file=sys.stderr)
        time.sleep(_RETRY)
        with contextlib.suppress(OSError):  # the next look tries again
            self.open()

    def tick(self) -> None:
        """Tells the front the rest of what was read."""
        for connection, size in list(self._untold.items()):
            if size:
                self._tell(connection)

    def close(self) -> None:
        """Ends the front after it has written what it holds."""
        for path, inode in self._paths:
            with contextlib.suppress(OSError):
                if os.stat(path).st_ino == inode:
                    os.unlink(path)
        self.control.close()
        if self._process is not None:
            try:
                self._process.wait(3)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for listener in self._listeners:
            listener.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _tell(self, connection: int) -> None:
        if self._send(front.TAKEN, connection, self._untold[connection]):
            self._untold[connection] = 0

    def _send(self, kind: int, connection: int, amount: int) -> bool:
        try:
            self.control.send(front.CONTROL.pack(kind, connection, amount))
        except BlockingIOError:
            return False
        except OSError:  # it died; look() will see it
            return False
        return True

    def _listen(self, endpoint: str) -> str:
        scheme, _, rest = endpoint.partition("://")
        if scheme == "ipc":
            return self._listen_locally(rest)
        host, _, written = rest.rpartition(":")
        port = 0 if written == "*" else int(written)
        all_found = socket.getaddrinfo(_address(host.strip("[]")), port, type=socket.SOCK_STREAM)
        found = min(all_found, key=lambda each: each[0] != socket.AF_INET)  # where ZeroMQ's clients look for a name
        listener = socket.socket(found[0], socket.SOCK_STREAM)
        self._listeners.append(listener)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(found[4])
        listener.listen(128)
        bound = listener.getsockname()
        return f"tcp://[{bound[0]}]:{bound[1]}" if found[0] == socket.AF_INET6 else f"tcp://{bound[0]}:{bound[1]}"

    def _listen_locally(self, path: str) -> str:
        listener = socket.socket(socket.AF_UNIX)
        self._listeners.append(listener)
        if path.startswith("@"):
            listener.bind(f"\0{path[1:]}")
            listener.listen(128)
            return f"ipc://{path}"
        _remove_dead(path)
        new = os.path.join(os.path.dirname(path), f".{os.getpid()}-{listener.fileno()}")
        listener.bind(new)
        listener.listen(128)
        try:
            os.link(new, path)
        except FileExistsError as error:
            raise OSError(error.errno, "another server has just taken it; choose another path, or stop it") from error
        finally:
            os.unlink(new)
        self._paths.append((path, os.stat(path).st_ino))
        return f"ipc://{path}"


def _remove_dead(path: str) -> None:
    """Removes the socket that a dead server left.

    Raises:
        OSError: something else is there, or a server lives there.
    """
    if not _is_dead(path):
        return
    # Another server may have taken the path just now: so what is there is taken away first, then looked at again.
    aside = os.path.join(os.path.dirname(path), f".{os.getpid()}-{secrets.token_hex(4)}")
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, aside)
        try:
            _is_dead(aside)
        except OSError:
            os.link(aside, path)
            raise
        finally:
            os.unlink(aside)


def _is_dead(path: str) -> bool:
    """Whether a dead server left its socket there; False where nothing is.

    Raises:
        OSError: something else is there, or a server lives there.
    """
    try:
        is_socket = stat.S_ISSOCK(os.stat(path).st_mode)
    except FileNotFoundError:
        return False
    if not is_socket:
        raise FileExistsError(None, "there is a file that is no socket; choose another path, or delete it")
    with socket.socket(socket.AF_UNIX) as trial:
        try:
            trial.setblocking(False)
            trial.connect(path)
        except ConnectionRefusedError:
            return True
        except BlockingIOError:  # its queue is full
            pass
    raise OSError(None, "a server lives there already; choose another path, or stop that server")


def _address(host: str) -> str:
    """The address for ``*``, the name of an interface, or a host."""
    if host == "*":
        return "0.0.0.0"
    if host in (name for _, name in socket.if_nameindex()):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
            answer: Any = fcntl.ioctl(asked.fileno(), _SIOCGIFADDR, struct.pack("256s", host.encode()[:15]))
        return socket.inet_ntoa(answer[20:24])
    return host
