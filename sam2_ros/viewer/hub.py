"""Connects the ROS thread with the browsers' sessions in the event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from operator import methodcaller
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, ShutdownException, SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from sam2_ros.viewer.discovery import find_sources
from sam2_ros.viewer.page_commands import BadCommand
from sam2_ros.viewer.session import Browser
from sam2_ros.viewer.tracked_camera import Camera

DISCOVERY_S = 0.5  # between two reads of the ROS graph
MAX_CAMERAS = 64
COMMAND_THREADS = 4  # wait for services; pictures are encoded in other threads
_LONGEST_TEXT, _MOST_VALUES = 1000, 200  # of diagnostics
_LEVELS = {b"\x00": "ok", b"\x01": "warn", b"\x02": "error", b"\x03": "stale"}


class RosHub:
    """Owns the ROS node and the list of browsers (:class:`~sam2_ros.viewer.session.Hub`)."""

    def __init__(self, only: str = "", image_topic: str = "", max_side: int = 1280) -> None:
        """``only`` and ``image_topic`` as for :func:`find_sources`; ``max_side``: of the pictures, in pixels."""
        self.cameras: dict[str, Camera] = {}
        self._only, self._image_topic, self._max_side = only, image_topic, max_side
        self._loop = asyncio.get_running_loop()
        self._sessions: frozenset[Browser] = frozenset()  # replaced, never changed: the ROS thread reads it
        self._commands = ThreadPoolExecutor(COMMAND_THREADS, "command")
        self._context = Context()
        rclpy.init(args=[], context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self._node = rclpy.create_node("sam2_ros_viewer", context=self._context, start_parameter_services=False)
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._node.create_timer(DISCOVERY_S, self._discover, clock=steady)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, name="ros", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._executor.shutdown(timeout_sec=2.0)
        self._context.try_shutdown()
        self._commands.shutdown(wait=False, cancel_futures=True)
        self._thread.join(5.0)
        self._node.destroy_node()

    def join(self, session: Browser) -> None:
        self._sessions |= {session}

    def leave(self, session: Browser) -> None:
        self._sessions -= {session}

    def camera_names(self) -> list[str]:
        return sorted(self.cameras)

    def now(self) -> int:
        """Nanoseconds of the system's clock, which stamps the images."""
        return int(self._node.get_clock().now().nanoseconds)

    def log(self, text: str) -> None:
        """Writes an error into the log, at most one in five seconds."""
        self._node.get_logger().error(text[:_LONGEST_TEXT], throttle_duration_sec=5.0)

    async def call(self, command: dict[str, Any]) -> dict[str, object]:
        """Calls a service of the camera's node and waits for the response.

        Raises:
            BadCommand: the command is invalid.
            ConnectionError: the node is not there.
        """
        name = str(command.get("camera", ""))
        camera = self.cameras.get(name)
        if camera is None:
            raise BadCommand(f"no camera '{name[:100]}'; tracked: {', '.join(self.camera_names()) or 'none'}")
        future = await self._loop.run_in_executor(self._commands, camera.services.call, command)
        return await asyncio.wrap_future(future)

    def _spin(self) -> None:
        """The ROS thread. A message or a node that makes a callback fail does not end it."""
        while self._context.ok():
            try:
                self._executor.spin()
            except (ExternalShutdownException, ShutdownException):
                return
            except Exception as error:
                self.log(f"an error in a callback: {type(error).__name__}: {error}")
                time.sleep(0.01)  # if it comes at once again

    def _discover(self) -> None:
        """In the ROS thread: finds new cameras, removes those that are gone, and follows their image topics."""
        found = find_sources(self._node, self._only, self._image_topic)[:MAX_CAMERAS]
        sources = {source.name: source for source in found}
        before = self.cameras
        self.cameras = {  # a new dictionary: the event loop may read the old one
            name: before.get(name) or Camera(self._node, source, self._max_side, self._wake)
            for name, source in sources.items()
        }
        watched = any(session.watching for session in self._sessions)  # also for the thumbnails
        for name, camera in self.cameras.items():
            camera.follow(sources[name], watched)
        for name in before.keys() - sources.keys():
            before[name].close()
        if before.keys() != sources.keys():
            self._tell_all(methodcaller("send", {"type": "cameras", "cameras": self.camera_names()}))

    def _on_diagnostics(self, array: DiagnosticArray) -> None:
        names = {camera.source.prefix: name for name, camera in self.cameras.items()}
        for status in array.status:
            if name := names.get(status.hardware_id):
                message = {
                    "type": "diagnostics", "camera": name, "level": _LEVELS.get(status.level, "stale"),
                    "message": status.message[:_LONGEST_TEXT],
                    "values": {v.key[:_LONGEST_TEXT]: v.value[:_LONGEST_TEXT] for v in status.values[:_MOST_VALUES]},
                }  # fmt: skip
                self._tell_all(methodcaller("send", message))

    def _wake(self) -> None:
        self._tell_all(methodcaller("wake"))

    def _tell_all(self, tell: Callable[[Browser], None]) -> None:
        """Calls ``tell`` for every session, in the event loop."""

        def run() -> None:
            for session in self._sessions:
                tell(session)

        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(run)
