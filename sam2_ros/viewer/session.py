"""One browser: sends as many pictures as it can show, and receives its commands."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol

from aiohttp import WSMsgType, web

from sam2_ros.viewer.outbox import Outbox
from sam2_ros.viewer.page_commands import BadCommand

IN_FLIGHT = 2  # pictures sent and not yet painted; after that only the newest is sent
THUMBNAIL_S = 1.0  # between pictures of each camera in the background
HISTORY_S = 0.5  # between two histories
ANSWER_S = 30.0
PING_S = 2.0
MESSAGES_PER_S, BURST = 200.0, 400.0  # from a browser; more are read later
WAITING_COMMANDS = 4  # of one browser
_LONGEST_ID = 100  # characters


class Shot(Protocol):
    """A picture with its objects."""

    number: int  # grows from each picture to the next
    stamp: int  # ns
    arrived: int  # ns of the steady clock

    def packet(self, camera: str) -> bytes:
        """For the browser (layout: ``packets``). Called in a thread of its own; what it raises is told on the page."""


class Camera(Protocol):
    """What has a tab of the page."""

    @property
    def name(self) -> str: ...

    def shot(self, live: bool) -> Shot | None:
        """The picture to show now."""

    def history_message(self) -> str:
        """A JSON message for a browser that begins to watch; called in a thread of its own."""


class Browser(Protocol):
    """What the hub needs of a browser's session. Called in the event loop."""

    watching: str  # name of the camera in front

    def wake(self) -> None:
        """Called when a newer picture is there."""

    def send(self, message: Mapping[str, object]) -> None:
        """Sends a message to the browser, in place of one of the same type and camera that still waits."""


class Hub(Protocol):
    """What has the cameras. Made, used and closed in the event loop."""

    @property
    def cameras(self) -> Mapping[str, Camera]: ...

    def camera_names(self) -> list[str]:
        """In the order of the page."""

    def join(self, session: Browser) -> None: ...

    def leave(self, session: Browser) -> None: ...

    async def call(self, command: dict[str, Any]) -> dict[str, object]:
        """Does what the page asks, and answers.

        Raises:
            BadCommand: the command is invalid.
            ConnectionError: what it needs is not there.
        """

    def now(self) -> int:
        """Nanoseconds of the clock that stamps the pictures."""

    def log(self, text: str) -> None:
        """Writes an error into the log."""

    def close(self) -> None: ...


