"""Servers for tests: in a thread with any engine, or as a process of their own that can be killed."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from sam2_ros.inference import Backend, NullBackend
from sam2_ros.remote import connection
from sam2_ros.remote.client import RemoteBackend
from sam2_ros.remote.server import Limits, Server
from sam2_ros.remote.server.security import Security
from sam2_ros.tracking import Prompt, PromptRequest, TrackerConfig

PATIENCE = 60.0  # s
LOCAL = "tcp://127.0.0.1:*"
Make = Callable[[TrackerConfig], Backend]


@contextmanager
def serving(
    make: Make = NullBackend, endpoint: str = LOCAL, limits: Limits | None = None, security: Security | None = None
) -> Iterator[Server]:
    """A server in a thread of this process."""
    with running(Server(make, [endpoint], limits, security)) as server:
        yield server


@contextmanager
def running(server: Server) -> Iterator[Server]:
    """Runs ``server`` in a thread."""
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join(PATIENCE)
        assert not thread.is_alive()


@contextmanager
def connected(server: Server | str, config: TrackerConfig | None = None, **options: Any) -> Iterator[RemoteBackend]:
    """A client of ``server``."""
    endpoint = server if isinstance(server, str) else server.endpoints[0]
    client = RemoteBackend([endpoint], config, **{"timeout": PATIENCE, **options})
    try:
        yield client
    finally:
        client.close()


def connect_patiently(client: RemoteBackend) -> None:
    """Connects to the first server; on a busy machine that may take it longer than the second that a ping has."""
    with mock.patch.object(connection, "PING_TIMEOUT", PATIENCE):
        client.connect(PATIENCE)


class ServerProcess:
    """``sam2_ros serve`` in a process of its own, with an engine that needs no torch."""

    def __init__(self, *options: str, model: str = "null") -> None:
        command = [sys.executable, "-m", "sam2_ros", "serve", "--model", model, *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.text = ""
        try:
            while "serving" not in self.text:
                assert self.process.stdout is not None
                ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
                line = self.process.stdout.readline() if ready else ""
                assert line, f"the server did not start: {self.text}"
                self.text += line
        except BaseException:  # also a signal that ends this program
            self.close()
            raise

    @property
    def endpoint(self) -> str:
        return self.text.rpartition(", on ")[2].partition(";")[0]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(PATIENCE)

    def terminate(self) -> int:
        """As a service manager does; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        if self.process.poll() is None:
            self.kill()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def picture(value: int = 0, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    return np.full((height, width, 3), value, np.uint8)


def boxed(x0: float = 10, y0: float = 10, x1: float = 30, y1: float = 40, name: str = "") -> PromptRequest:
    return PromptRequest(Prompt(box=np.array([x0, y0, x1, y1], np.float32)), name=name)


def resident_bytes(pid: int) -> int:
    """Memory of a process."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
