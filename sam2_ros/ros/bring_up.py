"""Configures and activates a lifecycle node each time its process starts, for launch files.

Launch's ``ChangeState`` event sends one request and waits forever. After a crash the services of the dead process stay
visible for seconds, so the request can get lost. This module repeats requests until they are answered.
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

_PATIENCE = 1.0  # seconds until a request is repeated
_STEPS = {
    State.PRIMARY_STATE_UNCONFIGURED: (Transition.TRANSITION_CONFIGURE, "configure"),
    State.PRIMARY_STATE_INACTIVE: (Transition.TRANSITION_ACTIVATE, "activate"),
}


def bring_up(context: LaunchContext, node: LifecycleNode) -> None:
    """Body of an ``OpaqueFunction`` for an ``OnProcessStart`` handler of ``node``; returns at once."""
    event: ProcessStarted = context.locals.event
    driver = _Driver(context, node, event.pid)
    threading.Thread(target=driver.run, name=f"bring up {node.node_name}", daemon=True).start()


class _Driver:
    """Brings one process up, unless it ends or launch shuts down before."""

    def __init__(self, context: LaunchContext, node: LifecycleNode, pid: int) -> None:
        self._context = context
        self._node = node
        self._pid = pid
        self._logger = get_logger("bring_up")
        ros = get_ros_node(context)
        self._get_state = ros.create_client(GetState, f"{node.node_name}/get_state")
        self._change_state = ros.create_client(ChangeState, f"{node.node_name}/change_state")

    def run(self) -> None:
        name = self._node.node_name
        try:
            while self._wanted():
                answer = self._ask(self._get_state, GetState.Request())
                if answer is None:
                    continue
                if answer.current_state.id not in _STEPS:
                    return  # active, or somebody else changes its state
                transition, verb = _STEPS[answer.current_state.id]
                answer = self._change(ChangeState.Request(transition=Transition(id=transition)))
                if answer is not None and not answer.success:
                    cure = f"ros2 lifecycle set {name} {verb}"
                    self._logger.error(f"{name} refused to {verb}; its log says why. Fix it, then: {cure}")
                    return
        except (rclpy_implementation.InvalidHandle, rclpy_implementation.RCLError):
            # Launch destroys its ROS node before it reports that it is shut down.
            self._logger.debug(f"{name} was not brought up: launch has ended")

    def _change(self, request: ChangeState.Request) -> Any:
        """The response to a transition, or None if the request got lost.

        A node that loads its model answers nothing. If it answers ``get_state`` but not the transition, the request is
        lost.
        """
        future = self._change_state.call_async(request)
        while self._wanted() and not self._wait(future):
            idle = self._ask(self._get_state, GetState.Request()) is not None
            if idle and not self._wait(future):
                self._change_state.remove_pending_request(future)
                return None
        return future.result() if future.done() else None

    def _ask(self, client: Any, request: Any) -> Any:
        """The response, or None if none came in time."""
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
