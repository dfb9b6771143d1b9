"""Where a server listens: each endpoint belongs to one living server."""

from __future__ import annotations

import os
import resource
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest import mock

import pytest
from served import LOCAL, PATIENCE, ServerProcess, connect_patiently, connected, picture, running, serving

from sam2_ros.cli.main import main
from sam2_ros.inference import NullBackend
from sam2_ros.remote import protocol
from sam2_ros.remote.server import Limits, Server, door, front


def test_a_second_server_does_not_take_the_path_of_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint = f"ipc://{tmp_path / 'sam2'}"
    with serving(endpoint=endpoint) as server, connected(server) as client:
        connect_patiently(client)
        client.step(picture(), 0)
        assert main(["serve", "--model", "null", "--bind", endpoint]) == 2
        said = capsys.readouterr().err
        assert f"can't bind to {endpoint}: a server lives there already; choose another path, or stop" in said
        assert client.step(picture(), 1).stamp == 1
        with connected(server) as another:
            another.connect(PATIENCE)
    assert list(tmp_path.iterdir()) == [], "what it made is gone with it"


def test_the_path_of_a_dead_server_is_free(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path / 'sam2'}"
    with ServerProcess("--bind", endpoint) as first:
        first.kill()
        assert (tmp_path / "sam2").is_socket()
        with ServerProcess("--bind", endpoint) as second, connected(second.endpoint) as client:
            client.connect(PATIENCE)
            assert client.step(picture(), 0).stamp == 0


def test_of_two_servers_that_start_at_once_one_has_the_path(tmp_path: Path) -> None:
    """The other one saw a dead socket there, before the first replaced it."""
    path = tmp_path / "sam2"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    look = door._is_dead

    def is_dead(looked_at: str) -> bool:
        seen = look(looked_at)
        if not servers:
            with mock.patch.object(door, "_is_dead", look):
                servers.append(Server(NullBackend, [f"ipc://{path}"]))
        return seen

    servers: list[Server] = []
    with mock.patch.object(door, "_is_dead", is_dead), pytest.raises(OSError, match="a server lives there already"):
        door.Door([f"ipc://{path}"], Limits(), False, lambda reason: None)
    with running(servers[0]), connected(f"ipc://{path}") as client:
        client.connect(PATIENCE)
    assert list(tmp_path.iterdir()) == []


def test_a_hung_server_keeps_its_path(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path / 'sam2'}"
    with ServerProcess("--bind", endpoint) as first:
        os.kill(first.process.pid, signal.SIGSTOP)
        with pytest.raises(OSError, match="a server lives there"):
            Server(NullBackend, [endpoint])
        os.kill(first.process.pid, signal.SIGCONT)
        assert first.terminate() == 0


def test_a_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    path.write_text("mine")
    with pytest.raises(OSError, match="no socket; choose another path"):
        Server(NullBackend, [f"ipc://{path}"])
    assert path.read_text() == "mine"


def test_several_endpoints_are_bound_and_told(tmp_path: Path) -> None:
    wanted = ["tcp://127.0.0.1:*", f"ipc://{tmp_path / 'sam2'}", "tcp://lo:*", "ipc://@sam2_ros_test"]
    with ServerProcess(*(option for each in wanted for option in ("--bind", each)), "--insecure") as server:
        endpoints = server.text.rpartition(", on ")[2].partition(";")[0].split(", ")
        assert len(endpoints) == 4 and endpoints[2].startswith("tcp://127.0.0.1:") and not endpoints[0].endswith("*")
        for endpoint in endpoints:
            with connected(endpoint) as client:
                client.connect(PATIENCE)
                assert client.step(picture(), 0).stamp == 0


def test_a_name_is_bound_where_clients_look_for_it() -> None:
    """Also where a machine's name stands for an address of either kind."""
    both = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
    ]
    with mock.patch.object(socket, "getaddrinfo", lambda *_, **__: both):
        opened = door.Door(["tcp://localhost:*"], Limits(), False, lambda reason: None)
    opened.close()
    assert opened.endpoints[0].startswith("tcp://127.0.0.1:")


def test_a_client_reaches_an_address_of_ip_6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with serving(endpoint="tcp://[::1]:*") as server, connected(server) as client:
        client.connect(PATIENCE)
        assert client.step(picture(), 0).stamp == 0


def test_a_temporary_folder_with_too_long_a_path_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    assert main(["serve", "--model", "null", "--bind", LOCAL]) == 2
    assert "too long a path; set TMPDIR to a shorter one" in capsys.readouterr().err
    assert list(folder.iterdir()) == []


def test_a_port_that_is_taken_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["serve", "--model", "null", "--bind", f"tcp://127.0.0.1:{port}"]) == 2
        assert f"can't bind to tcp://127.0.0.1:{port}: Address already in use" in capsys.readouterr().err
        assert main(["serve", "--model", "null", "--bind", "tcp://127.0.0.1:*", "--metrics", f"127.0.0.1:{port}"]) == 2
        assert f"can't bind to --metrics 127.0.0.1:{port}" in capsys.readouterr().err


@pytest.mark.parametrize(("files", "connections"), [(264, 100), (4, 8)])
def test_no_more_connections_than_the_process_has_descriptors_for(files: int, connections: int) -> None:
    limits = Limits(connections=1000)  # two descriptors each, and 64 for the server
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, before[1]))
    try:
        rules = door.rules_for(limits)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert rules.connections == connections


