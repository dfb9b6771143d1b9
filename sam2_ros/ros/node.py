"""The lifecycle node ``tracker``: its transitions and the cameras that it serves."""

from __future__ import annotations

import concurrent.futures
import functools
import gc
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

from diagnostic_msgs.msg import DiagnosticStatus
from diagnostic_updater import DiagnosticStatusWrapper
from lifecycle_msgs.srv import ChangeState
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.timer import Timer

from sam2_ros.allocator import give_back_freed_memory
from sam2_ros.inference import BackendFactory, window_side
from sam2_ros.remote.client import NOT_CONNECTED
from sam2_ros.ros.camera_stream import CameraStream
from sam2_ros.ros.diagnostics import publish_diagnostics
from sam2_ros.ros.interface import to_activate
from sam2_ros.ros.node_parameters import NodeParameters
from sam2_ros.ros.parameters import tracker_config
from sam2_ros.text import counted
from sam2_ros.tracking.config import TrackerConfig

T = TypeVar("T")
Transition = Callable[["TrackerNode", LifecycleState], TransitionCallbackReturn]

_SHUTDOWN_GRACE = 5.0  # seconds for a frame or a loading model to end
_END_GRACE = 2.0  # the same where the process ends; launch kills it after 5 s


def _reported(transition: Transition) -> Transition:
    """Logs exceptions of a transition, which rclpy would hide, and returns FAILURE for them."""

    @functools.wraps(transition)
    def run(node: TrackerNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(node, state)
        except Exception as error:
            if not node.context.ok():  # the process ends, and its log goes nowhere
                return TransitionCallbackReturn.FAILURE
            node.get_logger().error(f"{transition.__name__.removeprefix('on_')} failed: {error}")
            node.get_logger().debug(traceback.format_exc())
            return TransitionCallbackReturn.FAILURE

    return run


class TrackerNode(LifecycleNode):
    """Loads one network and tracks in the images of all cameras of the parameter ``cameras``, or of the only one."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__("tracker", **arguments)
        self._settings = NodeParameters(self)
        names = self._settings.names("cameras") or [""]
        self._cameras = [CameraStream(self, self._settings, name) for name in names]
        self._settings.on_tracker_change = self._reconfigure
        self._namesake = ""  # the last warning of one
        tasks = {camera.name or "tracking": functools.partial(self._report, camera) for camera in self._cameras}
        self._diagnostics = publish_diagnostics(self, self._settings.number("diagnostics.period"), tasks)
        self._survive_invalid_transitions()
        if self._settings["autostart"]:
            steady = Clock(clock_type=ClockType.STEADY_TIME)
            self._start: Timer = self.create_timer(0.0, self._bring_up, clock=steady)

    def close(self) -> None:
        """Stops everything, so that the node can be destroyed."""
        for camera in self._cameras:
            camera.stop()
        self._release()

    @_reported
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Checks the parameters, loads and warms up the engine."""
        self._settings.check()
        try:
            factory = self._make_factory()
            futures = [camera.load(factory) for camera in self._cameras]
            for camera, future in zip(self._cameras, futures, strict=True):
                camera.loaded(self._wait_for(future))
        except Exception:
            self._release()
            raise
        self._settings.configured = True
        infos = [future.result() for future in futures]
        known = [info for info in infos if info.device != NOT_CONNECTED]
        if len(known) < len(infos):
            which = "" if not known else f" for {len(infos) - len(known)} of {len(infos)} cameras"
            self.get_logger().warning(
                f"no inference server answers yet at {self._settings.text('inference.endpoint')}{which}; images are "
                "dropped until one does, and /diagnostics says why"
            )
        if not known:
            return TransitionCallbackReturn.SUCCESS
        info = known[0]
        scope = f" for each of {len(futures)} cameras" if len(futures) > 1 else ""
        self.get_logger().info(
            f"model {info.model} on {info.device} ({info.dtype}), {info.image_size} px, room for "
            f"{counted(info.max_objects, 'object')}, memory bank {info.bank_bytes / 1e6:.1f} MB, "
            f"stored frames at most {info.history_bytes / 1e6:.1f} MB{scope}"
        )
        if factory.runtime:
            self.get_logger().info(f"the network is run by {factory.runtime}")
        return TransitionCallbackReturn.SUCCESS

    @_reported
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribes and tracks; objects from before a deactivation are still there."""
        super().on_activate(state)
        for camera in self._cameras:
            camera.activate()
        return TransitionCallbackReturn.SUCCESS

    @_reported
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribes and lets the current frames end; model and objects stay."""
        for camera in self._cameras:
            camera.stop()
        for camera in self._cameras:
            camera.deactivate()
        return super().on_deactivate(state)

    @_reported
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Frees model, memory bank and objects."""
        self._release(forget=True)
        return TransitionCallbackReturn.SUCCESS

    @_reported
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.close()
        return TransitionCallbackReturn.SUCCESS

    @_reported
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.close()
        return TransitionCallbackReturn.SUCCESS  # back to unconfigured

    def _bring_up(self) -> None:
        """Runs once, in the executor. The node does it itself: a request from outside reaches every node of its name,
        and gets lost where one of them has just died."""
        self.destroy_timer(self._start)
        for verb, trigger in (("configure", self.trigger_configure), ("activate", self.trigger_activate)):
            if trigger() is not TransitionCallbackReturn.SUCCESS:
                if self.context.ok():
                    name = self.get_fully_qualified_name()
                    cure = "the line before says why. Fix it and start the node again, or set its parameters and run"
                    self.get_logger().error(f"{name} refused to {verb}; {cure}: {to_activate(name, verb)}")
                return

    def _report(self, camera: CameraStream, status: DiagnosticStatusWrapper) -> DiagnosticStatusWrapper:
        status = camera.report(status)
        if warning := self._namesake_warning():
            status.mergeSummary(DiagnosticStatus.WARN, warning)
        return status

    def _namesake_warning(self) -> str:
        """Whether another node has this one's name, and what to do; logged once."""
        own, before = (self.get_name(), self.get_namespace()), self._namesake
        self._namesake = ""
        if self.get_node_names_and_namespaces().count(own) > 1:
            self._namesake = (
                f"another node is named {self.get_fully_qualified_name()}, and requests reach either of them; give one "
                "another name or namespace, unless it is a dead one, which disappears within 20 s"
            )
        if self._namesake and not before:
            self.get_logger().warning(self._namesake)
        return self._namesake

    def _reconfigure(self, config: TrackerConfig) -> None:
        for camera in self._cameras:
            camera.configure(config)

    def _make_factory(self) -> BackendFactory:
        values, number = self._settings.values, self._settings.number
        name, side = str(values["model.name"]), int(number("model.image_size"))
        ahead = bool(values["model.encode_ahead"])
        return BackendFactory(
            name, str(values["model.device"]), str(values["model.dtype"]), side, int(number("model.threads")),
            together=not values["input.every_frame"], ahead=ahead, runtime=str(values["model.runtime"]),
            window_side=window_side(name, side, tracker_config(values), ahead),
        )  # fmt: skip

    def _wait_for(self, future: concurrent.futures.Future[T]) -> T:
        """Waits for the engine, unless the process shall end."""
        while True:
            try:
                return future.result(timeout=0.1)
            except concurrent.futures.TimeoutError:
                if future.done():
                    raise
                if not self.context.ok():
                    raise InterruptedError("the process shall end") from None

    def _release(self, forget: bool = False) -> None:
        grace = _SHUTDOWN_GRACE if self.context.ok() else _END_GRACE
        for camera in self._cameras:
            camera.release(grace, forget)
        self._settings.configured = False
        gc.collect()
        give_back_freed_memory()

    def _survive_invalid_transitions(self) -> None:
        """Refuses a transition that the current state does not have; rclpy alone would end the process."""
        service = self._service_change_state
        change_state = service.callback

        def answer(request: ChangeState.Request, response: ChangeState.Response) -> ChangeState.Response:
            try:
                return change_state(request, response)
            except Exception as error:
                if self.context.ok():
                    self.get_logger().error(f"transition {request.transition.id} is not possible now: {error}")
                response.success = False
                return response

        service.callback = answer
