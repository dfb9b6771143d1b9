"""What the page asks for, as calls of the node's services."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from rclpy.node import Node
from vision_msgs.msg import Point2D

from sam2_ros.msg import ObjectPrompt, PromptResult
from sam2_ros.ros.client_node import is_acquainted
from sam2_ros.ros.messages import bounding_box, to_time
from sam2_ros.srv import AddObjects, RefineObject, RemoveObject, RenameObject, Reset

Command = Mapping[str, Any]
MAX_POINTS = 64
MAX_TEXT = 200


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
        request = make(command)
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
    prompt = ObjectPrompt(
        name=_text(command, "name"), label=_text(command, "label"), replace=bool(command.get("replace", False)),
        object_id=_number(command.get("object_id", 0)), candidate=_number(command.get("candidate", 0)),
    )  # fmt: skip
    box = command.get("box")
    if box is not None:
        x0, y0, x1, y1 = _floats(box, 4)
        prompt.box = [bounding_box((min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)))]
    points = command.get("points") or []
    labels = command.get("labels") or []
    if not isinstance(points, list) or not isinstance(labels, list) or len(points) != len(labels):
        raise BadCommand("points and labels are lists of the same length")
    if len(points) > MAX_POINTS:
        raise BadCommand(f"{len(points)} points; accepted: at most {MAX_POINTS}")
    for point, label in zip(points, labels, strict=True):
        x, y = _floats(point, 2)
        prompt.points.append(Point2D(x=x, y=y))
        if label not in (0, 1):
            raise BadCommand(f"label {label!r}; accepted: 1 (on the object) and 0 (not on it)")
        prompt.point_labels.append(label)
    return prompt


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
    object_id = str(_number(command.get("object_id")))
    return RenameObject.Request(object_id=object_id, name=_text(command, "name"), label=_text(command, "label"))


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


def _floats(values: Any, count: int) -> Sequence[float]:
    numbers = isinstance(values, list) and all(isinstance(v, int | float) and abs(v) < 1e6 for v in values)
    if not numbers or len(values) != count:
        raise BadCommand(f"{values!r}; accepted: {count} numbers of pixels")
    return [float(value) for value in values]


def _text(command: Command, key: str) -> str:
    value = command.get(key, "")
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise BadCommand(f"{key} is text of at most {MAX_TEXT} characters")
    return value
