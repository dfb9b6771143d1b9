"""Whether a node knows our clients already: the first answer to a new client is easily lost."""

from __future__ import annotations

import time
from collections.abc import Callable

from lifecycle_msgs.srv import GetState
from rclpy.node import Node

_ASK_AGAIN_S = 1.0


def is_acquainted(node: Node, server: str, timeout_s: float, turn: Callable[[], None]) -> bool:
    """Waits until the lifecycle node ``server`` knows every client that ``node`` has made so far.

    ``service_is_ready`` tells that the client has found the server's two endpoints, not that the server has found the
    client's. If the server answers before it has, rmw_fastrtps waits 0.1 s, drops the answer ("client will not receive
    response") and the client waits for ever; the request was carried out, so asking again could do it twice. DDS
    announces the endpoints of a participant in the order in which they were made. So one more client is made here, and
    it asks a harmless question until it is answered: whoever knows this client knows those before it.

    Args:
        server: full name of the node, or of one of its cameras.
        turn: lets a little time pass: spins ``node`` once, or sleeps where another thread spins it.
    """
    deadline = time.monotonic() + timeout_s
    client = None
    try:
        while time.monotonic() < deadline:
            owner = _owner(node, server) if client is None else ""
            if owner:
                client = node.create_client(GetState, f"{owner}/get_state")
            if client is None or not client.service_is_ready():
                turn()
                continue
            answer = client.call_async(GetState.Request())
            again = min(deadline, time.monotonic() + _ASK_AGAIN_S)
            while not answer.done() and time.monotonic() < again:
                turn()
            if answer.done():
                return True
            client.remove_pending_request(answer)
        return False
    finally:
        if client is not None:
            node.destroy_client(client)


def _owner(node: Node, server: str) -> str:
    """The lifecycle node of this name, or the nearest in whose namespace it lies; empty where none is known yet."""
    services = {name for name, _ in node.get_service_names_and_types()}
    name = "/" + server.strip("/")
    while name and f"{name}/get_state" not in services:
        name = name.rpartition("/")[0]
    return name
