"""Inference servers in processes of their own, and clients of them."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

from sam2_ros.remote.client import RemoteBackend
from sam2_ros.tracking import TrackerConfig

CONNECT_S = 5.0  # timeout of a connection


class ServerProcess:
    """``sam2_ros serve``. The constructor returns when the server listens.

    Args:
        endpoint: to bind to; port ``*`` takes a free one, see :attr:`endpoint`.
        model, options: arguments of ``serve``.

    Raises:
        RuntimeError: the server does not start.
    """

    def __init__(self, endpoint: str, model: str = "null", options: Sequence[str] = ()) -> None:
        words = ["serve", "--model", model, "--bind", endpoint, "--metrics", "127.0.0.1:0", *options]
        command = [sys.executable, "-m", "sam2_ros", *words]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        try:
            self.endpoint = self.process.stdout.readline().rpartition(", on ")[2].partition(";")[0]
            if "://" not in self.endpoint:
                raise RuntimeError(f"the server did not start; try it: sam2_ros {shlex.join(words)}")
            self._metrics_port = int(self.process.stdout.readline().split()[-1])
        except BaseException:  # also a signal that ends this program
            self.kill()
            raise

    def batches(self) -> Counter[int]:
        """How many batches of each size the image encoder has processed, from the server's metrics."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._metrics_port}/metrics", timeout=CONNECT_S) as page:
            found = re.findall(r'sam2_ros_encoder_batches_total\{\w+="(\d+)"\} (\S+)', page.read().decode())
        return Counter({int(size): round(float(count)) for size, count in found})

    def kill(self) -> None:
        """Sends SIGKILL."""
        self.end(signal.SIGKILL)

    def end(self, by: signal.Signals = signal.SIGTERM) -> None:
        """Sends a signal and waits for the end."""
        with self.process:  # which closes the pipe
            self.process.send_signal(by)
            self.process.wait()


@contextmanager
def serving(endpoint: str, model: str = "null", options: Sequence[str] = ()) -> Iterator[ServerProcess]:
    """A server while the block runs."""
    server = ServerProcess(endpoint, model, options)
    try:
        yield server
    finally:
        server.end()


@contextmanager
def connected(endpoint: str, config: TrackerConfig | None = None, **options: Any) -> Iterator[RemoteBackend]:
    """A client, connected to a running server."""
    with closing(RemoteBackend([endpoint], config, **options)) as client:
        client.connect(CONNECT_S)
        yield client
