"""How fast the front reads from a client that others are served beside, and how slow a client's link may be."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from unittest import mock

import pytest
from served import connect_patiently, connected, picture, serving
from test_front import GREETING, MIB, RULES, moving, ruled
from zmtp import frame

from sam2_ros.remote.server import Limits, door, front
from sam2_ros.remote.server.front import Connection


@pytest.mark.parametrize("others", [True, False], ids=["beside others", "alone"])
def test_a_client_is_read_at_its_pace_beside_others_and_at_any_alone(others: bool) -> None:
    """2000 bytes at 1000 a second, of which it may be a quarter of a second ahead."""
    data = GREETING + frame(bytes(1000)) + frame(bytes(1000 - len(GREETING) - 18))
    with moving() as (mover, connection, reader, server), mock.patch.object(front, "time") as clock:
        clock.monotonic.return_value = 100.0
        other = mover._connections[2] = Connection(2, mock.Mock(spec=socket.socket), mock.Mock(spec=socket.socket))
        connection.heard = connection.moved = connection.since = connection.read_at = connection.paid = 100.0
        other.known, other.heard = True, 100.0 if others else 95.0
        mover._look_round()
        reader.sendall(data)
        mover._move(connection, connection.client, selectors.EVENT_READ)
        assert server.recv(4096) == data
        for now, may_send in ((100.0, not others), (101.7, not others), (101.8, True)):
            clock.monotonic.return_value = now
            mover._resume()
            assert connection.may_send(RULES) == may_send
        reader.sendall(frame(b"more"))
        mover._move(connection, connection.client, selectors.EVENT_READ)
        assert server.recv(4096) == frame(b"more") and 1 in mover._connections, "nothing is cut"


def test_frames_that_wait_for_their_pace_are_all_answered() -> None:
    with ruled(pace=MIB) as server, connected(server, pixels="raw") as one, connected(server, pixels="raw") as other:
        connect_patiently(one)
        connect_patiently(other)
        for stamp in range(8):
            assert one.step(picture(), stamp).stamp == stamp
            assert other.step(picture(1, 300, 300), stamp).stamp == stamp
        assert one.link_values()["connections"] == other.link_values()["connections"] == 1


@pytest.mark.parametrize(("message_bytes", "pace"), [(1 << 20, 256 << 20), (64 << 20, 256 << 20), (1 << 30, 4 << 30)])
def test_the_pace_lets_cameras_through(message_bytes: int, pace: int) -> None:
    assert door.rules_for(Limits(message_bytes=message_bytes)).pace == pace > 1920 * 1080 * 3 * 30


@contextlib.contextmanager
def slow_link(endpoint: str, rate: float) -> Iterator[str]:
    """An endpoint from which ``rate`` bytes a second come to another one; back they come at once."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")

    def carry(source: socket.socket, target: socket.socket, seconds: float) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1024):
                target.sendall(data)
                time.sleep(len(data) * seconds)
            target.shutdown(socket.SHUT_RDWR)

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            client, server = listener.accept()[0], socket.create_connection((host, int(port)))
            back = threading.Thread(target=carry, args=(server, client, 0.0))
            with client, server:
                back.start()
                carry(client, server, 1 / rate)
                back.join()

        thread = threading.Thread(target=accept)
        thread.start()
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


def test_a_frame_may_take_longer_than_the_clients_heartbeat() -> None:
    """5 seconds; an answer to a heartbeat may take 3, but waits behind the frame."""
    with (
        serving() as server,
        slow_link(server.endpoints[0], 10_000) as endpoint,
        connected(endpoint, pixels="raw") as client,
    ):
        assert client.step(picture(0, 100, 160), 1).stamp == 1
        assert client.link_values()["connections"] == 1
