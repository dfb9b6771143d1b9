"""One camera of the node: connects its subscriptions, engine, services and publishers."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

from diagnostic_msgs.msg import DiagnosticStatus
from diagnostic_updater import DiagnosticStatusWrapper
from rclpy.lifecycle import LifecycleNode
from std_msgs.msg import Header

from sam2_ros.inference import Backend, BackendFactory, BackendInfo
from sam2_ros.inference.backend import FrameDropped
from sam2_ros.inference.frames import Frame, Processed, decoded_once
from sam2_ros.inference.live_masks import LiveImage, LiveMasks
from sam2_ros.inference.recovery import SavedObjects
from sam2_ros.inference.restored import Restored
from sam2_ros.inference.worker import Worker
from sam2_ros.remote.client import RemoteBackend
from sam2_ros.ros.depth_input import DepthInput, Space
from sam2_ros.ros.detection_input import DetectionInput
from sam2_ros.ros.diagnostics import Statistics, active_values
from sam2_ros.ros.discovery import discovery_of
from sam2_ros.ros.goals import Goals, Now
from sam2_ros.ros.image_conversion import UnsupportedEncoding
from sam2_ros.ros.image_input import ImageInput
from sam2_ros.ros.input_health import InputHealth
from sam2_ros.ros.interface import TRACKS_LIVE, to_activate
from sam2_ros.ros.node_parameters import NodeParameters
from sam2_ros.ros.parameters import tracker_config
from sam2_ros.ros.publishers import Publishers
from sam2_ros.ros.remote_backend import remote_backend
from sam2_ros.ros.services import Services
from sam2_ros.ros.start_prompts import StartPrompts, prompts_file_of
from sam2_ros.ros.state_keeper import StateKeeper, newest_of, state_path
from sam2_ros.text import counted, printable
from sam2_ros.tracking.prompt_checks import text_problem
from sam2_ros.tracking.types import FrameResult, PromptCode, PromptError

if TYPE_CHECKING:
    from sam2_ros.tracking.config import TrackerConfig

_REPORTS_OF_SILENCE = 3  # diagnostics in a row that say so before the log does: a camera may just begin
_LIVE_GRACE = 1.0  # seconds for an image whose masks are being carried
MAX_REFUSED = 20  # encodings that are logged as refused, once each


class CameraStream:
    """Follows the node's states by :meth:`load`, :meth:`activate`, :meth:`deactivate` and :meth:`release`.

    It is the worker's :class:`~sam2_ros.inference.worker.Listener`: ``on_…`` methods run in the inference thread.

    Args:
        name: becomes part of the names of all topics and services; empty where the node has one camera.
    """

    def __init__(self, node: LifecycleNode, settings: NodeParameters, name: str = "") -> None:
        self.name = name
        self._node = node
        self._settings = settings
        self._statistics = Statistics()
        self.health = InputHealth(self._warn)
        self._input = ImageInput(node, settings, self._on_frame, name)
        self._worker: Worker | None = None
        self._remote: RemoteBackend | None = None
        self._info: BackendInfo | None = None
        self._depth: DepthInput | None = None
        self._detections: DetectionInput | None = None
        self._publishers: Publishers | None = None
        self._start_prompts: StartPrompts | None = None
        self._keeper: StateKeeper | None = None
        self._live: LiveMasks | None = None  # while masks of every image are wanted
        self._answer: FrameResult | None = None  # the engine's newest, also one that a command changed
        self._told: tuple[FrameResult, Space] | None = None  # the same, as published
        self._active = False
        self._silence = "", 0  # why no images come, and how many reports in a row have said so
        self._next_id = 1  # outlives the engine: the node never uses an id twice
        self._refused_encodings: set[str] = set()
        self._discovery = discovery_of(settings, self._active_worker, lambda: self._active, self._warn)
        self._services = Services(node, settings, self._active_worker, self._discovery.ask, name)
        self._goals = Goals(node, self._services, self._now, name)
        self._newest_stamp = 0  # ns, of the camera's images

    def load(self, factory: BackendFactory) -> Future[BackendInfo]:
        """Starts to build the engine in a thread of its own.

        Raises:
            UserError, ValueError: the prompts file can't be used.
        """
        self._start_prompts = StartPrompts(prompts_file_of(self._settings.text("prompts_file"), self.name))
        config = tracker_config(self._settings.values)
        queue = int(self._settings.number("input.queue")) if self._settings["input.every_frame"] else 0
        saved, last = self._restore()
        make = functools.partial(self._make_backend, factory, config, saved)
        self._worker = Worker(make, self, self.name, queue, last=last)
        return self._worker.start()

    def _restore(self) -> tuple[SavedObjects | None, Processed | None]:
        """The objects of an earlier process, and its newest frame, from ``state_file``."""
        path = state_path(self._settings.text("state_file"), self.name)
        if path is None:
            return None, None
        file = f"state_file {path}"
        self._keeper = StateKeeper(path, lambda error: self._note_failure(file, "written", error))
        state = self._keeper.load(self._warn)
        self._keeper.start()
        if state is None:
            return None, None
        saved = state.saved
        self._next_id = max(self._next_id, saved.next_id)
        if saved.newest.objects:
            self._start_prompts = StartPrompts("")  # an earlier process has applied them
        told = f"{file}: {counted(len(saved.newest.objects), 'object')} brought back, ids go on from {self._next_id}"
        self._node.get_logger().info(told)
        return saved, newest_of(state)

    def loaded(self, info: BackendInfo) -> None:
        """Makes the publishers once the engine is built.

        Raises:
            ValueError: ``depth.target_frame`` is set, and tf2 is not installed.
        """
        self._depth = DepthInput(self._node, self._settings, self.name) if self._settings["depth.enabled"] else None
        if self._settings["detections.enabled"] and self._worker is not None:
            self._detections = DetectionInput(self._node, self._settings, self._worker, self.name)
        self._publishers = Publishers(self._node, self._settings, info, self._depth, self.name, self._output_failed)
        self._info = info
        self._statistics.clear()
        self._refused_encodings.clear()

    def activate(self) -> None:
        """Subscribes and tracks; objects from before a deactivation are still there."""
        assert self._worker is not None and self._start_prompts is not None
        self._statistics.clear()
        self.health.clear()
        self._worker.resume()
        self._start_prompts.apply_to_first_frame(self._worker, self._node.get_logger())
        for part in self._inputs():
            part.start()
        self._active = True

    def configure(self, config: TrackerConfig) -> None:
        """Changes the engine's settings, all of them between two frames."""

        def report(done: Future[None]) -> None:
            if error := done.exception():
                self._warn(f"the engine does not take the new settings: {error}")

        if self._worker is not None:
            self._worker.call(lambda backend: backend.configure(config)).add_done_callback(report)

    def deactivate(self) -> None:
        """Unsubscribes and lets the current frame end; model and objects stay."""
        self.stop()
        assert self._worker is not None
        self._worker.pause()

    def stop(self) -> None:
        """Takes no more images."""
        self._active = False
        self._end_live()
        for part in self._inputs():
            part.stop()

    def release(self, grace: float, forget: bool = False) -> None:
        """Frees memory bank and objects. The current frame gets ``grace`` seconds to end.

        Unless they are to be forgotten, the objects stay in ``state_file`` for the next process.
        """
        self.stop()
        if self._worker is not None:
            self._worker.close(grace)
        if self._keeper is not None:
            self._keeper.close(forget, self._next_id)
            self._keeper = None
        if self._publishers is not None:
            self._publishers.destroy()
        if self._depth is not None:
            self._depth.destroy()
        self._worker = self._info = self._publishers = self._start_prompts = self._depth = self._detections = None
        self._discovery.forget()
        self._answer = self._told = None

    def on_processed(self, processed: Processed) -> None:
        self._answer = processed.result  # first, so that live tracks are never behind what is published
        self._statistics.processed(processed)
        if self._publishers is not None and self._node.context.ok():
            self._publishers.publish_results(processed)
        self._tell(processed)
        self.health.processed(processed.result.width, processed.result.height)
        self._keep(processed)
        if self._detections is not None:
            self._detections.note(processed)
        self._discovery.note(processed)

    def on_changes(self, processed: Processed) -> None:
        self._next_id = max(self._next_id, 1 + max(change.object_id for change in processed.result.changes))
        if self._publishers is not None and self._node.context.ok():
            self._publishers.publish_changes(processed)

    def on_objects(self, processed: Processed) -> None:
        self._keep(processed)
        self._answer = processed.result
        self._tell(processed)

    def _tell(self, processed: Processed) -> None:
        publishers = self._publishers
        self._told = processed.result, publishers.space if publishers is not None else Space()

    def _keep(self, processed: Processed) -> None:
        if self._keeper is not None:
            self._keeper.note(processed, self._next_id)

    def on_hidden(self, processed: Processed) -> None:
        self._statistics.hidden(processed)
        if self._publishers is not None and self._node.context.ok():
            self._publishers.publish_results(processed)

    def on_restart(self, frame: Frame, reason: str) -> None:
        self.health.restarted(reason)
        if self._detections is not None:
            self._detections.forget()
        self._discovery.forget()

    def on_failure(self, frame: Frame, error: Exception) -> None:
        if not self._node.context.ok():
            return
        self._statistics.failed(error)
        logger, where = self._node.get_logger(), f"camera {self.name}: " if self.name else ""
        if not isinstance(error, UnsupportedEncoding):
            outcome = "was dropped" if isinstance(error, FrameDropped) else "failed"
            problem = f"a frame {outcome}: {type(error).__name__}: {printable(error, 500)} (logged every 5 s at most)"
            logger.error(where + problem, throttle_duration_sec=5.0)
        elif error.encoding not in self._refused_encodings and len(self._refused_encodings) < MAX_REFUSED:
            self._refused_encodings.add(error.encoding)
            logger.error(where + str(error))

    def _output_failed(self, topic: str, error: Exception) -> None:
        """The frame is tracked all the same; only this topic lacks it."""
        self._note_failure(topic, "published", error)

    def _note_failure(self, output: str, done: str, error: Exception) -> None:
        if not self._node.context.ok():
            return
        problem = f"{type(error).__name__}: {' '.join(str(error).split())}"
        self._statistics.output_failed(output, problem)
        where = f"camera {self.name}: " if self.name else ""
        self._node.get_logger().error(
            f"{where}{output} could not be {done}: {problem} (logged every 5 s at most)", throttle_duration_sec=5.0
        )

    def report(self, status: DiagnosticStatusWrapper) -> DiagnosticStatusWrapper:
        """Fills this camera's status for ``/diagnostics``."""
        if self.name:
            status.hardware_id += f"/{self.name}"
        status.summary(*self._summary())
        for key, value in self._values().items():
            status.add(key, f"{value:.3f}" if isinstance(value, float) else str(value))
        return status

    def _summary(self) -> tuple[bytes, str]:
        if self._worker is None or self._info is None:
            return DiagnosticStatus.OK, "not configured"
        if not self._active:
            return DiagnosticStatus.OK, "not active"
        complaint = self._input.complaint()
        reason = complaint.partition(": ")[2]
        self._silence = reason, self._silence[1] + 1 if reason == self._silence[0] else 1
        if complaint:
            if self._silence[1] == _REPORTS_OF_SILENCE:
                self._warn(complaint)
            return DiagnosticStatus.ERROR, complaint
        lost = self._worker.counters.dropped
        if self._settings["input.every_frame"] and lost:
            reason = f"{lost} images were dropped though input.every_frame is set; play slower or raise input.queue"
            return DiagnosticStatus.ERROR, reason
        if self._statistics.failed_lately():
            level = DiagnosticStatus.ERROR if self._statistics.refused else DiagnosticStatus.WARN
            return level, f"frames fail: {self._statistics.last_failure}"
        statistics = self._statistics
        if problem := statistics.output_failure() or self.health.warning() or statistics.live_failure():
            return DiagnosticStatus.WARN, problem
        return DiagnosticStatus.OK, "tracking"

    def _values(self) -> Mapping[str, object]:
        if self._worker is None or self._info is None:
            return {}
        values = active_values(self._worker.counters, self._statistics, self._input.age(), self._info)
        values |= self._remote.link_values() if self._remote is not None else {}
        for part in (self.health, self._depth, self._detections):
            values |= dict(part.values()) if part else {}
        return values

    def _inputs(self) -> list[ImageInput | DepthInput | DetectionInput]:
        return [part for part in (self._input, self._depth, self._detections) if part is not None]

    def _warn(self, problem: str) -> None:
        self._node.get_logger().warning(f"camera {self.name}: {problem}" if self.name else problem)

    def _make_backend(self, factory: BackendFactory, config: TrackerConfig, saved: SavedObjects | None) -> Backend:
        self._remote = remote_backend(self._settings.values, self.name, config, saved)
        backend: Backend = self._remote or factory.make(config)
        if saved is not None and self._remote is None:
            backend = Restored(backend, saved)
        backend.next_id = self._next_id
        return backend

    def _active_worker(self) -> Worker:
        if not self._active or self._worker is None:
            begin = "configure" if self._worker is None else "activate"
            cure = to_activate(self._node.get_fully_qualified_name(), begin)
            raise PromptError(PromptCode.NOT_ACTIVE, f"the node is not active; run: {cure}")
        return self._worker

    def _now(self) -> Now:
        result, space = self._told or (None, Space())
        return Now(self._active, result, space, self._newest_stamp)

    def _on_frame(self, frame: Frame) -> None:
        self._newest_stamp = frame.stamp
        if problem := text_problem(frame.source.frame_id):  # it would go out with every message

            def refuse() -> NoReturn:
                raise ValueError(f"the image's frame_id {problem}")

            frame = replace(frame, decode=refuse, source=Header(stamp=frame.source.stamp))
        self._statistics.arrived(frame.receive_time)
        self.health.arrived(frame.stamp, frame.source.frame_id, frame.encoding)
        if self._live_wanted():
            assert self._live is not None
            if not self._settings["input.every_frame"]:  # with it, decoded images would fill the engine's queue
                frame = decoded_once(frame)
            self._live.submit(frame)
        if self._worker is not None:
            self._worker.jump_back = self._settings.number("input.jump_back")
            self._worker.submit(frame)

    def _live_wanted(self) -> bool:
        """Whether somebody needs masks for every image; starts or ends the thread that makes them."""
        wanted = self._active and self._publishers is not None and self._publishers.live_wanted
        if wanted and self._live is None:
            self._live = LiveMasks(lambda: self._answer, self._publish_live, self._live_failed, self.name)
        elif not wanted:
            self._end_live()
        return wanted

    def _end_live(self) -> None:
        if self._live is not None:
            self._live.close(_LIVE_GRACE)
            self._live = None
            self._statistics.not_carried()

    def _publish_live(self, live: LiveImage) -> None:
        worker, publishers = self._worker, self._publishers
        if worker is not None and publishers is not None and self._node.context.ok():
            publishers.publish_live(live, worker.counters)
            self._statistics.carried(live)

    def _live_failed(self, frame: Frame, error: Exception) -> None:
        if not isinstance(error, UnsupportedEncoding):  # which the engine reports
            self._output_failed(TRACKS_LIVE.name, error)