def test_a_message_of_a_connection_that_has_ended_belongs_to_nobody() -> None:
    """Its descriptor may be closed, or not be of a connection."""

    class Read:
        def __init__(self, fd: int) -> None:
            self.fd = fd

        def get(self, option: int) -> int:
            return self.fd

    opened = door.Door([LOCAL], Limits(), False, lambda reason: None)
    with socket.socket() as ended, socket.socketpair()[0] as another, open(os.devnull) as file:
        closed = os.dup(0)
        os.close(closed)
        for fd in (closed, ended.fileno(), another.fileno(), file.fileno()):
            assert opened.connection_of(Read(fd)) is None  # type: ignore[arg-type]
    opened.close()


@pytest.mark.parametrize(("encrypted", "cost"), [(False, 128), (True, 128 + 33)])
def test_what_was_read_is_counted_as_the_front_counts_it(encrypted: bool, cost: int) -> None:
    """A part that CURVE encrypts comes with 33 bytes: a command's name, its nonce, a flag and a checksum."""
    opened = door.Door([LOCAL], Limits(), encrypted, lambda reason: None)
    told, opened.control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        opened.taken(7, [memoryview(b"four"), memoryview(b"")])
        assert front.CONTROL.unpack(told.recv(100)) == (front.TAKEN, 7, 4 + 2 * cost)
    finally:
        told.close()
        opened.close()


@contextmanager
def door_by_itself() -> Iterator[tuple[door.Door, socket.socket, list[str]]]:
    """A door, the front's end of its control, and the reasons of the connections that were ended."""
    rejected: list[str] = []
    opened = door.Door([LOCAL], Limits(), False, rejected.append)
    front_end, opened.control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (front_end, opened.control):
        end.setblocking(False)
    try:
        yield opened, front_end, rejected
    finally:
        front_end.close()
        opened.close()


def told(front_end: socket.socket) -> list[tuple[int, int, int]]:
    """What the door said: kind, connection and amount."""
    found = []
    with suppress(BlockingIOError):
        while data := front_end.recv(100):
            found.append(front.CONTROL.unpack(data))
    return found


def test_the_first_message_is_told_at_once_and_more_when_there_is_enough() -> None:
    with door_by_itself() as (opened, front_end, _):
        opened.taken(7, [memoryview(bytes(100))])
        assert told(front_end) == [(front.TAKEN, 7, 100 + 128)]
        opened.taken(7, [memoryview(bytes(60_000))])
        opened.taken(7, [memoryview(bytes((1 << 16) - 60_000 - 2 * 128 - 1))])
        opened.taken(8, [memoryview(b"")])
        assert told(front_end) == [(front.TAKEN, 8, 128)]
        opened.tick()
        opened.tick()
        assert told(front_end) == [(front.TAKEN, 7, (1 << 16) - 1)]
        opened.taken(7, [memoryview(bytes((1 << 16) - 128))])
        assert told(front_end) == [(front.TAKEN, 7, 1 << 16)]


def test_a_client_that_reads_no_answers_gets_no_more() -> None:
    most = 64 << 20
    with door_by_itself() as (opened, front_end, _):
        assert opened.may_answer(7, most + 5), "a first one may have any size"
        assert not opened.may_answer(7, 1) and told(front_end) == [(front.CLOSE, 7, 0)]
        front_end.send(front.CONTROL.pack(front.READ, 7, 6))
        assert opened.look() == []
        assert opened.may_answer(7, 1), "exactly as many as may be"
        assert not opened.may_answer(7, 1)
        front_end.send(front.CONTROL.pack(front.READ, 7, 1 << 40))
        front_end.send(front.CONTROL.pack(front.READ, 99, 5))
        opened.look()
        assert opened.may_answer(7, most) and not opened.may_answer(7, 1)


def test_of_all_clients_the_one_with_the_most_unread_answers_is_ended() -> None:
    with door_by_itself() as (opened, front_end, _):
        for connection, size in ((1, 60 << 20), (2, 64 << 20), (3, 63 << 20), (4, 64 << 20), (5, 5 << 20)):
            assert opened.may_answer(connection, size)
        assert told(front_end) == [], "256 MiB in all are not too many"
        assert opened.may_answer(5, 1) and told(front_end) == [(front.CLOSE, 2, 0)]


def test_connections_that_have_ended_are_forgotten() -> None:
    with door_by_itself() as (opened, front_end, rejected):
        opened.taken(7, [memoryview(b"1")])
        opened.may_answer(7, 64 << 20)
        front_end.send(front.CONTROL.pack(front.REJECTED, 7, front.SILENT))
        front_end.send(front.CONTROL.pack(front.GONE, 7, 0))
        front_end.send(front.CONTROL.pack(front.GONE, 9, 0))
        assert opened.look() == [7, 9] and rejected == ["silent"] and opened.look() == []
        told(front_end)
        opened.tick()
        assert told(front_end) == [] and opened.may_answer(7, 64 << 20)
        opened.taken(7, [memoryview(b"1")])
        assert told(front_end) == [(front.TAKEN, 7, 1 + 128)], "a new connection of that number is told at once"
        opened.end(7)
        assert told(front_end) == [(front.CLOSE, 7, 0)]


def test_the_rules_for_connections_follow_from_the_limits() -> None:
    rules = door.rules_for(Limits(message_bytes=100 << 20, idle=30.0, connections=9))
    assert (rules.connections, rules.part, rules.idle) == (9, 116 << 20, 70.0)
    assert rules.unread == rules.part + protocol.MAX_HEADER_BYTES and rules.unread_in_all == 4 * rules.unread
    assert door.rules_for(Limits(message_bytes=1)).part == max(protocol.MAX_HEADER_BYTES, (16 << 20) + 1)
