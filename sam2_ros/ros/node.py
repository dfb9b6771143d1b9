"""The lifecycle node ``tracker``: wires subscription, engine, services and outputs together."""

from __future__ import annotations

import concurrent.futures
import functools
import gc
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.srv import ChangeState
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from sam2_ros.inference import make_backend
from sam2_ros.inference.backend import Backend, BackendInfo
from sam2_ros.inference.worker import Frame, Processed, Worker
from sam2_ros.ros.depth import DepthInput
from sam2_ros.ros.diagnostics import Diagnostics, Report, Statistics, active_values
from sam2_ros.ros.image_conversion import UnsupportedEncoding
from sam2_ros.ros.image_input import ImageInput
from sam2_ros.ros.node_parameters import NodeParameters
from sam2_ros.ros.outputs import Outputs
from sam2_ros.ros.parameters import tracker_config
from sam2_ros.ros.services import Services
from sam2_ros.ros.start_prompts import StartPrompts
from sam2_ros.tracking.types import PromptCode, PromptError

T = TypeVar("T")
Transition = Callable[["TrackerNode", LifecycleState], TransitionCallbackReturn]

_SHUTDOWN_GRACE = 5.0  # seconds that a frame or a loading model may take to end


def _reported(transition: Transition) -> Transition:
    """Logs what a transition raises, which rclpy would swallow, and makes it a FAILURE."""

    @functools.wraps(transition)
    def run(node: TrackerNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(node, state)
        except Exception as error:
            node.get_logger().error(f"{transition.__name__.removeprefix('on_')} failed: {error}")
            node.get_logger().debug(traceback.format_exc())
            return TransitionCallbackReturn.FAILURE

    return run


class _WorkerListener:
    """Passes on what one worker tells, until the node leaves that worker: its last frame may outlast the grace."""

    def __init__(self, node: TrackerNode) -> None:
        self._node: TrackerNode | None = node

    def leave(self) -> None:
        self._node = None

    def on_processed(self, processed: Processed) -> None:
        if node := self._node:
            node.on_processed(processed)

    def on_changes(self, processed: Processed) -> None:
        if node := self._node:
            node.on_changes(processed)

    def on_failure(self, frame: Frame, error: Exception) -> None:
        if node := self._node:
            node.on_failure(frame, error)


class TrackerNode(LifecycleNode):
    """What its worker tells (``on_processed``, …) comes through a :class:`_WorkerListener`, in the inference thread."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__("tracker", **arguments)
        self._settings = NodeParameters(self)
        self._input = ImageInput(self, self._settings, self._on_frame)
        self._statistics = Statistics()
        self._worker: Worker | None = None
        self._listener: _WorkerListener | None = None
        self._info: BackendInfo | None = None
        self._depth: DepthInput | None = None
        self._outputs: Outputs | None = None
        self._start_prompts: StartPrompts | None = None
        self._active = False
        self._next_id = 1  # outlives the engine: ids are never used again in the node's life
        self._refused_encodings: set[str] = set()
        self._object_services = Services(self, self._settings, self._active_worker)
        self._diagnostics = Diagnostics(self, self._settings, self._report)
        self._survive_invalid_transitions()

    def close(self) -> None:
        """Stops what runs; the node can be destroyed then."""
        self._input.stop()
        self._release()

    # ---- transitions ----

    @_reported
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Checks the parameters, loads and warms up the engine."""
        self._settings.check()
        self._start_prompts = StartPrompts.load(self._settings.text("prompts_file"))
        self._listener = _WorkerListener(self)
        self._worker = Worker(self._make_backend, self._listener)
        try:
            info = self._wait_for(self._worker.start())
            self._depth = DepthInput(self, self._settings) if self._settings["depth.enabled"] else None
            self._outputs = Outputs(self, self._settings, info, self._depth)
        except Exception:
            self._release()
            raise
        self._info = info
        self._settings.configured = True
        self._statistics.clear()
        self._refused_encodings.clear()
        self.get_logger().info(
            f"model {info.model} on {info.device} ({info.dtype}), {info.image_size} px, room for "
            f"{info.max_objects} objects, memory bank {info.bank_bytes / 1e6:.1f} MB, "
            f"stored frames at most {info.history_bytes / 1e6:.1f} MB"
        )
        return TransitionCallbackReturn.SUCCESS

    @_reported
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribes and tracks; objects from before a deactivation are still there."""
        super().on_activate(state)
        assert self._worker is not None and self._start_prompts is not None
        self._statistics.clear()
        self._worker.resume()
        self._start_prompts.apply_to_first_frame(self._worker, self.get_logger())
        self._input.start()
        if self._depth is not None:
            self._depth.start()
        self._active = True
        return TransitionCallbackReturn.SUCCESS

    @_reported
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribes and lets the frame under way end; model and objects stay."""
        self._active = False
        self._input.stop()
        if self._depth is not None:
            self._depth.stop()
        assert self._worker is not None
        self._worker.pause()
        return super().on_deactivate(state)

    @_reported
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Frees model, memory bank and objects."""
        self._release()
        return TransitionCallbackReturn.SUCCESS

    @_reported
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.close()
        return TransitionCallbackReturn.SUCCESS

    @_reported
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.close()
        return TransitionCallbackReturn.SUCCESS  # back to unconfigured

    # ---- what the worker tells ----

    def on_processed(self, processed: Processed) -> None:
        self._statistics.processed(processed)
        if self._outputs is not None and self.context.ok():
            self._outputs.publish_results(processed)

    def on_changes(self, processed: Processed) -> None:
        self._next_id = max(self._next_id, 1 + max(change.object_id for change in processed.result.changes))
        if self._outputs is not None and self.context.ok():
            self._outputs.publish_changes(processed)

    def on_failure(self, frame: Frame, error: Exception) -> None:
        if not self.context.ok():
            return
        self._statistics.failed(error)
        if isinstance(error, UnsupportedEncoding):
            if error.encoding not in self._refused_encodings:
                self._refused_encodings.add(error.encoding)
                self.get_logger().error(str(error))
            return
        self.get_logger().error(
            f"a frame failed: {type(error).__name__}: {error} (told every 5 s at most)", throttle_duration_sec=5.0
        )

    # ---- within ----

    def _make_backend(self) -> Backend:
        values = self._settings.values
        backend = make_backend(
            str(values["model.name"]), str(values["model.device"]), str(values["model.dtype"]),
            tracker_config(values), int(values["model.image_size"]), int(values["model.threads"]),
        )  # fmt: skip
        backend.next_id = self._next_id
        return backend

    def _wait_for(self, future: concurrent.futures.Future[T]) -> T:
        """Waits for the engine, unless the process is told to end."""
        while True:
            try:
                return future.result(timeout=0.1)
            except concurrent.futures.TimeoutError:
                if future.done():
                    raise
                if not self.context.ok():
                    raise InterruptedError("the process was told to end") from None

    def _active_worker(self) -> Worker:
        if not self._active or self._worker is None:
            raise PromptError(PromptCode.NOT_ACTIVE, "the node is not active; configure and activate it first")
        return self._worker

    def _on_frame(self, frame: Frame) -> None:
        self._statistics.arrived(frame.receive_time)
        if self._worker is not None:
            self._worker.submit(frame)

    def _release(self) -> None:
        self._active = False
        if self._worker is not None:
            self._worker.close(_SHUTDOWN_GRACE)
        if self._listener is not None:
            self._listener.leave()
        if self._outputs is not None:
            self._outputs.destroy()
        if self._depth is not None:
            self._depth.destroy()
        self._worker = self._listener = self._info = self._outputs = self._depth = self._start_prompts = None
        self._settings.configured = False
        gc.collect()

    def _report(self) -> Report:
        if self._worker is None or self._info is None:
            return Report(DiagnosticStatus.OK, "not configured", {})
        age = self._input.age()
        values = active_values(self._worker.counters, self._statistics, age, self._info)
        values |= self._depth.values() if self._depth else {}
        if not self._active:
            return Report(DiagnosticStatus.OK, "not active", values)
        complaint = self._input.complaint()
        if complaint:
            return Report(DiagnosticStatus.ERROR, complaint, values)
        if self._statistics.failed_lately():
            return Report(DiagnosticStatus.WARN, f"frames fail: {self._statistics.last_failure}", values)
        return Report(DiagnosticStatus.OK, "tracking", values)

    def _survive_invalid_transitions(self) -> None:
        """Answers "no" to a transition that the present state does not have; rclpy alone would end the process."""
        service = self._service_change_state
        change_state = service.callback

        def answer(request: ChangeState.Request, response: ChangeState.Response) -> ChangeState.Response:
            try:
                return change_state(request, response)
            except Exception as error:
                self.get_logger().error(f"transition {request.transition.id} is not possible now: {error}")
                response.success = False
                return response

        service.callback = answer
