"""A ROS node for a command that listens for a while or calls a service."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import rclpy
from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import GetState
from rclpy.node import Node, NodeNameNonExistentError
from rclpy.signals import SignalHandlerOptions

from sam2_ros.media.child_process import ChildProcess
from sam2_ros.media.errors import UserError

_ASK_AGAIN_S = 1.0
_LIST = "sam2_ros/srv/ListObjects"


@contextmanager
def client_node(name: str, **options: Any) -> Iterator[Node]:
    """Starts ROS 2, yields a node, and ends both. ``options`` go to ``rclpy.create_node``.

    Python keeps its signal handlers, so that Ctrl-C is a KeyboardInterrupt.
    """
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = rclpy.create_node(name, **options)
        try:
            yield node
        finally:
            node.destroy_node()
    finally:
        rclpy.try_shutdown()


def wait_until_active(node: Node, tracker: str, process: ChildProcess, timeout_s: float) -> None:
    """Waits until launch (``process``) has activated the node ``tracker`` (its full name).

    Raises:
        UserError: it failed, or took too long.
    """
    client = node.create_client(GetState, f"{tracker}/get_state")
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        process.check()
        if problem := process.error():
            raise UserError(f"the tracker did not start: {problem}")
        if client.wait_for_service(0.2):
            answer = client.call_async(GetState.Request())
            rclpy.spin_until_future_complete(node, answer, timeout_sec=2.0)
            if answer.done() and answer.result().current_state.id == State.PRIMARY_STATE_ACTIVE:
                return
        time.sleep(0.1)
    raise UserError(f"the tracker was not active within {timeout_s:.0f} s")


def tracker_client(
    node: Node, service_type: type, tracker: str, name: str, timeout_s: float, turn: Callable[[], None] | None = None
) -> Any:
    """A client of the service ``name`` of ``tracker`` (a node or one of its cameras), once no response can get lost
    (:func:`server_knows_clients`).

    Args:
        turn: lets a little time pass; default: spins ``node`` once.

    Raises:
        UserError: the service is not there in time.
    """
    turn = turn or (lambda: rclpy.spin_once(node, timeout_sec=0.1))
    service = f"{tracker.rstrip('/')}/{name}"
    client = node.create_client(service_type, service)
    deadline = time.monotonic() + timeout_s
    while not client.service_is_ready() and time.monotonic() < deadline:
        turn()
    if not client.service_is_ready():
        raise UserError(f"no service {service} within {timeout_s:g} s; {other_trackers(node, tracker)}")
    if not server_knows_clients(node, tracker, max(1.0, deadline - time.monotonic()), turn):
        raise UserError(f"{service} gave no answer within {timeout_s:g} s (--timeout waits longer)")
    return client


def is_tracker(node: Node, name: str) -> bool:
    """Whether the node ``name`` itself offers a tracker's services, in any of its states."""
    namespace, _, base = name.rpartition("/")
    try:
        offered = node.get_service_names_and_types_by_node(base, namespace or "/")
    except NodeNameNonExistentError:
        return False
    return any(_LIST in types for _, types in offered)


def other_trackers(node: Node, asked: str) -> str:
    """What to do where the tracker ``asked`` is not there: which others there are, or cameras of a node with several.

    ROS 2 counts a service that only a client names, so ``asked`` itself may seem to be there.
    """
    suffix = "/list_objects"
    services = {name for name, types in node.get_service_names_and_types() if name.endswith(suffix) and _LIST in types}
    found = sorted(name.removesuffix(suffix) for name in services - {f"{asked}{suffix}"})
    return f"choose one with --node: {', '.join(found)}" if found else "is the node running? (--node names another one)"


def server_knows_clients(node: Node, server: str, timeout_s: float, turn: Callable[[], None]) -> bool:
    """Waits until the lifecycle node ``server`` has discovered every client of ``node``; False after the timeout.

    ``service_is_ready`` says that the client has found the server, not that the server has found the client. If the
    server responds too early, rmw_fastrtps drops the response after 0.1 s ("client will not receive response") and the
    client waits forever. Repeating the request could carry it out twice.

    DDS announces endpoints in the order in which they were made. So one more client repeats a harmless request: when it
    gets a response, the server has discovered all earlier clients too.

    Args:
        server: full name of the node, or of one of its cameras.
        turn: lets a little time pass: spins ``node`` once, or sleeps if another thread spins it.
    """
    deadline = time.monotonic() + timeout_s
    client = None
    try:
        while time.monotonic() < deadline:
            if client is None and (owner := owner_of(node, server)):
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


def owner_of(node: Node, server: str) -> str:
    """The lifecycle node of this name, else the nearest whose namespace holds it; empty if none was discovered."""
    services = {name for name, _ in node.get_service_names_and_types()}
    name = "/" + server.strip("/")
    while name and f"{name}/get_state" not in services:
        name = name.rpartition("/")[0]
    return name
