"""How fast the front reads from a client that others are served beside."""

from __future__ import annotations

import selectors
import socket
from unittest import mock

import pytest
from served import connected, picture
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
        for stamp in range(8):
            assert one.step(picture(), stamp).stamp == stamp
            assert other.step(picture(1, 300, 300), stamp).stamp == stamp
        assert one.link_values()["connections"] == other.link_values()["connections"] == 1


@pytest.mark.parametrize(("message_bytes", "pace"), [(1 << 20, 256 << 20), (64 << 20, 256 << 20), (1 << 30, 4 << 30)])
def test_the_pace_lets_cameras_through(message_bytes: int, pace: int) -> None:
    assert door.rules_for(Limits(message_bytes=message_bytes)).pace == pace > 1920 * 1080 * 3 * 30
