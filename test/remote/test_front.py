"""What a connection may cost before and after it is known: every one is bounded, and others go on."""

from __future__ import annotations

import os
import select
import selectors
import signal
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from raw_client import Raw, wait_until
from served import LOCAL, PATIENCE, ServerProcess, connect_patiently, connected, picture, resident_bytes, serving
from zmtp import COMMAND, MORE, dial, frame, known, message, ready, send_until_cut

from sam2_ros.inference import NullBackend
from sam2_ros.remote import protocol
from sam2_ros.remote.codec import to_wire
from sam2_ros.remote.server import Limits, Server, door, front
from sam2_ros.remote.server.front import CONTROL, READ, REASONS, REJECTED, Connection, Front, Rules
from sam2_ros.tracking import Prompt, PromptRequest

MIB = 1 << 20


def ended(server: Server, reason: str) -> float:
    """Connections that were ended for this reason."""
    labels = {"reason": reason}
    return server.metrics.registry.get_sample_value("sam2_ros_rejected_connections_total", labels) or 0.0


@contextmanager
def ruled(limits: Limits | None = None, **changes: Any) -> Iterator[Server]:
    """A server with other rules for connections."""
    rules = door.rules_for
    with (
        mock.patch.object(door, "rules_for", lambda given: replace(rules(given), **changes)),
        serving(limits=limits) as server,
    ):
        yield server


def cut(connection: socket.socket) -> bool:
    """Whether the other side ends the connection; waits for it."""
    connection.settimeout(PATIENCE)
    try:
        while connection.recv(1 << 16):
            pass
    except ConnectionError:
        pass
    return True


@pytest.mark.parametrize(
    ("connect", "data", "times", "reason"),
    [
        (known, frame(bytes(MIB), MORE), 100, "part"),
        (known, b"\x01\x00" * 500_000, 20, "part"),
        (known, frame(bytes(100 * MIB)), 1, "part"),
        (known, b"\xff" * 100_000, 10, "part"),
        (ready, frame(bytes(MIB), COMMAND), 100, "part"),
    ],
    ids=["endless message", "empty parts", "large part", "no frames", "large command"],
)
def test_who_sends_too_much_is_cut_and_nobody_else_notices(connect: Any, data: bytes, times: int, reason: str) -> None:
    with serving() as server, connected(server, pixels="raw") as client:
        connect_patiently(client)
        client.step(picture(), 0)
        with connect(server.endpoints[0]) as connection:
            send_until_cut(connection, data, times)
            wait_until(lambda: ended(server, reason) == 1, "the connection to be ended")
            assert cut(connection)
        assert client.step(picture(400 % 256, 400, 600), 1).stamp == 1, "a large frame in between is none of it"
        assert client.link_values()["connections"] == 1


def test_who_starts_with_a_large_message_is_cut() -> None:
    with ruled(handshake=0.5) as server:
        for _ in range(20):  # on a busy machine the time may be over before the first byte
            with ready(server.endpoints[0]) as connection:
                assert send_until_cut(connection, frame(bytes(MIB), MORE), 100) < 20
                assert cut(connection)
            if ended(server, "first message"):
                break
        assert ended(server, "first message") >= 1


def test_who_does_not_wait_for_the_first_answer_is_served() -> None:
    hello = {"op": "hello", "stream": "x" * 20, "tracker": {}, "seq": 1}
    step = {"op": "step", "stamp": 1, "frame": {"height": 1000, "width": 1000, "encoding": "raw"}, "seq": 2}
    with serving() as server, ready(server.endpoints[0]) as connection:
        connection.sendall(message(*protocol.pack(hello)) + message(*protocol.pack(step), bytes(3_000_000)))
        wait_until(lambda: server.metrics.registry.get_sample_value("sam2_ros_frames_total") == 1, "the frame")


