"""Where a server listens: each endpoint belongs to one living server."""

from __future__ import annotations

import os
import resource
import signal
import socket
from pathlib import Path

import pytest
from served import PATIENCE, ServerProcess, connected, picture, serving

from sam2_ros.cli.main import main
from sam2_ros.inference import NullBackend
from sam2_ros.remote.server import Limits, Server, door


def test_a_second_server_does_not_take_the_path_of_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint = f"ipc://{tmp_path / 'sam2'}"
    with serving(endpoint=endpoint) as server, connected(server) as client:
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
