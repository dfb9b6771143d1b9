"""Drives a lifecycle node to active, for launch files: ``configure``, then ``activate``, each time the process starts.

Launch's own ``ChangeState`` event sends one request and waits for its answer for ever. After a crash the dead process'
services stay visible for seconds, so the request can go to nobody; here everything is asked again until it is answered.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from launch import LaunchContext
from launch.events.process import ProcessStarted
from launch.logging import get_logger
from launch_ros.actions import LifecycleNode
from launch_ros.ros_adapters import get_ros_node
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.impl.implementation_singleton import rclpy_implementation

_PATIENCE = 1.0  # seconds until a question is asked again
_STEPS = {
    State.PRIMARY_STATE_UNCONFIGURED: (Transition.TRANSITION_CONFIGURE, "configure"),
    State.PRIMARY_STATE_INACTIVE: (Transition.TRANSITION_ACTIVATE, "activate"),
}


def bring_up(context: LaunchContext, node: LifecycleNode) -> None:
    """Body of an ``OpaqueFunction`` that an ``OnProcessStart`` handler of ``node`` runs; returns at once."""
    event: ProcessStarted = context.locals.event
    driver = _Driver(context, node, event.pid)
    threading.Thread(target=driver.run, name=f"bring up {node.node_name}", daemon=True).start()


class _Driver:
    """Brings one process up; gives up when it has ended or launch shuts down."""

    def __init__(self, context: LaunchContext, node: LifecycleNode, pid: int) -> None:
        self._context = context
        self._node = node
        self._pid = pid
        self._logger = get_logger("bring_up")
        ros = get_ros_node(context)
        self._get_state = ros.create_client(GetState, f"{node.node_name}/get_state")
        self._change_state = ros.create_client(ChangeState, f"{node.node_name}/change_state")

    def run(self) -> None:
        try:
            self._drive()
        except (rclpy_implementation.InvalidHandle, rclpy_implementation.RCLError):
            # Launch ends: it takes its ROS node away before it says that it is shut down.
            self._logger.debug(f"{self._node.node_name} was not brought up: launch has ended")

    def _drive(self) -> None:
        while self._wanted():
            answer = self._ask(self._get_state, GetState.Request())
            if answer is None:
                continue
            if answer.current_state.id not in _STEPS:
                return  # active, or somebody else is at it
            transition, name = _STEPS[answer.current_state.id]
            answer = self._change(ChangeState.Request(transition=Transition(id=transition)))
            if answer is not None and not answer.success:
                self._logger.error(
                    f"{self._node.node_name} refused to {name}; its log says why. Mend it, then: "
                    f"ros2 lifecycle set {self._node.node_name} {name}"
                )
                return

    def _change(self, request: ChangeState.Request) -> Any:
        """The answer to a transition, or None where the request went to nobody.

        A node that loads its model is busy and answers no question; one that answers ``get_state`` while the transition
        stays unanswered has never heard of it.
        """
        future = self._change_state.call_async(request)
        while self._wanted() and not self._wait(future):
            idle = self._ask(self._get_state, GetState.Request()) is not None
            if idle and not self._wait(future):
                self._change_state.remove_pending_request(future)
                return None
        return future.result() if future.done() else None

    def _ask(self, client: Any, request: Any) -> Any:
        """The answer, or None where none came in time."""
        if not client.wait_for_service(timeout_sec=_PATIENCE):
            return None
        future = client.call_async(request)
        if self._wait(future):
            return future.result()
        client.remove_pending_request(future)
        return None

    def _wait(self, future: Any) -> bool:
        deadline = time.monotonic() + _PATIENCE
        while not future.done() and time.monotonic() < deadline and self._wanted():
            time.sleep(0.02)
        return bool(future.done())

    def _wanted(self) -> bool:
        details = self._node.process_details
        return not self._context.is_shutdown and details is not None and details.get("pid") == self._pid
