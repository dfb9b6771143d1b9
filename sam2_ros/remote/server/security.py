"""Who may connect: clients with a listed CURVE key, or everyone where only this machine reaches the server."""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import zmq
from zmq.auth.thread import ThreadAuthenticator
from zmq.utils.monitor import recv_monitor_message

from sam2_ros.remote.keys import load_secret
from sam2_ros.remote.server.client_keys import ClientKeysFolder
from sam2_ros.remote.server.metrics import Metrics

_FAILED = {
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "handshake",
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "protocol",
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "unknown key",
}
_DOMAIN = "sam2_ros"


class Security:
    """CURVE for a server's socket, with a list of clients.

    Args:
        secret_file: the server's keys (``NAME.key_secret``).
        clients: folder with the public keys (``*.key``) of accepted clients. Keys can be added and removed while the
            server runs.

    Raises:
        ValueError: a file or the folder can't be used.
    """

    def __init__(self, secret_file: str | Path, clients: str | Path) -> None:
        self._public, self._secret = load_secret(secret_file)
        self._clients = ClientKeysFolder(clients)

    def callback(self, domain: str, key: bytes) -> bool:
        """Whether the client with this public key (Z85) is accepted; called by pyzmq's authenticator."""
        return self._clients.accepts(key)

    def keeps(self, key: str) -> bool:
        """Whether a connected client may stay; ``key`` as :func:`key_of` says."""
        return self._clients.keeps(key.encode())

    def apply(self, context: zmq.Context[Any], socket: zmq.Socket[Any], metrics: Metrics) -> Callable[[], None]:
        """Configures ``socket`` before it is bound, and counts rejected connections. Call what it returns before the
        socket is closed."""
        authenticator = ThreadAuthenticator(context)
        authenticator.start()
        authenticator.configure_curve_callback(_DOMAIN, self)
        socket.curve_server = True
        socket.curve_publickey, socket.curve_secretkey = self._public, self._secret
        socket.zap_domain = _DOMAIN.encode()
        monitor = socket.get_monitor_socket(sum(_FAILED) | zmq.EVENT_MONITOR_STOPPED)
        watcher = threading.Thread(target=_count, args=(monitor, metrics), name="security", daemon=True)
        watcher.start()

        def end() -> None:
            socket.disable_monitor()
            watcher.join()
            authenticator.stop()

        return end


def key_of(frame: zmq.Frame) -> str:
    """The public key (Z85) of the client that sent a frame; empty without keys."""
    try:
        return str(frame.get("User-Id"))
    except zmq.ZMQError:
        return ""


def _count(monitor: zmq.Socket[Any], metrics: Metrics) -> None:
    while (event := zmq.Event(recv_monitor_message(monitor)["event"])) is not zmq.Event.MONITOR_STOPPED:
        metrics.rejected.labels(_FAILED[event]).inc()
    monitor.close()


def check_endpoints(endpoints: Sequence[str], security: Security | None, insecure: bool) -> None:
    """
    Raises:
        ValueError: an endpoint can't be used, or other machines could reach it without keys.
    """
    for endpoint in endpoints:
        if not is_private(endpoint) and security is None and not insecure:
            raise ValueError(
                f"{endpoint} can be reached from other machines, and there are no keys; give --keys and --clients "
                "(made with: sam2_ros keys new), bind to ipc:// or tcp://127.0.0.1, or say --insecure"
            )


def check_page_address(host: str, port: int, insecure: bool) -> None:
    """
    Raises:
        ValueError: other machines could reach the page of metrics, which knows no keys.
    """
    if not is_private(f"tcp://{f'[{host}]' if ':' in host else host}:{port}") and not insecure:
        raise ValueError(
            f"--metrics {host}:{port} can be reached from other machines, and the page asks for no keys; "
            "use 127.0.0.1 with a tunnel, or say --insecure"
        )


def is_private(endpoint: str) -> bool:
    """Whether only this machine reaches an endpoint.

    Raises:
        ValueError: a server can't be bound to it.
    """
    accepted = "accepted: ipc:///PATH, tcp://ADDRESS:PORT (port * = a free one)"
    scheme, _, rest = endpoint.partition("://")
    if scheme == "ipc" and rest:
        return True
    host, _, port = rest.rpartition(":")
    if scheme != "tcp" or not host or not (port == "*" or (port.isdigit() and int(port) < 65536)):
        raise ValueError(f"the endpoint is {endpoint!r}; {accepted}")
    host = urlsplit(f"//{host}").hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # *, the name of an interface or of a machine
