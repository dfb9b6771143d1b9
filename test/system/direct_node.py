"""A real, active node in this process whose callbacks are called with messages, without DDS and without an executor."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

PATIENCE = 60.0  # s


class DirectNode:
    """Calls a node's subscriptions and services; every message is serialised on its way, as DDS does it."""

    def __init__(self, node: Any) -> None:
        self._node = node
        self._went_on = threading.Event()
        self._subscriptions = {each.topic_name: each for each in node.subscriptions}
        self._services = {each.srv_name.rpartition("/")[2]: each for each in node.services}
        self._camera = node._cameras[0]
        self.published: list[Any] = []  # the newest result of each image that was tracked
        node.executor = self  # requests wait for futures of this executor

    def add_node(self, node: Any) -> bool:
        return True

    def wake(self) -> None:
        pass

    def remove_node(self, node: Any) -> None:
        pass

    def create_task(self, callback: Callable[..., Any], *arguments: Any) -> None:
        """What an executor does later, from the inference thread."""
        callback(*arguments)
        self._went_on.set()

    def send(self, topic: str, message: Any) -> None:
        """A message on a topic."""
        from rclpy.serialization import deserialize_message, serialize_message

        subscription, data = self._subscriptions[topic], serialize_message(message)
        raw = subscription.raw
        subscription.callback(data if raw else deserialize_message(data, type(message)))

    def call(self, requests: Sequence[tuple[Any, str, Any]]) -> list[Any]:
        """The responses to requests (type, name of the service, request) that come at the same time.

        Raises:
            AssertionError: one is not answered.
        """
        from rclpy.serialization import deserialize_message, serialize_message

        responses = [kind.Response() for kind, _, _ in requests]
        waiting = []
        for (kind, name, request), response in zip(requests, responses, strict=True):
            asked = deserialize_message(serialize_message(request), kind.Request)
            waiting.append(self._services[name].callback(asked, response))
        while waiting := [each for each in waiting if not _ended(each)]:
            assert self._went_on.wait(PATIENCE), "a request is not answered"
            self._went_on.clear()
        for response in responses:
            serialize_message(response)  # which a value that does not fit would break
        return responses

    def wait_for_frame(self, stamp: int) -> None:
        """Waits until the image with this stamp was tracked."""
        done = self._camera._active_worker().call_on_frame(lambda backend: None, stamp, PATIENCE)
        done.result(PATIENCE)

    def status(self) -> dict[str, str]:
        """The values in ``/diagnostics``."""
        return {key: str(value) for key, value in self._camera._values().items()}


def _ended(answer: Any) -> bool:
    try:
        answer.send(None)
    except StopIteration:
        return True
    return False


@contextmanager
def direct_node(namespace: str, **parameters: Any) -> Iterator[DirectNode]:
    """An active node with these parameters."""
    import rclpy
    from rclpy.lifecycle import TransitionCallbackReturn
    from rclpy.parameter import Parameter

    from sam2_ros.ros.node import TrackerNode

    context = rclpy.Context()
    rclpy.init(context=context)
    overrides = [Parameter(name, value=value) for name, value in ({"model.name": "null"} | parameters).items()]
    node = TrackerNode(context=context, namespace=namespace, parameter_overrides=overrides)
    try:
        assert node.on_configure(None) is node.on_activate(None) is TransitionCallbackReturn.SUCCESS
        yield DirectNode(node)
    finally:
        node.close()
        node.destroy_node()
        context.try_shutdown()
