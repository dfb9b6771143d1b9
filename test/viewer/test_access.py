"""Who gets in: this machine without a token, others with it, and no other site's page."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="the viewer is a ROS 2 client")
pytest.importorskip("aiohttp", reason="the viewer's server")

import aiohttp
from node_harness import PATIENCE
from page import viewer

from sam2_ros.viewer.access import is_local


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with viewer(tmp_path_factory.mktemp("viewer")) as printed:
        yield printed.rstrip("/")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with viewer(tmp_path_factory.mktemp("guarded"), "--host", "0.0.0.0") as printed:
        yield printed.replace("0.0.0.0", "127.0.0.1")


def ask(url: str, *, redirects: Any = True, **headers: str) -> tuple[int, str, Any]:
    """Status, text and cookies of an answer."""

    async def get() -> tuple[int, str, Any]:
        async with (
            aiohttp.ClientSession() as session,
            session.get(url, headers=headers, allow_redirects=redirects) as answer,
        ):
            return answer.status, await answer.text(), answer.cookies

    return asyncio.run(get())


def greeting(url: str, **headers: str) -> Any:
    """The first message of a WebSocket."""

    async def receive() -> Any:
        async with aiohttp.ClientSession() as session, session.ws_connect(url, headers=headers) as connection:
            return await connection.receive_json(timeout=PATIENCE)

    return asyncio.run(receive())


def test_this_machine_needs_no_token(address: str) -> None:
    status, text, _ = ask(address)
    assert status == 200 and "<title>sam2_ros viewer</title>" in text
    assert greeting(f"{address}/socket", Origin=address)["type"] == "cameras"


def test_another_sites_page_is_refused(address: str) -> None:
    status, text, _ = ask(address, Origin="http://elsewhere.example")
    assert status == 403 and "requests from another site" in text
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        greeting(f"{address}/socket", Origin="http://elsewhere.example")
    assert refused.value.status == 403
    with pytest.raises(aiohttp.WSServerHandshakeError):  # the same machine, another port
        greeting(f"{address}/socket", Origin="http://127.0.0.1:1")


def test_a_name_that_points_here_is_refused(address: str) -> None:
    status, text, _ = ask(address, Host="rebound.example")
    assert status == 403 and "no name of this machine" in text


@pytest.mark.parametrize(
    "headers", [{"Host": "[::1"}, {"Host": "localhost]"}, {"Origin": "http://["}, {"Origin": "//[::1/"}]
)
def test_an_address_that_can_not_be_read_is_refused(address: str, headers: dict[str, str]) -> None:
    status, text, _ = ask(address, **headers)
    assert status in (400, 403) and ("can't be read" in text or "is no name of this machine" in text)
    assert ask(f"{address}/static/{'a' * 5000}")[0] == 400


def test_other_machines_need_the_token(guarded: str) -> None:
    page, _, token = guarded.partition("?token=")
    assert len(token) >= 20
    status, text, _ = ask(page)
    assert status == 401 and "the token is missing or wrong" in text
    assert ask(f"{page}?token=wrong")[0] == 401
    with pytest.raises(aiohttp.WSServerHandshakeError):
        greeting(f"{page}socket")
    status, _, cookies = ask(guarded, redirects=False)
    assert status == 302, "the token leaves the address bar"
    cookie = cookies["sam2_ros_token"]
    assert cookie["httponly"] and cookie["samesite"] == "Strict"
    assert ask(page, Cookie=f"sam2_ros_token={token}")[0] == 200
    assert ask(page, Authorization=f"Bearer {token}")[0] == 200
    assert ask(page, Authorization="Bearer \udcff")[0] == 401
    assert greeting(f"{page}socket", Cookie=f"sam2_ros_token={token}")["type"] == "cameras"


@pytest.mark.parametrize(
    "text", ["no json", "[]", "[" * 30_000, '{"type": ["add"]}', '{"type": "explode"}', '{"type": "add", "points": 3}']
)
def test_nonsense_is_answered(address: str, text: str) -> None:
    async def converse() -> Any:
        async with aiohttp.ClientSession() as session, session.ws_connect(f"{address}/socket") as connection:
            await connection.send_str(text)
            while (message := await connection.receive_json(timeout=PATIENCE))["type"] != "answer":
                pass
            return message

    answer = asyncio.run(converse())
    assert answer["success"] is False and "not understood" in answer["message"]


def test_a_port_that_is_taken_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "sam2_ros", "view", "--port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 2
    assert f"port {port}" in done.stderr and "--port 0 takes a free port" in done.stderr


def test_an_address_of_another_machine_is_said() -> None:
    command = [sys.executable, "-m", "sam2_ros", "view", "--host", "192.0.2.1", "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 2 and "--host takes a name or address of this machine" in done.stderr


def test_which_addresses_are_this_machines() -> None:
    assert all(map(is_local, ("localhost", "127.0.0.1", "127.1.2.3", "::1", "[::1]")))
    assert not any(map(is_local, ("0.0.0.0", "192.0.2.1", "::", "robot", "localhost.example")))
