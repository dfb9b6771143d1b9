"""What the page is told when the tracker has not discovered the page's clients."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor

from sam2_ros.srv import RemoveObject
from sam2_ros.viewer import service_calls
from sam2_ros.viewer.service_calls import ServiceCalls


def test_nothing_is_sent_whose_answer_could_get_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server has no lifecycle service, so that nobody can tell whether it knows the client."""
    monkeypatch.setattr(service_calls, "_DISCOVERY_S", 0.5)
    heard = []

    def remove(request: RemoveObject.Request, response: Any) -> Any:
        heard.append(request.object_id)
        response.success = True
        return response

    context = Context()
    rclpy.init(context=context)
    server, page = (rclpy.create_node(name, context=context) for name in ("deaf_tracker", "page"))
    executor = SingleThreadedExecutor(context=context)
    for node in (server, page):
        executor.add_node(node)
    server.create_service(RemoveObject, "/deaf/remove_object", remove)
    spinning = threading.Thread(target=executor.spin)
    spinning.start()
    calls = ServiceCalls(page, "/deaf")
    try:
        for _ in range(2):  # it asks again whether the server knows it
            with pytest.raises(ConnectionError, match="does not answer yet, so nothing was sent; try again"):
                calls.call({"type": "remove", "object_id": 1})
        assert not heard
    finally:
        calls.close()
        executor.shutdown()
        spinning.join()
        for node in (server, page):
            node.destroy_node()
        rclpy.shutdown(context=context)
