"""What the page asks for, as calls of the node's services."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import numpy as np
from rclpy.node import Node

from sam2_ros.media.errors import UserError
from sam2_ros.media.prompts_file import read_prompt
from sam2_ros.msg import ObjectPrompt, PromptResult
from sam2_ros.ros.client_node import is_acquainted
from sam2_ros.ros.messages import to_time
from sam2_ros.ros.prompt_messages import to_message
from sam2_ros.srv import AddObjects, RefineObject, RemoveObject, RenameObject, Reset
from sam2_ros.tracking.prompt_checks import check_names, check_request
from sam2_ros.tracking.types import AddRequest, PromptError

Command = Mapping[str, Any]


class BadCommand(ValueError):
    """A command that can't be understood; ``str(error)`` says why."""


class Services:
    """The services of one camera, ``prefix``/…. The answers come in the ROS thread."""

    def __init__(self, node: Node, prefix: str) -> None:
        self._node = node
        self._prefix = prefix
        self._clients: dict[str, Any] = {}

    def call(self, command: Command) -> Future[dict[str, object]]:
        """Asks the node; the future holds ``success``, ``message`` and, for a prompt, its result.

        Raises:
            BadCommand: it can't be understood.
            ConnectionError: the node's service is not there.
        """
        kind = command.get("type")
        if kind not in _KINDS:
            raise BadCommand(f"unknown command {kind!r}; accepted: {', '.join(_KINDS)}")
        service_type, name, make, read = _KINDS[kind]
        try:
            request = make(command)
        except (PromptError, UserError) as error:
            raise BadCommand(str(error)) from error
        client = self._clients.get(name)
        known = client is not None
        if client is None:
            client = self._clients[name] = self._node.create_client(service_type, f"{self._prefix}/{name}")
        if not client.wait_for_service(timeout_sec=2.0):
            raise ConnectionError(f"the service {self._prefix}/{name} is not there; is the tracker running?")
        if not known:
            is_acquainted(self._node, self._prefix, 2.0, lambda: time.sleep(0.01))
        answer: Future[dict[str, object]] = Future()

        def done(future: Any) -> None:
            if not answer.cancelled():
                answer.set_result(read(future.result()))

        client.call_async(request).add_done_callback(done)
        return answer

    def close(self) -> None:
        for client in self._clients.values():
            self._node.destroy_client(client)


def _prompt(command: Command) -> ObjectPrompt:
    prompt = read_prompt({key: command.get(key) or None for key in ("box", "points", "labels")})
    box = prompt.box
    if box is not None and box.shape == (4,):  # drawn from any corner to the opposite one
        box = np.sort(box.reshape(2, 2), axis=0).reshape(4)
    candidate, again = _number(command.get("candidate", 0)) or None, bool(command.get("replace", False))
    prompt = replace(prompt, box=box, candidate=candidate, replace=again)
    object_id = _number(command.get("object_id", 0)) or None
    request = AddRequest(prompt, object_id, _text(command, "name"), _text(command, "label"))
    check_request(request)
    return to_message(request)


def _add(command: Command) -> AddObjects.Request:
    request = AddObjects.Request(prompts=[_prompt(command)])
    request.request_header.stamp = to_time(_stamp(command))
    return request


def _refine(command: Command) -> RefineObject.Request:
    request = RefineObject.Request(prompt=_prompt(command))
    request.request_header.stamp = to_time(_stamp(command))
    return request


def _remove(command: Command) -> RemoveObject.Request:
    return RemoveObject.Request(object_id=str(_number(command.get("object_id"))))


def _rename(command: Command) -> RenameObject.Request:
    object_id, name, label = str(_number(command.get("object_id"))), _text(command, "name"), _text(command, "label")
    check_names(name, label)
    return RenameObject.Request(object_id=object_id, name=name, label=label)


def _added(response: AddObjects.Response) -> dict[str, object]:
    return _result(response.results[0]) if response.results else _plain(response)


def _result(result: PromptResult) -> dict[str, object]:
    candidates = [
        {"index": each.index, "area": each.area, "predicted_iou": round(float(each.predicted_iou), 3)}
        for each in result.candidates
    ]
    return {
        "success": result.success, "message": result.message,
        "gone": result.code in (PromptResult.TOO_OLD, PromptResult.NO_FRAME),  # the picture is no longer stored
        "object_id": result.object_id, "name": result.name,
        "area": result.area, "predicted_iou": round(float(result.predicted_iou), 3), "age": result.prompt_age,
        "caught_up": result.frames_caught_up, "candidates": candidates,
    }  # fmt: skip


def _plain(response: Any) -> dict[str, object]:
    return {"success": response.success, "message": response.message}


_KINDS: dict[Any, tuple[Any, str, Callable[[Command], Any], Callable[[Any], dict[str, object]]]] = {
    "add": (AddObjects, "add_objects", _add, _added),
    "refine": (RefineObject, "refine_object", _refine, lambda response: _result(response.result)),
    "remove": (RemoveObject, "remove_object", _remove, _plain),
    "rename": (RenameObject, "rename_object", _rename, _plain),
    "reset": (Reset, "reset", lambda command: Reset.Request(), _plain),
}


def _stamp(command: Command) -> int:
    """Nanoseconds; 0 = the newest image."""
    value = command.get("stamp", "0")
    if not isinstance(value, str) or not value.isdecimal() or int(value) >= 2**31 * 10**9:
        raise BadCommand(f"stamp {value!r}; accepted: nanoseconds as decimal digits")
    return int(value)


def _number(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**32:
        raise BadCommand(f"{value!r}; accepted: a whole number from 0 to {2**32 - 1}")
    return value


def _text(command: Command, key: str) -> str:
    value = command.get(key, "")
    if not isinstance(value, str):
        raise BadCommand(f"{key} is no text")
    return value
