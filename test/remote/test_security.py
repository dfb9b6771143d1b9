"""Keys: who has none, a wrong one, or one that the server does not know gets nowhere, and is counted."""

from __future__ import annotations

import os
import shutil
import time
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from served import PATIENCE, ServerProcess, connected, picture, serving

from sam2_ros.cli.main import main
from sam2_ros.inference.backend import FrameDropped
from sam2_ros.remote.client import ClientKeys
from sam2_ros.remote.connection import LinkDown
from sam2_ros.remote.keys import load_public, load_secret, new_keys
from sam2_ros.remote.server import Server, client_keys
from sam2_ros.remote.server.security import Security, check_endpoints, is_private


class Keyring:
    """A server's keys, a client's that it knows, and a stranger's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("server", "robot", "stranger", "other_server"):
            assert main(["keys", "new", name, "--dir", str(folder)]) == 0
        self.clients = folder / "clients"
        self.clients.mkdir()
        shutil.copy(folder / "robot.key", self.clients)

    def security(self) -> Security:
        return Security(self.folder / "server.key_secret", self.clients)

    def client(self, name: str, server: str = "server") -> ClientKeys:
        return ClientKeys(str(self.folder / f"{name}.key_secret"), str(self.folder / f"{server}.key"))


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return Keyring(tmp_path)


def rejected(server: Server) -> float:
    samples = next(iter(server.metrics.rejected.collect())).samples
    return sum(sample.value for sample in samples if sample.name.endswith("_total"))


def wait_until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("endpoint", "private"),
    [
        ("ipc:///run/sam2", True),
        ("tcp://127.0.0.1:5555", True),
        ("tcp://127.1.2.3:*", True),
        ("tcp://[::1]:5555", True),
        ("tcp://localhost:5555", True),
        ("tcp://192.168.1.20:5555", False),
        ("tcp://10.0.0.1:5555", False),
        ("tcp://172.16.0.9:5555", False),
        ("tcp://169.254.1.1:5555", False),
        ("tcp://[fe80::1]:5555", False),
        ("tcp://[fd00::1]:5555", False),
        ("tcp://0.0.0.0:5555", False),
        ("tcp://[::]:5555", False),
        ("tcp://*:5555", False),
        ("tcp://eth0:5555", False),
        ("tcp://robot:5555", False),
        ("tcp://8.8.8.8:5555", False),
    ],
)
def test_only_this_machine_reaches_a_private_endpoint(endpoint: str, private: bool) -> None:
    assert is_private(endpoint) is private
    if private:
        return check_endpoints([endpoint], None, insecure=False)
    check_endpoints([endpoint], None, insecure=True)
    with pytest.raises(ValueError, match="can be reached from other machines"):
        check_endpoints(["ipc:///run/sam2", endpoint], None, insecure=False)


def test_a_known_client_is_served(keyring: Keyring) -> None:
    with (
        serving(security=keyring.security()) as server,
        connected(server, client_keys=keyring.client("robot")) as client,
    ):
        client.connect(PATIENCE)
        assert client.step(picture(), 5).stamp == 5
        assert rejected(server) == 0


@pytest.mark.parametrize("who", ["no key", "unknown client", "wrong server key"])
def test_anybody_else_is_not_and_is_counted(keyring: Keyring, who: str) -> None:
    keys = {
        "no key": None,
        "unknown client": keyring.client("stranger"),
        "wrong server key": keyring.client("robot", "other_server"),
    }[who]
    with serving(security=keyring.security()) as server, connected(server, client_keys=keys) as client:
        with pytest.raises(LinkDown, match=r"asks for keys|this client's key|no answer to 'ping'"):
            client.connect()
        wait_until(lambda: rejected(server) > 0)
        assert server.health()["streams"] == 0
        assert server.metrics.registry.get_sample_value("sam2_ros_requests_total", {"op": "ping"}) is None


def test_a_client_may_be_let_in_and_shut_out_while_the_server_runs(keyring: Keyring) -> None:
    with serving(security=keyring.security()) as server:
        with connected(server, client_keys=keyring.client("stranger")) as client:
            with pytest.raises(LinkDown):
                client.connect()
            shutil.copy(keyring.folder / "stranger.key", keyring.clients)
            client.connect(PATIENCE)
        (keyring.clients / "stranger.key").unlink()
        with (
            connected(server, client_keys=keyring.client("stranger")) as client,
            pytest.raises(LinkDown),
        ):
            client.connect()


def test_a_removed_key_ends_its_connection_and_no_other(keyring: Keyring) -> None:
    shutil.copy(keyring.folder / "stranger.key", keyring.clients)
    with (
        serving(security=keyring.security()) as server,
        connected(server, client_keys=keyring.client("stranger")) as removed,
        connected(server, client_keys=keyring.client("robot")) as robot,
    ):
        removed.connect(PATIENCE)
        robot.connect(PATIENCE)
        assert removed.step(picture(), 1).stamp == robot.step(picture(), 1).stamp == 1
        (keyring.clients / "stranger.key").unlink()
        stamps = iter(range(2, 1_000_000))

        def is_out() -> bool:
            try:
                removed.step(picture(), next(stamps))
            except FrameDropped:
                return True
            return False

        wait_until(is_out)
        wait_until(lambda: server.health()["streams"] == 1)
        with pytest.raises(FrameDropped):
            removed.step(picture(), next(stamps))
        assert robot.step(picture(), 2).frame_index == 1, "the same stream, without a gap"


def test_a_folder_that_can_not_be_read_removes_nobody(
    keyring: Keyring, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr(client_keys, "time", SimpleNamespace(monotonic=lambda: now))
    folder, robot = client_keys.ClientKeysFolder(keyring.clients), load_public(keyring.folder / "robot.key")
    assert folder.accepts(robot) and folder.keeps(robot)
    shutil.move(keyring.clients, keyring.folder / "away")
    now = 110.0
    assert folder.keeps(robot) and not folder.accepts(robot)
    now = 120.0
    assert folder.keeps(robot) and not folder.accepts(robot)
    assert capsys.readouterr().err.count("no new client is accepted") == 1
    shutil.move(keyring.folder / "away", keyring.clients)
    assert folder.accepts(robot)
    (keyring.clients / "robot.key").unlink()
    now = 121.5
    assert folder.keeps(robot) and not folder.accepts(robot)  # its file may just be written anew
    now = 130.0
    assert not folder.keeps(robot)


def test_a_damaged_key_file_is_named_and_harms_no_other(keyring: Keyring, capsys: pytest.CaptureFixture[str]) -> None:
    (keyring.clients / "half.key").write_text("curve\n    public-k")
    (keyring.clients / "short.key").write_text('curve\n    public-key = "abcde"\n')
    (keyring.clients / "large.key").write_bytes(bytes(1 << 20))
    os.mkfifo(keyring.clients / "pipe.key")
    (keyring.clients / "nowhere.key").symlink_to("gone")
    with (
        serving(security=keyring.security()) as server,
        connected(server, client_keys=keyring.client("robot")) as client,
    ):
        client.connect(PATIENCE)
        assert client.step(picture(), 5).stamp == 5
        said = capsys.readouterr().err
        for name in ("half", "short", "large", "pipe", "nowhere"):
            assert said.count(f"{name}.key is no key file") == 1
        shutil.copy(keyring.folder / "stranger.key", keyring.clients / "half.key")  # written to its end
        with connected(server, client_keys=keyring.client("stranger")) as late:
            late.connect(PATIENCE)


def test_keys_are_files_that_only_their_owner_reads(tmp_path: Path) -> None:
    public, secret = new_keys(tmp_path / "new", "robot")
    assert load_secret(secret)[0] == load_public(public)
    assert secret.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ValueError, match="exists; delete it"):
        new_keys(tmp_path / "new", "robot")
    with pytest.raises(ValueError, match="accepted: letters"):
        new_keys(tmp_path, "../robot")
    with pytest.raises(ValueError, match="public key only"):
        load_secret(public)
    secret.chmod(0o644)
    with pytest.raises(ValueError, match="chmod 600"):
        load_secret(secret)
    with pytest.raises(ValueError, match="no key file"):
        load_public(tmp_path / "nothing.key")


def test_a_server_process_lets_its_client_in_and_counts_the_others(keyring: Keyring) -> None:
    """As the documents say it, on a socket that other machines reach."""
    keys = ["--keys", str(keyring.folder / "server.key_secret"), "--clients", str(keyring.clients)]
    with ServerProcess("--bind", "tcp://0.0.0.0:*", *keys, "--metrics", "127.0.0.1:0") as server:
        assert "clients need a key" in server.text
        assert server.process.stdout is not None
        metrics = f"http://127.0.0.1:{int(server.process.stdout.readline().split()[-1])}/metrics"
        endpoint = server.endpoint.replace("0.0.0.0", "127.0.0.1")

        def counted(name: str) -> float:
            with urllib.request.urlopen(metrics, timeout=PATIENCE) as page:
                lines = [line for line in page.read().decode().splitlines() if line.startswith(name)]
            return sum(float(line.rpartition(" ")[2]) for line in lines)

        def more_than(before: float) -> bool:
            return counted("sam2_ros_rejected_connections_total") > before

        for who in (None, keyring.client("stranger"), keyring.client("robot", "other_server")):
            before = counted("sam2_ros_rejected_connections_total")
            with connected(endpoint, client_keys=who) as client, pytest.raises(LinkDown):
                client.connect()
            wait_until(partial(more_than, before))
        assert counted("sam2_ros_requests_total") == 0, "nothing that they said was read"
        with connected(endpoint, client_keys=keyring.client("robot")) as client:
            client.connect(PATIENCE)
            assert client.step(picture(), 5).stamp == 5
        assert counted("sam2_ros_frames_total") == 1
        assert server.terminate() == 0
