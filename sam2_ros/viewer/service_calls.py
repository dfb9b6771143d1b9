"""Turns the page's commands into calls of the node's services."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any

from rclpy.node import Node
from std_msgs.msg import Header

from sam2_ros.media.errors import UserError
from sam2_ros.msg import ObjectPrompt, PromptResult
from sam2_ros.ros.client_node import server_knows_clients
from sam2_ros.ros.interface import SERVICES
from sam2_ros.ros.messages import to_time
from sam2_ros.ros.prompt_messages import to_message
from sam2_ros.srv import AddObjects, RefineObject, RemoveObject, RenameObject, Reset
from sam2_ros.tracking.types import PromptError
from sam2_ros.viewer.page_commands import BadCommand, Command, read_names, read_number, read_request, read_stamp, short

_DISCOVERY_S = 5.0


class ServiceCalls:
    """Calls the services of one camera, ``prefix/…``. Responses come in the ROS thread."""

    def __init__(self, node: Node, prefix: str) -> None:
        self._node = node
        self._prefix = prefix
        self._clients: dict[str, Any] = {}
        self._known: set[str] = set()  # services whose server knows our client
        self._closed = False
        self._lock = threading.Lock()  # guards all three: commands come in several threads

    def call(self, command: Command) -> Future[dict[str, object]]:
        """The future gets ``success``, ``message`` and, for a prompt, its result.

        Raises:
            BadCommand: the command is invalid.
            ConnectionError: the node's service is not there.
        """
        kind = command.get("type")
        if not isinstance(kind, str) or kind not in _KINDS:
            raise BadCommand(f"unknown command {short(kind)}; accepted: {', '.join(_KINDS)}")
        name, make, read = _KINDS[kind]
        try:
            request = make(command)
        except (PromptError, UserError) as error:
            raise BadCommand(str(error)) from error
        with self._lock:
            if self._closed:
                raise ConnectionError(f"{self._prefix} is gone; is the tracker running?")
            if name not in self._clients:
                self._clients[name] = self._node.create_client(_TYPES[f"~/{name}"], f"{self._prefix}/{name}")
            client = self._clients[name]
        if not client.wait_for_service(timeout_sec=2.0):
            raise ConnectionError(f"the service {self._prefix}/{name} is not there; is the tracker running?")
        if name not in self._known:
            if not server_knows_clients(self._node, self._prefix, _DISCOVERY_S, lambda: time.sleep(0.01)):
                # Sent now, the command could be carried out while its answer gets lost.
                raise ConnectionError(f"{self._prefix} does not answer yet, so nothing was sent; try again")
            with self._lock:
                self._known.add(name)
        answer: Future[dict[str, object]] = Future()
        response = client.call_async(request)

        def done(future: Any) -> None:
            with suppress(InvalidStateError):  # nobody waits any more
                try:
                    answer.set_result(read(future.result()))
                except Exception as error:
                    answer.set_exception(error)

        def given_up(future: Future[dict[str, object]]) -> None:
            if future.cancelled():
                client.remove_pending_request(response)

        response.add_done_callback(done)
        answer.add_done_callback(given_up)
        return answer

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for client in self._clients.values():
                self._node.destroy_client(client)


def _rename(command: Command) -> RenameObject.Request:
    name, label = read_names(command)
    return RenameObject.Request(object_id=_object_id(command), name=name, label=label)


def _added(response: AddObjects.Response) -> dict[str, object]:
    return _result(response.results[0]) if response.results else _plain(response)


def _result(result: PromptResult) -> dict[str, object]:
    candidates = [
        {"index": mask.index, "area": mask.area, "predicted_iou": round(float(mask.predicted_iou), 3)}
        for mask in result.candidates
    ]
    return _plain(result) | {
        "gone": result.code in (PromptResult.TOO_OLD, PromptResult.NO_FRAME),  # the picture is no longer stored
        "object_id": result.object_id, "name": result.name, "area": result.area, "candidates": candidates,
        "predicted_iou": round(float(result.predicted_iou), 3), "age": result.prompt_age,
        "caught_up": result.frames_caught_up,
    }  # fmt: skip


def _plain(response: Any) -> dict[str, object]:
    return {"success": response.success, "message": response.message}


# By command: the service, the function that makes its request, and the one that reads its response.
_KINDS: dict[Any, tuple[str, Callable[[Command], Any], Callable[[Any], dict[str, object]]]] = {
    "add": ("add_objects", lambda c: AddObjects.Request(request_header=_header(c), prompts=[_prompt(c)]), _added),
    "refine": (
        "refine_object",
        lambda c: RefineObject.Request(request_header=_header(c), prompt=_prompt(c)),
        lambda response: _result(response.result),
    ),
    "remove": ("remove_object", lambda c: RemoveObject.Request(object_id=_object_id(c)), _plain),
    "rename": ("rename_object", _rename, _plain),
    "reset": ("reset", lambda command: Reset.Request(), _plain),
}
_TYPES = {service.name: service.ros_type for service in SERVICES}


def _header(command: Command) -> Header:
    return Header(stamp=to_time(read_stamp(command)))


def _prompt(command: Command) -> ObjectPrompt:
    return to_message(read_request(command))


def _object_id(command: Command) -> str:
    return str(read_number(command.get("object_id")))