def test_strangers_take_no_memory_before_the_handshake() -> None:
    with ServerProcess("--bind", "tcp://127.0.0.1:*") as server:
        before = resident_bytes(server.process.pid)
        for mechanism in (b"NULL", b"CURVE") * 5:
            with dial(server.endpoint, mechanism) as connection:
                connection.sendall(b"\x06" + struct.pack(">Q", 127 * MIB))
                assert send_until_cut(connection, bytes(MIB), 126) < 126
                assert cut(connection)
        with connected(server.endpoint) as client:
            client.connect(PATIENCE)
        assert resident_bytes(server.process.pid) - before < 32 * MIB


@pytest.mark.parametrize("start", [b"", b"\xff" + bytes(8) + b"\x7f", b"\x01\x00", b"GET / HTTP/1.1\r\n\r\n"])
def test_who_never_finishes_the_handshake_is_cut(start: bytes) -> None:
    with ruled(handshake=0.2) as server:
        host, _, port = server.endpoints[0].removeprefix("tcp://").rpartition(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(start)
            assert cut(connection)
        wait_until(lambda: ended(server, "silent") + ended(server, "no ZMTP 3") == 1, "it to be counted")


def test_who_stops_in_the_middle_of_a_message_is_cut() -> None:
    with ruled(stall=1.0) as server, known(server.endpoints[0]) as connection:
        connection.sendall(frame(bytes(200_000))[:100_000])
        assert cut(connection)
        wait_until(lambda: ended(server, "stalled") == 1, "it to be counted")


def test_a_frame_may_take_longer_than_a_heartbeat() -> None:
    """On a slow link; meanwhile no heartbeat can be answered."""
    step = {"op": "step", "stamp": 7, "frame": {"height": 100, "width": 100, "encoding": "raw"}, "seq": 2}
    hello = {"op": "hello", "stream": "x" * 20, "tracker": {}, "seq": 1}
    with ruled(dead=2.0) as server, known(server.endpoints[0]) as connection:
        connection.sendall(message(*protocol.pack(hello)))
        data = message(*protocol.pack(step), bytes(30_000))
        for part in range(8):  # one in 0.8 s: longer than the 5 s in which a client that only waits must show itself
            connection.sendall(data[part * len(data) // 8 : (part + 1) * len(data) // 8])
            time.sleep(0.8)
        wait_until(lambda: server.metrics.registry.get_sample_value("sam2_ros_frames_total") == 1, "the frame")
        assert ended(server, "silent") == 0


def test_who_answers_no_heartbeat_is_cut_and_its_place_is_free() -> None:
    with ruled(dead=0.5) as server, known(server.endpoints[0]) as connection, connected(server) as client:
        connection.sendall(message(*protocol.pack({"op": "hello", "stream": "x" * 20, "tracker": {}, "seq": 1})))
        assert cut(connection)
        wait_until(lambda: ended(server, "silent") >= 1 and server.health()["streams"] == 0, "its place")
        client.connect(PATIENCE)


def test_who_reads_no_answers_is_cut_and_its_place_is_free() -> None:
    with ruled(Limits(streams=1), stall=1.0) as server:
        with ready(server.endpoints[0]) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            noise = np.random.default_rng(0).integers(0, 2, (1000, 1000)).astype(np.bool_)
            hello = {"op": "hello", "stream": "x" * 20, "tracker": {}}
            step = {"op": "step", "stamp": 1, "frame": {"height": 1000, "width": 1000, "encoding": "raw"}}
            add = {"op": "add", "stamp": 0, "requests": [to_wire(PromptRequest(Prompt(mask=noise)))]}
            connection.sendall(message(*protocol.pack(hello | {"seq": 1})))
            wait_until(lambda: server.health()["streams"] == 1, "the stream")
            connection.sendall(message(*protocol.pack(step | {"seq": 2}), bytes(3_000_000)))
            connection.sendall(message(*protocol.pack(add | {"seq": 3})))
            for seq in range(4, 54):
                connection.sendall(message(*protocol.pack({"op": "objects", "seq": seq})))
            wait_until(lambda: ended(server, "no answer read") == 1, "it to be cut")
        with connected(server) as client:
            client.connect(PATIENCE)


def test_all_together_hold_no_more_than_the_server_has_room_for() -> None:
    """Ten clients stop in the middle of a message; those that hold the most go, and not the one that works."""
    with ruled(unread_in_all=8 * MIB) as server, connected(server, pixels="raw") as client:
        connections = []
        for _ in range(10):
            connection = known(server.endpoints[0])
            send_until_cut(connection, frame(bytes(2 * MIB))[: MIB + MIB // 2], 1)
            connections.append(connection)
            assert client.step(picture(1, 500, 600), len(connections)).stamp == len(connections)
        wait_until(lambda: ended(server, "unread") >= 4, "the greedy ones to be cut")
        assert client.link_values()["connections"] == 1
        for connection in connections:
            connection.close()


def test_no_more_is_passed_on_than_the_server_reads() -> None:
    """Also where encryption hides which parts belong to one message: here, to a server that reads nothing."""
    rules = replace(door.rules_for(Limits()), first=1 << 40, unread=4 * MIB, stall=1.0)
    with mock.patch.object(door, "rules_for", lambda limits: rules):
        server = Server(NullBackend, [LOCAL])
    try:
        with ready(server.endpoints[0]) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
            connection.settimeout(PATIENCE)
            assert send_until_cut(connection, frame(bytes(MIB)), 100) < 20, "the system stores some megabytes, too"
        told = (READ, 1, 0)
        while told != (REJECTED, 1, REASONS.index("stalled")):
            assert told[0] == READ and select.select([server._door.control], [], [], PATIENCE)[0]
            told = CONTROL.unpack(server._door.control.recv(CONTROL.size))
    finally:
        server.close()


def test_places_are_for_those_who_speak() -> None:
    with ruled(connections=4) as server, connected(server) as client:
        connect_patiently(client)
        client.step(picture(), 0)
        strangers = [dial(server.endpoints[0]) for _ in range(8)]
        assert cut(strangers[0])
        with connected(server) as another:
            another.connect(PATIENCE)
        assert client.step(picture(), 1).stamp == 1 and client.link_values()["connections"] == 1
        for stranger in strangers:
            stranger.close()


def test_a_client_that_is_gone_gives_its_place_back_at_once() -> None:
    with serving(limits=Limits(streams=1)) as server:
        with Raw(server.endpoints[0]) as raw:
            assert raw.hello()["ok"]
        wait_until(lambda: server.health()["streams"] == 0, "its place")


def test_a_message_that_was_read_after_its_connection_ended_leaves_nothing() -> None:
    opened = door.Door([LOCAL], Limits(), False, lambda reason: None)
    try:
        opened.open()
        opened.taken(99, [memoryview(b"late")])
        assert select.select([opened.control], [], [], PATIENCE)[0]
        assert opened.look() == [99]
    finally:
        opened.close()


def test_the_front_is_started_again_when_it_dies(capfd: pytest.CaptureFixture[str]) -> None:
    with serving() as server, connected(server) as client:
        connect_patiently(client)
        client.step(picture(), 0)
        process = server._door._process
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
        wait_until(lambda: server.health()["streams"] == 0, "the streams to end")
        client.connect(0)  # as it still believes
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                assert client.step(picture(), 1).stamp == 1
                break
            except RuntimeError:
                assert time.monotonic() < deadline
    assert "the process that accepts connections ended (-9); starting it anew" in capfd.readouterr().err


@pytest.mark.parametrize("clients", [0, 2])
def test_a_server_that_is_killed_leaves_no_process_and_no_folder(tmp_path: Path, clients: int) -> None:
    with mock.patch.dict(os.environ, {"TMPDIR": str(tmp_path)}), ServerProcess("--bind", "tcp://127.0.0.1:*") as server:
        assert len(list(tmp_path.iterdir())) == 1
        with ExitStack() as stack:
            for _ in range(clients):
                connect_patiently(stack.enter_context(connected(server.endpoint)))
            server.kill()
            wait_until(lambda: not list(tmp_path.iterdir()), "the front to clean up")


RULES = Rules(connections=4, part=1000, unread=4000, unread_in_all=8000, pace=1000, first=1 << 20)
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)


@pytest.mark.parametrize("step", [1, 2, 3, 7, 64, 1000])
def test_bytes_are_counted_wherever_they_are_split(step: int) -> None:
    data = GREETING + frame(bytes(30), COMMAND) + message(b"sam2/1", bytes(500), bytes(1000)) + bytes([0, 3]) + b"abc"
    connection = Connection(1, mock.Mock(), mock.Mock())
    for at in range(0, len(data), step):
        assert connection.fault(memoryview(data)[at : at + step], RULES) is None
    assert connection.unread == 6 + 500 + 1000 + 3 + 4 * 128


def test_each_message_has_as_many_parts_as_it_may() -> None:
    connection = Connection(1, mock.Mock(), mock.Mock())
    assert connection.fault(memoryview(GREETING), RULES) is None
    for _ in range(3):
        assert connection.fault(memoryview(message(*[bytes([part]) for part in range(16)])), RULES) is None
    too_many = message(*[bytes([part]) for part in range(17)])
    assert connection.fault(memoryview(too_many), RULES) == front.PART


@contextmanager
def moving() -> Iterator[tuple[Front, Connection, socket.socket, socket.socket]]:
    """A front by itself, its connection, and what is at the ends of that: the client and the server."""
    pairs = [socket.socketpair() for _ in range(3)]
    (_, control), (reader, client), (server, inner) = pairs
    for end in (client, inner):
        end.setblocking(False)
    mover, connection = Front(RULES, [], control, "", ""), Connection(1, client, inner)
    mover._connections[1] = connection
    connection.known = True
    try:
        yield mover, connection, reader, server
    finally:
        for end in (end for pair in pairs for end in pair):
            end.close()


def answer_until_it_waits(mover: Front, connection: Connection, server: socket.socket) -> int:
    """Answers until the client's socket takes no more; returns the number of bytes."""
    sent = 0
    while not connection.to_client:
        server.sendall(bytes(1000))
        sent += 1000
        mover._move(connection, connection.server, selectors.EVENT_READ)
    return sent


@pytest.mark.parametrize(
    ("changes", "stays"),
    [
        ({}, False),
        ({"moved": 95.0}, True),
        ({"since": 95.0}, True),
        ({"known": False}, True),
        ({"to_server": b"waits"}, True),
        ({"unread": 5000}, True),
    ],
    ids=["silent", "sends", "was just read", "has the handshake's time", "waits for the server", "is at the limit"],
)
def test_only_a_client_that_could_send_is_dead(changes: dict[str, Any], stays: bool) -> None:
    with moving() as (mover, connection, _, _), mock.patch.object(front, "time") as clock:
        clock.monotonic.return_value = connection.heard = connection.read_at = 100.0
        connection.moved = connection.since = 100.0 - RULES.dead - 0.1
        for name, value in changes.items():
            setattr(connection, name, value)
        mover._look_round()
        assert bool(mover._connections) == stays


def test_only_unread_answers_count_against_who_reads() -> None:
    """A client that has read everything at once for an hour may pause for as long as one that has just come."""
    with moving() as (mover, connection, reader, server), mock.patch.object(front, "time") as clock:
        for now in (100.0, 3700.0):
            clock.monotonic.return_value = connection.heard = now
            server.sendall(b"answer")
            mover._move(connection, connection.server, selectors.EVENT_READ)
            assert reader.recv(100) == b"answer"
        answer_until_it_waits(mover, connection, server)  # it reads no more
        for now, stays in ((3700 + RULES.stall - 1, True), (3700 + RULES.stall + 1, False)):
            clock.monotonic.return_value = connection.moved = now  # it goes on to send
            mover._look_round()
            assert bool(mover._connections) == stays


def test_who_says_no_more_still_gets_all_answers() -> None:
    with moving() as (mover, connection, reader, server):
        sent = answer_until_it_waits(mover, connection, server)
        reader.shutdown(socket.SHUT_WR)
        mover._move(connection, connection.client, selectors.EVENT_READ)
        received = 0
        while mover._connections:
            received += len(reader.recv(1 << 16))
            mover._move(connection, connection.client, selectors.EVENT_WRITE)
        while data := reader.recv(1 << 16):
            received += len(data)
        assert received == sent


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        (GREETING, None),
        (GREETING[:1], None),
        (b"\xff" + bytes(8) + b"\x7f\x04", None),
        (b"\xfe" + GREETING[1:], front.NO_ZMTP),
        (b"\xff" + bytes(8) + b"\x7e\x03", front.NO_ZMTP),
        (b"\xff" + bytes(8) + b"\x7f\x02", front.NO_ZMTP),
        (GREETING + frame(bytes(1000)), None),
        (GREETING + frame(bytes(1001)), front.PART),
        (GREETING + frame(bytes(4096), COMMAND), None),
        (GREETING + frame(bytes(4097), COMMAND), front.PART),
        (GREETING + b"\x07" + bytes(8), None),
        (GREETING + b"\x08\x00", front.PART),
    ],
)
def test_what_a_connection_may_begin_with(start: bytes, reason: int | None) -> None:
    assert Connection(1, mock.Mock(), mock.Mock()).fault(memoryview(start), RULES) == reason


def test_until_the_server_has_read_a_message_few_bytes_are_taken() -> None:
    rules = replace(RULES, first=200)
    connection = Connection(1, mock.Mock(), mock.Mock())
    connection.fault(memoryview(GREETING + frame(bytes(200 - 64 - 9))), rules)
    assert connection.raw == 200 and connection.may_send(rules)
    connection.fault(memoryview(b"\x00"), rules)
    assert not connection.may_send(rules)
    connection.known = True
    connection.fault(memoryview(b"\x00"), rules)
    assert connection.raw == 201 and connection.may_send(rules)


def test_what_the_server_has_not_read_is_limited() -> None:
    connection = Connection(1, mock.Mock(), mock.Mock())
    connection.known = True
    for unread, more in ((4000, True), (4001, False)):
        connection.unread = unread
        assert connection.may_send(RULES) is more
    connection.unread = 0
    for name in ("ended", "paused"):
        setattr(connection, name, True)
        assert not connection.may_send(RULES)
        setattr(connection, name, False)


def test_large_parts_are_read_in_large_pieces() -> None:
    rules = replace(RULES, part=1 << 20)
    connection = Connection(1, mock.Mock(), mock.Mock())
    connection.fault(memoryview(GREETING + frame(bytes(1 << 20))[: 9 + (1 << 20) - (1 << 18) - 5]), rules)
    assert connection.chunk == 1 << 12, "not before it is known"
    connection.known = True
    assert connection.chunk == 1 << 18
    connection.fault(memoryview(bytes(100_005)), rules)
    assert connection.chunk == (1 << 18) - 100_000
    connection.fault(memoryview(bytes((1 << 18) - 100_000)), rules)
    assert connection.chunk == 1 << 12


def test_of_all_connections_the_greediest_is_ended() -> None:
    """Who holds much for long: here the one of fewer bytes, which the server has not read for a minute."""
    with moving() as (mover, connection, _, _), mock.patch.object(front, "time") as clock:
        clock.monotonic.return_value = 160.0
        other, third = (Connection(number, *(mock.Mock(fileno=lambda: 999) for _ in "ab")) for number in (2, 3))
        mover._connections |= {2: other, 3: third}
        for each, unread, since in ((connection, 4000, 160.0), (other, 3000, 100.0), (third, 10, 100.0)):
            each.unread, each.since = unread, since
        mover._unread = 7010
        greeted = GREETING + frame(bytes(800))
        assert mover._passes(connection, memoryview(greeted)), "8,000 bytes in all are not too many"
        assert mover._connections.keys() == {1, 2, 3} and mover._unread == 7010 + 128 + 800
        assert mover._passes(connection, memoryview(frame(bytes(100))))
        assert mover._connections.keys() == {1, 3} and mover._unread == 4010 + 2 * 128 + 900


def test_who_sends_faster_than_its_pace_waits_where_others_send_too() -> None:
    """1,000 bytes a second, and a quarter of a second ahead."""
    with moving() as (mover, connection, _, _), mock.patch.object(front, "time") as clock:
        clock.monotonic.return_value = connection.paid = 100.0
        connection._greeting = 0
        data = memoryview(frame(bytes(250 - 9)))
        assert mover._passes(connection, data) and mover._passes(connection, data) and not connection.paused
        mover._shared = True
        assert mover._passes(connection, data) and not connection.paused, "exactly a quarter of a second"
        assert mover._passes(connection, data) and connection.paused and mover._paused == [connection]
        clock.monotonic.return_value = 100.2
        mover._resume()
        assert connection.paused and mover._paused == [connection]
        clock.monotonic.return_value = 100.25
        mover._resume()
        assert not connection.paused and not mover._paused


@pytest.mark.parametrize(
    ("known", "raw", "heard", "unread", "since", "reason"),
    [
        (True, 0, -119.0, 0, 0.0, None),
        (True, 0, -121.0, 0, 0.0, "silent"),
        (False, 0, -9.0, 0, 0.0, None),
        (False, 1 << 20, -11.0, 0, 0.0, "silent"),
        (False, (1 << 20) + 1, -11.0, 0, 0.0, "first message"),
        (True, 0, 0.0, 4500, -9.0, None),
        (True, 0, 0.0, 4500, -11.0, "stalled"),
        (True, 0, 0.0, 0, -4.0, None),
        (True, 0, 0.0, 0, -6.0, "silent"),
    ],
)
def test_each_wait_has_its_end(
    known: bool, raw: int, heard: float, unread: int, since: float, reason: str | None
) -> None:
    with moving() as (mover, connection, _, _), mock.patch.object(front, "time") as clock:
        now = clock.monotonic.return_value = 1000.0
        connection.known, connection.raw, connection.unread = known, raw, unread
        connection.heard, connection.moved, connection.since = now + heard, now + since, now + since
        with mock.patch.object(mover, "_tell") as tell:
            mover._look_round()
        rejected = [call.args[2] for call in tell.call_args_list if call.args[0] == front.REJECTED]
        assert [front.REASONS[each] for each in rejected] == ([reason] if reason else [])
        assert bool(mover._connections) == (reason is None)


def test_connections_share_the_processor_while_two_of_them_send() -> None:
    with moving() as (mover, connection, _, _), mock.patch.object(front, "time") as clock:
        now = clock.monotonic.return_value = 1000.0
        other = Connection(2, mock.Mock(), mock.Mock())
        mover._connections[2] = other
        for known, heard, shared in (
            (True, 999.1, True),
            (True, 999.0, False),
            (True, 900.0, False),
            (False, 999.9, False),
        ):
            connection.heard, other.known, other.heard = now, known, heard
            mover._look_round()
            assert mover._shared is shared


def test_heartbeats_do_not_add_up() -> None:
    """Encryption hides them among the messages; the server's socket reads them, and nobody counts that."""
    with moving() as (mover, connection, _, _), mock.patch.object(front, "time") as clock:
        clock.monotonic.return_value = connection.heard = connection.moved = connection.since = 1000.0
        connection.unread = mover._unread = 300
        for left in (44, 0, 0):
            mover._look_round()
            assert (connection.unread, mover._unread) == (left, left)
