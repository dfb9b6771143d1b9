"""One browser: sends as many pictures as it can show, and receives its commands."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from aiohttp import WSMsgType, web

from sam2_ros.viewer.hub import Hub
from sam2_ros.viewer.page_commands import BadCommand
from sam2_ros.viewer.tracked_camera import Camera, Shot

IN_FLIGHT = 2  # pictures sent and not yet painted; after that only the newest is sent
THUMBNAIL_S = 1.0  # between pictures of each camera in the background
ANSWER_S = 30.0
PING_S = 2.0


class Session:
    """Lives as long as a WebSocket, in the event loop."""

    def __init__(self, hub: Hub, socket: web.WebSocketResponse) -> None:
        self._hub = hub
        self._socket = socket
        self.watching = ""  # name of the camera in front
        self._live = False
        self._fresh = asyncio.Event()
        self._room = asyncio.Semaphore(IN_FLIGHT)
        self._sent: dict[int, Shot] = {}  # by number, until the browser has painted it
        self._round_trip = 0.0  # seconds, the shortest recently
        self._thumbnails: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Runs until the browser leaves."""
        self._hub.join(self)
        try:
            await self._send({"type": "cameras", "cameras": self._hub.camera_names()})
            self._start(self._stream())
            self._start(self._ping())
            async for message in self._socket:
                if message.type == WSMsgType.TEXT:
                    self._start(self._receive(message.data))
        finally:
            self._hub.leave(self)
            for task in self._tasks:
                task.cancel()

    def wake(self) -> None:
        self._fresh.set()

    def send(self, message: Mapping[str, object]) -> None:
        self._start(self._send(message))

    def _start(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, message: Mapping[str, object]) -> None:
        with suppress(ConnectionError, RuntimeError):
            await self._socket.send_str(json.dumps(message))

    async def _stream(self) -> None:
        shown = 0
        while not self._socket.closed:
            await self._room.acquire()
            while (picked := self._pick(shown)) is None:
                self._fresh.clear()
                await self._fresh.wait()
            camera, shot = picked
            if camera.source.name == self.watching:
                shown = shot.number
            try:
                packet = await asyncio.to_thread(shot.packet, camera.source.name)
            except ValueError as error:
                self._room.release()
                await self._send({"type": "notice", "level": "error", "message": str(error)})
                await asyncio.sleep(1.0)  # the next image probably fails too
                continue
            self._sent[shot.number] = shot
            try:
                await self._socket.send_bytes(packet)
            except (ConnectionError, RuntimeError):
                return

    def _pick(self, shown: int) -> tuple[Camera, Shot] | None:
        """The next picture to send: the newest of the camera in front, or sometimes one of another camera."""
        now = time.monotonic()
        for camera in self._hub.cameras.values():
            name = camera.source.name
            shot = camera.shot(self._live)
            if shot is None or shot.number in self._sent:
                continue
            if name == self.watching:
                if shot.number > shown:
                    return camera, shot
            elif now - self._thumbnails.get(name, 0.0) > THUMBNAIL_S:
                self._thumbnails[name] = now
                return camera, shot
        return None

    async def _ping(self) -> None:
        while not self._socket.closed:
            await self._send({"type": "ping", "sent": time.monotonic_ns()})
            await asyncio.sleep(PING_S)

    async def _receive(self, text: str) -> None:
        received = time.monotonic_ns()
        try:
            message = json.loads(text)
            if not isinstance(message, dict):
                raise ValueError("an object with a type is expected")
        except ValueError as error:
            await self._send({"type": "answer", "success": False, "message": f"not understood: {error}"})
            return
        kind = message.get("type")
        if kind == "painted":
            await self._painted(message, received)
        elif kind == "pong":
            with suppress(TypeError, ValueError):
                trip = max(0.0, (received - int(message.get("sent", received))) / 1e9)
                self._round_trip = min(trip, self._round_trip * 1.5) if self._round_trip else trip
        elif kind == "watch":
            await self._watch(message)
        else:
            await self._command(message)

    async def _painted(self, message: dict[str, Any], received: int) -> None:
        """After the browser has painted a picture: makes room for the next one and reports the latency."""
        number = message.get("number")
        shot = self._sent.pop(number, None) if isinstance(number, int) else None
        if shot is None:
            return
        self._room.release()
        if message.get("skipped") is True:
            return
        back_ms = self._round_trip * 1e3 / 2  # the way of this message
        age_ms = (self._hub.ros_time() - shot.stamp) / 1e6 - back_ms
        latency = {
            "number": shot.number,
            "screen_ms": round((received - shot.arrived) / 1e6 - back_ms, 1),  # since the viewer received the image
            # Since its stamp, if stamps are of this machine's time, not of a recording.
            "glass_ms": round(age_ms, 1) if 0 <= age_ms < 10_000 else None,
            "round_trip_ms": round(self._round_trip * 1e3, 2),
        }
        await self._send({"type": "latency", **latency})

    async def _watch(self, message: dict[str, Any]) -> None:
        cameras = self._hub.cameras
        camera = cameras.get(str(message.get("camera", ""))) or next(iter(cameras.values()), None)
        self._live = message.get("live") is True
        if camera is not None:
            self.watching = camera.source.name
            history = [[str(stamp), states] for stamp, _, states in camera.history]
            await self._send({"type": "history", "camera": self.watching, "frames": history})
        self._fresh.set()

    async def _command(self, message: dict[str, Any]) -> None:
        answer: dict[str, object] = {"success": False}
        try:
            answer |= await asyncio.wait_for(self._hub.call(message), ANSWER_S)
        except BadCommand as error:
            answer["message"] = f"not understood: {error}"
        except ConnectionError as error:
            answer["message"] = str(error)
        except asyncio.TimeoutError:
            answer["message"] = f"the tracker gave no answer within {ANSWER_S:.0f} s"
        await self._send({"type": "answer", "to": message.get("id"), "command": message.get("type"), **answer})
