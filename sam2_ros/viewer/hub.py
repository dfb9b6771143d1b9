"""Between ROS and the browsers: the ROS thread on one side, the event loop on the other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Protocol

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from sam2_ros.msg import ObjectEvent
from sam2_ros.ros.messages import to_stamp
from sam2_ros.viewer.commands import BadCommand, Services
from sam2_ros.viewer.discovery import find_sources
from sam2_ros.viewer.tracked_camera import Camera

LOOK_S = 0.5  # between looks at the ROS graph
_LEVELS = {b"\x00": "ok", b"\x01": "warn", b"\x02": "error", b"\x03": "stale"}
_EVENTS = {
    ObjectEvent.ADDED: "added",
    ObjectEvent.STATE_CHANGED: "state",
    ObjectEvent.CORRECTED: "corrected",
    ObjectEvent.REMOVED: "removed",
    ObjectEvent.DROPPED: "dropped",
    ObjectEvent.PROMPT_RELEASED: "released",
}


class Browser(Protocol):
    """What the hub needs of a browser's session; called in the event loop."""

    watching: str  # name of the camera in front

    def wake(self) -> None:
        """A newer picture is there."""

    def tell(self, message: Mapping[str, object]) -> None:
        """Sends something that happened."""


class Hub:
    """Owns the ROS node and knows every browser. Made, used and closed in the event loop."""

    def __init__(self, only: str = "", image_topic: str = "", max_side: int = 1280) -> None:
        """For ``only`` and ``image_topic`` see :func:`find_sources`; ``max_side`` bounds the pictures, in pixels."""
        self.cameras: dict[str, Camera] = {}
        self._only, self._image_topic, self._max_side = only, image_topic, max_side
        self._loop = asyncio.get_running_loop()
        self._sessions: set[Browser] = set()
        self._services: dict[str, Services] = {}
        self._events: dict[str, Any] = {}
        self._context = Context()
        rclpy.init(args=[], context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self._node = rclpy.create_node("sam2_ros_viewer", context=self._context, start_parameter_services=False)
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._node.create_timer(LOOK_S, self._look, clock=steady)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, name="ros", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._executor.shutdown(timeout_sec=2.0)
        self._context.try_shutdown()
        self._thread.join(5.0)
        self._node.destroy_node()

    # ---- for sessions ----

    def join(self, session: Browser) -> None:
        self._sessions.add(session)

    def leave(self, session: Browser, watching: str) -> None:
        self._sessions.discard(session)
        self.watch(watching, "")

    def watch(self, before: str, now: str) -> None:
        """A browser turns from one camera to another; the others are watched for their thumbnails."""
        joins, leaves = (not before and bool(now)), (bool(before) and not now)
        for camera in list(self.cameras.values()):
            camera.watchers += int(joins) - int(leaves and camera.watchers > 0)

    def camera_names(self) -> list[str]:
        return sorted(self.cameras)

    def find(self, name: str) -> Camera | None:
        """The camera of this name, else the first one."""
        return self.cameras.get(name) or next(iter(self.cameras.values()), None)

    def ros_time(self) -> int:
        """Nanoseconds of the clock that stamps the images: the system's."""
        return int(self._node.get_clock().now().nanoseconds)

    async def call(self, command: dict[str, Any]) -> dict[str, object]:
        """Passes a command on to the camera's node and waits for the answer.

        Raises:
            BadCommand: it can't be understood.
            ConnectionError: the node is not there.
        """
        name = str(command.get("camera", ""))
        services = self._services.get(name)
        if services is None:
            raise BadCommand(f"no camera '{name[:100]}'; tracked: {', '.join(self.camera_names()) or 'none'}")
        future = await asyncio.to_thread(services.call, command)
        return await asyncio.wrap_future(future)

    # ---- in the ROS thread ----

    def _spin(self) -> None:
        with suppress(ExternalShutdownException):
            self._executor.spin()

    def _look(self) -> None:
        """Follows cameras that come and go, and what they listen to."""
        sources = {source.name: source for source in find_sources(self._node, self._only, self._image_topic)}
        changed = False
        for name, source in sources.items():
            camera = self.cameras.get(name)
            if camera is None:
                camera = Camera(self._node, source, self._max_side, self._on_shot)
                camera.watchers = sum(1 for session in self._sessions if session.watching)
                self._services[name] = Services(self._node, source.prefix)
                self._events[name] = self._node.create_subscription(
                    ObjectEvent, f"{source.prefix}/events", lambda event, name=name: self._on_event(name, event), 100
                )
                self.cameras = {**self.cameras, name: camera}  # a new dictionary: the event loop reads the old one
                changed = True
            camera.follow(source)
        for name in [name for name in self.cameras if name not in sources]:
            self.cameras[name].close()
            self._services.pop(name).close()
            self._node.destroy_subscription(self._events.pop(name))
            self.cameras = {other: camera for other, camera in self.cameras.items() if other != name}
            changed = True
        if changed:
            self._tell({"type": "cameras", "cameras": self.camera_names()})

    def _on_shot(self, camera: Camera) -> None:
        self._in_loop(self._wake)

    def _on_event(self, camera: str, event: ObjectEvent) -> None:
        self._tell(
            {
                "type": "event", "camera": camera, "event": _EVENTS.get(event.event, "state"), "id": event.id,
                "name": event.name, "state": event.state, "previous": event.previous_state,
                "stamp": str(to_stamp(event.header.stamp)), "reason": event.reason,
            }
        )  # fmt: skip

    def _on_diagnostics(self, array: DiagnosticArray) -> None:
        for status in array.status:
            for camera in self.cameras.values():
                if status.hardware_id == camera.source.prefix:
                    values = {each.key: each.value for each in status.values}
                    level = _LEVELS.get(status.level, "stale")
                    self._tell(
                        {"type": "diagnostics", "camera": camera.source.name, "level": level,
                         "message": status.message, "values": values}
                    )  # fmt: skip

    def _tell(self, message: dict[str, object]) -> None:
        def tell_all() -> None:
            for session in list(self._sessions):
                session.tell(message)

        self._in_loop(tell_all)

    def _wake(self) -> None:
        for session in self._sessions:
            session.wake()

    def _in_loop(self, work: Any) -> None:
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(work)