class Session:
    """Lives as long as a WebSocket, in the event loop.

    Args:
        abort: closes the connection without waiting for the browser.
    """

    def __init__(self, hub: Hub, socket: web.WebSocketResponse, abort: Callable[[], None]) -> None:
        self._hub = hub
        self._socket = socket
        self._abort = abort
        self._outbox = Outbox(socket)
        self.watching = ""  # name of the camera in front
        self._live = False
        self._shown = 0  # number of the newest picture that was sent of it
        self._fresh = asyncio.Event()
        self._asked = asyncio.Event()  # for a history
        self._room = asyncio.Semaphore(IN_FLIGHT)
        self._sent: dict[int, Shot] = {}  # by number, until the browser has painted it
        self._round_trip = 0.0  # seconds, the shortest recently
        self._thumbnails: dict[str, float] = {}
        self._commands = 0  # that wait for their answers
        self._budget, self._counted = BURST, time.monotonic()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Runs until the browser leaves."""
        self._hub.join(self)
        try:
            self.send({"type": "cameras", "cameras": self._hub.camera_names()})
            for work in (self._outbox.run(), self._stream(), self._ping(), self._send_histories()):
                self._start(work)
            async for message in self._socket:
                await self._pace()
                if message.type == WSMsgType.TEXT:
                    self._receive(message.data)
                elif message.type == WSMsgType.BINARY:
                    self._refuse("a message is JSON, sent as text")
        except ConnectionError:
            self._abort()
        finally:
            self._hub.leave(self)
            for task in self._tasks:
                task.cancel()

    def wake(self) -> None:
        self._fresh.set()

    def send(self, message: Mapping[str, object]) -> None:
        self._outbox.tell(message, f"{message['type']} {message.get('camera', '')}")

    async def _pace(self) -> None:
        """Waits while the browser sends more than it may; what it sends meanwhile waits on its side."""
        now = time.monotonic()
        self._budget = min(BURST, self._budget + (now - self._counted) * MESSAGES_PER_S) - 1
        self._counted = now
        if self._budget < 0:
            await asyncio.sleep(-self._budget / MESSAGES_PER_S)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs ``work`` beside the rest; if it fails, the connection ends, and the page connects again."""

        async def guarded() -> None:
            try:
                await work
            except ConnectionError:
                self._abort()
            except Exception as error:
                self._hub.log(f"a browser's connection ended: {type(error).__name__}: {error}")
                self._abort()

        task = asyncio.ensure_future(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _stream(self) -> None:
        while not self._socket.closed:
            await self._room.acquire()
            while (picked := self._pick()) is None:
                self._fresh.clear()
                await self._fresh.wait()
            camera, shot = picked
            if camera.name == self.watching:
                self._shown = shot.number
            try:
                packet = await asyncio.to_thread(shot.packet, camera.name)
            except Exception as error:  # whatever a topic's image does to a decoder
                self._room.release()
                self.send({"type": "notice", "level": "error", "message": str(error)[:1000]})
                await asyncio.sleep(1.0)  # the next image probably fails too
                continue
            self._sent[shot.number] = shot
            await self._outbox.send(packet)

    def _pick(self) -> tuple[Camera, Shot] | None:
        """The next picture to send: the newest of the camera in front, or sometimes one of another camera."""
        if not self.watching:
            return None  # what is sent before the page says what is in front would be sent again then
        now, cameras = time.monotonic(), self._hub.cameras
        self._thumbnails = {name: sent for name, sent in self._thumbnails.items() if name in cameras}
        for camera in cameras.values():
            name = camera.name
            shot = camera.shot(self._live)
            if shot is None or shot.number in self._sent:
                continue
            if name == self.watching:
                if shot.number > self._shown:
                    return camera, shot
            elif now - self._thumbnails.get(name, 0.0) > THUMBNAIL_S:
                self._thumbnails[name] = now
                return camera, shot
        return None

    async def _ping(self) -> None:
        while not self._socket.closed:
            self.send({"type": "ping", "sent": time.monotonic_ns()})
            await asyncio.sleep(PING_S)

    async def _send_histories(self) -> None:
        while not self._socket.closed:
            await self._asked.wait()
            self._asked.clear()
            camera = self._hub.cameras.get(self.watching)
            if camera is not None:
                await self._outbox.send(await asyncio.to_thread(camera.history_message))
            await asyncio.sleep(HISTORY_S)

    def _receive(self, text: str) -> None:
        received = time.monotonic_ns()
        try:
            message = json.loads(text)
            if not isinstance(message, dict):
                raise ValueError("an object with a type is expected")
        except (ValueError, RecursionError) as error:
            self._refuse(f"not understood: {error}")
            return
        kind = message.get("type")
        if kind == "painted":
            self._painted(message, received)
        elif kind == "pong":
            self._ponged(message, received)
        elif kind == "watch":
            self._watch(message)
        elif self._commands >= WAITING_COMMANDS:
            self._refuse(f"{WAITING_COMMANDS} commands wait for their answers; try again then", message)
        else:
            self._commands += 1
            self._start(self._command(message))

    def _refuse(self, reason: str, message: Mapping[str, Any] | None = None) -> None:
        self._answer(message or {}, {"success": False, "message": reason})

    def _answer(self, message: Mapping[str, Any], answer: Mapping[str, object]) -> None:
        """The answer to a command names it by the id that the page gave it."""
        number, kind = message.get("id"), message.get("type")
        known = isinstance(number, (int, float)) or (isinstance(number, str) and len(number) <= _LONGEST_ID)
        about = {"to": number if known else None, "command": kind[:_LONGEST_ID] if isinstance(kind, str) else None}
        self._outbox.answer({**about, **answer})

    def _ponged(self, message: dict[str, Any], received: int) -> None:
        sent = message.get("sent")
        if isinstance(sent, int):
            trip = min(max(0, received - sent), 3600 * 10**9) / 1e9
            self._round_trip = min(trip, self._round_trip * 1.5) if self._round_trip else trip

    def _painted(self, message: dict[str, Any], received: int) -> None:
        """After the browser has painted a picture: makes room for the next one and reports the latency."""
        number = message.get("number")
        shot = self._sent.pop(number, None) if isinstance(number, int) else None
        if shot is None:
            return
        self._room.release()
        if message.get("skipped") is True:
            return
        back_ms = self._round_trip * 1e3 / 2  # the way of this message, from an earlier one
        age_ms = (self._hub.now() - shot.stamp) / 1e6
        latency = {
            "number": shot.number,
            "screen_ms": round(max(0.0, (received - shot.arrived) / 1e6 - back_ms), 1),  # since the image came here
            # Since its stamp, if stamps are of this machine's time, not of a recording.
            "glass_ms": round(max(0.0, age_ms - back_ms), 1) if 0 <= age_ms < 10_000 else None,
            "round_trip_ms": round(self._round_trip * 1e3, 2),
        }
        self.send({"type": "latency", **latency})

    def _watch(self, message: dict[str, Any]) -> None:
        """Puts a camera in front; its history is the answer."""
        cameras = self._hub.cameras
        camera = cameras.get(str(message.get("camera", ""))) or next(iter(cameras.values()), None)
        self._live = message.get("live") is True
        if camera is None:
            self._refuse("no camera is tracked; is the tracker running?", message)
        else:
            if camera.name != self.watching:
                self._shown = 0  # its picture may be older than that of the one before
            self.watching = camera.name
            self._asked.set()
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
            answer["message"] = f"there was no answer within {ANSWER_S:.0f} s"
        except Exception as error:  # every command gets an answer
            answer["message"] = f"the command failed: {type(error).__name__}: {str(error)[:200]}"
            self._hub.log(f"a command of the page failed: {type(error).__name__}: {error}")
        finally:
            self._commands -= 1
        self._answer(message, answer)
