"""A browser that floods, never reads or talks nonsense stops nobody: others see on, and the viewer ends as asked."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import struct
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("rclpy", reason="the viewer is a ROS 2 client")
pytest.importorskip("aiohttp", reason="the viewer's server")

import aiohttp
import rclpy
from node_harness import PATIENCE, wait_until
from page import viewer
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import Image
from served import resident_bytes

from sam2_ros.msg import TrackedObject, TrackedObjectArray
from sam2_ros.ros.messages import to_time
from sam2_ros.viewer.session import WAITING_COMMANDS
from sam2_ros.viewer.web_server import MAX_BROWSERS

NAME = "flooded"
HISTORY = 400  # frames of 16 objects, about 0.5 MB of JSON
FLOOD = 1000  # messages
MEMORY = 200 << 20  # bytes that the viewer may grow by; without limits it is more than 500 MB


class Tracker:
    """As much of a tracker as the viewer sees: tracks, and the topic of its images; no services."""

    def __init__(self) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node(NAME, context=self.context)
        self._images = self.node.create_publisher(Image, f"/{NAME}_image", 5)
        self._tracks = self.node.create_publisher(TrackedObjectArray, f"/{NAME}/tracks", 10)
        self.node.create_subscription(Image, f"/{NAME}_image", lambda image: None, 5)
        executor = SingleThreadedExecutor(context=self.context)
        executor.add_node(self.node)
        self._objects = [TrackedObject(id=number, name=f"{number:060}", state=1) for number in range(1, 17)]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(executor,))
        self._thread.start()

    def show(self) -> None:
        image = Image(height=48, width=64, step=192, encoding="rgb8", data=array("B", bytes(48 * 192)))
        image.header.stamp = to_time(time.time_ns())
        self._images.publish(image)
        self._tracks.publish(TrackedObjectArray(header=image.header, objects=self._objects, max_objects=16))

    def _run(self, executor: SingleThreadedExecutor) -> None:
        while not self._stop.is_set():
            self.show()
            executor.spin_once(timeout_sec=0.02)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self.node.destroy_node()
        self.context.try_shutdown()


@pytest.fixture(scope="module")
def tracker() -> Iterator[Tracker]:
    with closing(Tracker()) as shown:
        yield shown


@pytest.fixture(scope="module")
def watched(tracker: Tracker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """Address and process id of a viewer of the tracker, with its history."""
    with viewer(tmp_path_factory.mktemp("flooded"), "--node", f"/{NAME}") as address:
        pid = next(pid for pid in _children() if address.rpartition(":")[2].strip("/") in _listening(pid))

        async def long_history() -> None:
            async with (
                aiohttp.ClientSession() as session,
                session.ws_connect(address + "socket", max_msg_size=0) as page,
            ):
                deadline = time.monotonic() + PATIENCE
                while time.monotonic() < deadline:
                    await page.send_json({"type": "watch", "camera": NAME})
                    answer = await received(page, "history", "answer")
                    if len(answer.get("frames", ())) >= HISTORY:
                        return
                    await asyncio.sleep(0.2)
                raise TimeoutError

        asyncio.run(long_history())
        yield address, pid


def _children() -> list[int]:
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
        return [int(pid) for pid in file.read().split()]


def _listening(pid: int) -> set[str]:
    """The ports that a process listens on."""
    inodes = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        link = os.readlink(f"/proc/{pid}/fd/{name}")
        if link.startswith("socket:["):
            inodes.add(link[8:-1])
    with open(f"/proc/{pid}/net/tcp", encoding="ascii") as file:
        rows = [line.split() for line in file.readlines()[1:]]
    return {str(int(row[1].split(":")[1], 16)) for row in rows if row[3] == "0A" and row[9] in inodes}


async def received(page: Any, *kinds: str) -> Any:
    """The next message of one of these kinds; "picture" is the header of a picture."""
    while True:
        message = await page.receive(timeout=PATIENCE)
        if message.type == aiohttp.WSMsgType.BINARY:
            length = int.from_bytes(message.data[:4], "little")
            header = {"type": "picture", **json.loads(message.data[4 : 4 + length])}
        else:
            header = message.json()
        if header["type"] in kinds:
            return header


def frame(text: bytes, opcode: int = 1) -> bytes:
    """A masked frame of a WebSocket."""
    length = bytes([0x80 | len(text)]) if len(text) < 126 else b"\xfe" + struct.pack(">H", len(text))
    return bytes([0x80 | opcode]) + length + bytes(4) + text


def deaf(address: str) -> socket.socket:
    """A WebSocket that will never read."""
    place = urlsplit(address)
    assert place.hostname and place.port
    opened = socket.create_connection((place.hostname, place.port), PATIENCE)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    key = base64.b64encode(os.urandom(16)).decode()
    opened.sendall(
        f"GET /socket HTTP/1.1\r\nHost: {place.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    assert opened.recv(12) == b"HTTP/1.1 101"
    return opened


def flood(opened: socket.socket, data: bytes) -> None:
    """Sends until the other side takes no more, or ends the connection."""
    opened.settimeout(1.0)
    try:
        opened.sendall(data)
    except OSError:
        return


async def pictures(page: Any, count: int) -> None:
    for _ in range(count):
        shown = await received(page, "picture")
        await page.send_json({"type": "painted", "number": shown["number"]})


FLOODS: dict[str, Callable[[], bytes]] = {
    "watch": lambda: frame(json.dumps({"type": "watch", "camera": NAME}).encode()) * FLOOD,
    "nonsense": lambda: frame(b"{}") * FLOOD,
    "binary": lambda: frame(b"x", 2) * FLOOD,
    "commands": lambda: frame(json.dumps({"type": "reset", "camera": NAME}).encode()) * FLOOD,
    "pings": lambda: frame(b"p" * 100, 9) * FLOOD,
    "one large message": lambda: frame(b" " * 60_000) * (FLOOD // 20),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_stops_nobody(watched: tuple[str, int], kind: str) -> None:
    address, pid = watched
    before = resident_bytes(pid)

    async def look_on() -> None:
        async with aiohttp.ClientSession() as session, session.ws_connect(address + "socket", max_msg_size=0) as page:
            await page.send_json({"type": "watch", "camera": NAME})
            await pictures(page, 3)
            with closing(deaf(address)) as opened:
                await asyncio.to_thread(flood, opened, FLOODS[kind]())
                await pictures(page, 20)
                await page.send_json({"type": "watch", "camera": NAME})
                assert len((await received(page, "history"))["frames"]) >= HISTORY

    asyncio.run(look_on())
    assert resident_bytes(pid) - before < MEMORY


def test_there_are_only_so_many_browsers(watched: tuple[str, int]) -> None:
    address, _ = watched
    with ExitStack() as stack:

        async def another() -> int:
            async with aiohttp.ClientSession() as session:
                try:
                    async with session.ws_connect(address + "socket"):
                        return 101
                except aiohttp.WSServerHandshakeError as error:
                    return error.status

        def full() -> bool:
            """Those of an earlier test may leave late."""
            while asyncio.run(another()) == 101:
                stack.enter_context(closing(deaf(address)))
            return True

        assert wait_until(full)
        status, text = asyncio.run(_get(address + "socket"))
        assert status == 503 and f"{MAX_BROWSERS} browsers look already" in text
        assert asyncio.run(_get(address))[0] == 200
    wait_until(lambda: asyncio.run(another()) == 101, "room after the others have left")


async def _get(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, await answer.text()


COMMANDS = [
    '{"type": []}',
    '{"type": "add", "stamp": "' + "9" * 5000 + '"}',
    '{"type": "add", "points": [[1e999, 1]], "labels": [1]}',
    '{"type": "add", "box": [1' + "0" * 400 + ", 1, 2, 2]}",
    '{"type": "rename", "object_id": 1, "name": "\\ud800"}',
    '{"type": "remove", "object_id": 7}',
    '{"type": "reset"}',
    "[" * 30_000,
    "9" * 5000,
]


@pytest.mark.parametrize("text", COMMANDS, ids=lambda text: text[:30])
def test_every_command_gets_an_answer(watched: tuple[str, int], text: str) -> None:
    """Also where the tracker has no services."""
    text = text.replace('{"type"', f'{{"id": 5, "camera": "{NAME}", "type"', 1)

    async def converse() -> Any:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(watched[0] + "socket", max_msg_size=0) as page,
        ):
            await page.send_str(text)
            return await received(page, "answer")

    answer = asyncio.run(converse())
    assert answer["success"] is False and len(answer["message"]) < 500
    assert answer["to"] == (5 if "id" in text else None)


def test_commands_beyond_those_that_wait_are_refused(watched: tuple[str, int]) -> None:
    async def converse() -> list[Any]:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(watched[0] + "socket", max_msg_size=0) as page,
        ):
            for number in range(WAITING_COMMANDS + 1):
                await page.send_json({"id": number, "type": "reset", "camera": NAME})
            return [await received(page, "answer") for _ in range(WAITING_COMMANDS + 1)]

    answers = asyncio.run(converse())
    assert sorted(answer["to"] for answer in answers) == list(range(WAITING_COMMANDS + 1))
    assert "commands wait for their answers" in answers[0]["message"]
    assert all("is not there" in answer["message"] for answer in answers[1:])


def test_latencies_are_milliseconds(watched: tuple[str, int]) -> None:
    """What the page shows fits between what was measured here, at both ends of each message."""

    async def converse() -> tuple[float, Any, float]:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(watched[0] + "socket", max_msg_size=0) as page,
        ):
            ping = await received(page, "ping")
            await asyncio.sleep(0.4)  # the way there and back
            await page.send_json({"type": "pong", "sent": ping["sent"]})
            await page.send_json({"type": "watch", "camera": NAME, "live": True})
            shown = await received(page, "picture")
            arrived = time.time_ns()
            await asyncio.sleep(0.6)
            painted = time.time_ns()
            await page.send_json({"type": "painted", "number": shown["number"]})
            latency = await received(page, "latency")
            return (painted - arrived) / 1e6, latency, (time.time_ns() - int(shown["stamp"])) / 1e6

    least, latency, most = asyncio.run(converse())
    assert latency["round_trip_ms"] >= 400
    back = latency["round_trip_ms"] / 2
    for shown in (latency["screen_ms"], latency["glass_ms"]):
        assert not shown or least - 1 <= shown + back <= most + 1, "0 or none: the way back took longer on the ping"
