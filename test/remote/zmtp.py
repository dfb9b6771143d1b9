"""ZMTP 3.0 by hand, on a socket that keeps to no rule."""

from __future__ import annotations

import socket
import struct

from served import PATIENCE

from sam2_ros.remote import protocol

READY = b"\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER\x08Identity\x00\x00\x00\x00"
MORE, LONG, COMMAND = 1, 2, 4


def dial(endpoint: str, mechanism: bytes = b"NULL") -> socket.socket:
    """A connection after the greeting."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    connection = socket.create_connection((host, int(port)), PATIENCE)
    connection.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00" + mechanism.ljust(20, b"\0") + bytes(32))
    received = b""
    while len(received) < 64:
        received += connection.recv(64 - len(received)) or b"\0" * 64
    return connection


def frame(data: bytes, flags: int = 0) -> bytes:
    return bytes([flags | LONG]) + struct.pack(">Q", len(data)) + data


def ready(endpoint: str) -> socket.socket:
    """A connection after the handshake."""
    connection = dial(endpoint)
    connection.sendall(frame(READY, COMMAND))
    return connection


def known(endpoint: str) -> socket.socket:
    """A connection whose first message, a ping, was answered."""
    connection = ready(endpoint)
    connection.sendall(message(*protocol.pack({"op": "ping", "seq": 1})))
    received = b""
    while b"health" not in received:
        more = connection.recv(1 << 16)
        assert more, "the server ended the connection"
        received += more
    return connection


def message(*parts: bytes) -> bytes:
    """A message of these parts."""
    return b"".join(frame(part, MORE if part is not parts[-1] else 0) for part in parts)


def send_until_cut(connection: socket.socket, data: bytes, times: int) -> int:
    """Sends ``data`` up to so many times; returns how often it went out before the other side ended the connection."""
    for done in range(times):
        try:
            connection.sendall(data)
        except TimeoutError:
            raise
        except OSError:
            return done
    return times
