"""A server that lies loses its client to another one. It costs neither the client's memory nor its process."""

from __future__ import annotations

import contextlib
import math
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import msgpack
import numpy as np
import pytest
import zmq
from lying_server import MAX_OBJECTS, Answer, Lie, changed, fuzz, honest, lying
from served import PATIENCE, boxed, connect_patiently, picture, resident_bytes, serving

from sam2_ros.inference.backend import FrameDropped
from sam2_ros.remote import answers, connection, link, protocol
from sam2_ros.remote.client import RemoteBackend
from sam2_ros.remote.codec import to_wire
from sam2_ros.tracking import CroppedMask, ObjectState, TrackerConfig
from sam2_ros.tracking.types import EventCode, MaskCandidate, ObjectChange, PromptCode, PromptResult

MEMORY = 600 << 20  # bytes that the process may grow by


def field(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    """Sets a field inside an answer; ``value`` may be a function of the old one."""

    def change(header: dict[str, Any]) -> None:
        holder: Any = header
        for step in path[:-1]:
            holder = holder[step]
        holder[path[-1]] = value(holder[path[-1]]) if callable(value) else value

    return change


def first(*path: Any, value: Any) -> Lie:
    """A lie about a frame's first object."""
    return changed(field("result", "objects", 0, *path, value=value))


def huge_part(parts: Answer) -> list[Answer]:
    return [[parts[0], parts[1] + bytes(65 << 20)]]


def unasked(parts: Answer) -> list[Answer]:
    return [[parts[0], msgpack.packb({"ok": True, "seq": 10**9 + number})] for number in range(1000)]


def list_bomb(parts: Answer) -> list[Answer]:
    return [[parts[0], b"\xdd" + (10**6).to_bytes(4, "big") + b"\x90" * 10**6]]


PACKED = ["bool", [1 << 14, 1 << 14], bytes(1 << 25)]  # 32 MiB on the wire, 256 MiB here
LIES: dict[str, tuple[Lie, str]] = {
    "another stamp": (changed(field("result", "stamp", value=-5)), "another frame"),
    "a stamp beyond messages": (first("last_seen", value=2**62), "a stamp is"),
    "another size": (changed(field("result", "width", value=63)), "of another size|another frame"),
    "too many objects": (changed(field("result", "objects", value=lambda old: old * 9)), "9 objects; accepted"),
    "one id twice": (changed(field("result", "objects", value=lambda old: old * 2)), "have one id"),
    "an id beyond messages": (first("object_id", value=2**32), "object_id is"),
    "a mask outside": (first("mask", "x", value=60), "outside its image"),
    "a mask beside its image": (first("mask", "x", value=-1), "outside its image"),
    "a mask above its image": (first("mask", "y", value=-1), "outside its image"),
    "one part": (lambda parts: [parts[:1]], "has 1 parts"),
    "a mask of another type": (first("mask", "crop", value=["uint8", [2, 2], bytes(4)]), "a mask is uint8"),
    "a mask of no type": (first("mask", "crop", value=[[], [2, 2], b"1"]), "no array"),
    "a huge mask": (first("mask", "crop", value=PACKED), "larger than what was asked for"),
    "a long name": (first("name", value="x" * 10**6), "1000000 characters"),
    "control characters": (first("label", value="\x1b[2J"), r"U\+001B"),
    "no number": (first("visibility", value=math.nan), "not finite"),
    "a count": (first("frames_tracked", value=2**40), "a count is"),
    "many timings": (changed(field("result", "timings_ms", value={str(n): 1.0 for n in range(200)})), "200 timings"),
    "a missing field": (changed(lambda header: header["result"].pop("objects")), "incomplete"),
    "no result": (changed(lambda header: header.pop("result")), "NoneType"),
    "a huge part": (huge_part, "the connection broke"),
    "answers to nothing": (unasked, "was not asked"),
    "a bomb of lists": (list_bomb, "more than|no msgpack|Array"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_the_servers_failure(name: str) -> None:
    lie, words = LIES[name]
    with serving() as server, serving() as other, lying(server.endpoints[0]) as liar:
        endpoints = [liar.endpoint, other.endpoints[0]]
        client = RemoteBackend(endpoints, TrackerConfig(max_objects=MAX_OBJECTS), timeout=PATIENCE, pixels="raw")
        connect_patiently(client)
        client.step(picture(), 1)
        (added,) = client.add([boxed(name="cup")])
        assert added.success and client.step(picture(), 2).objects[0].name == "cup"
        before = resident_bytes(os.getpid())
        liar.lie = lie
        with pytest.raises(FrameDropped, match=words):
            client.step(picture(), 3)
        (hidden,) = client.objects().objects  # type: ignore[union-attr]
        assert hidden.state is ObjectState.OCCLUDED
        deadline = time.monotonic() + PATIENCE
        stamp = 4
        while client.link_values()["server"] != endpoints[1]:
            assert time.monotonic() < deadline, client.link_values()
            try:
                client.step(picture(), stamp)
            except FrameDropped:
                time.sleep(0.05)
            stamp += 1
        (found,) = client.step(picture(), stamp).objects
        assert (found.object_id, found.name) == (added.object_id, "cup")
        assert resident_bytes(os.getpid()) - before < MEMORY
        client.close()


def test_a_mask_may_lie_at_any_edge_of_its_image() -> None:
    mask = CroppedMask(np.ones((2, 3), np.bool_), 0, 0, 64, 48)
    for x, y in ((0, 0), (61, 46), (0, 46), (61, 0)):
        answers._check_mask(replace(mask, x=x, y=y))
    for x, y in ((-1, 0), (0, -1), (62, 0), (0, 47)):
        with pytest.raises(protocol.ProtocolError, match="outside its image"):
            answers._check_mask(replace(mask, x=x, y=y))


def test_a_message_without_an_end_ends_the_connection() -> None:
    """libzmq stores a message's parts until the last one, with no limit for their number."""
    ready = b"\x05READY\x0bSocket-Type\x00\x00\x00\x06ROUTER"
    part = b"\x03" + (1 << 20).to_bytes(8, "big") + bytes(1 << 20)  # a long frame, and more to come

    def serve(listener: socket.socket) -> None:
        client, _ = listener.accept()
        with client, contextlib.suppress(OSError):  # the client ends it
            client.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32))
            client.sendall(bytes([4, len(ready)]) + ready)
            for _ in range(4096):
                client.sendall(part)

    before = resident_bytes(os.getpid())
    context: zmq.Context[Any] = zmq.Context()
    few = mock.patch.object(connection, "_UNREAD_BYTES", 8 << 20)
    with few, socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=serve, args=(listener,))
        server.start()
        endpoint = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        opened = connection.Connection(context, endpoint, None, lambda late: None, threading.Event())
        with pytest.raises(connection.WrongAnswer, match="without an end"):
            opened.request("ping", PATIENCE, {})
        assert opened.closed
        server.join()
    context.term()
    assert resident_bytes(os.getpid()) - before < MEMORY


def test_a_client_that_asks_nothing_does_not_come_back_by_itself() -> None:
    """Again and again, its events would fill a queue that nobody reads, and then block it."""
    context: zmq.Context[Any] = zmq.Context()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        endpoint = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        opened = connection.Connection(context, endpoint, None, lambda late: None, threading.Event())
        listener.accept()[0].close()
        assert not select.select([listener], [], [], 1.0)[0]
        with pytest.raises(connection.LinkDown, match="the connection broke"):
            opened.request("ping", PATIENCE, {})
    context.term()


@pytest.mark.parametrize("kind", ["tcp", "ipc"])
def test_where_nothing_listens_is_said_at_once(kind: str, tmp_path: Path) -> None:
    context: zmq.Context[Any] = zmq.Context()
    with socket.socket() as unused:  # bound, so that nobody else takes the port, but not listening
        unused.bind(("127.0.0.1", 0))
        endpoint = {"tcp": f"tcp://127.0.0.1:{unused.getsockname()[1]}", "ipc": f"ipc://{tmp_path / 'nobody'}"}[kind]
        opened = connection.Connection(context, endpoint, None, lambda late: None, threading.Event())
        with pytest.raises(connection.LinkDown, match="nothing accepts connections there"):
            opened.request("ping", PATIENCE, {})
    context.term()


def test_a_server_may_start_after_its_client() -> None:
    """Who is told to wait tries again until it is there."""
    with serving() as server:
        endpoint = server.endpoints[0]
    client = RemoteBackend([endpoint], timeout=PATIENCE)
    try:
        with pytest.raises(connection.LinkDown):
            client.connect()
        waiting = threading.Thread(target=connect_patiently, args=(client,))
        waiting.start()
        time.sleep(0.3)
        assert waiting.is_alive()
        with serving(endpoint=endpoint):
            waiting.join(PATIENCE)
            assert not waiting.is_alive() and client.link_values()["connections"] == 1
    finally:
        client.close()


def test_a_lie_about_a_prompt_changes_nothing_here() -> None:
    trusting = mock.patch.object(link, "_DISTRUST", 0.0)
    with trusting, serving() as server, lying(server.endpoints[0]) as liar:
        client = RemoteBackend([liar.endpoint], TrackerConfig(max_objects=MAX_OBJECTS), timeout=PATIENCE, pixels="raw")
        client.connect(PATIENCE)
        for stamp, spoiled in enumerate(
            (
                field("result", value=[]),
                field("next_id", value=0),
                field("next_id", value=2**40),
                field("changes", value=lambda old: old * 1000),
                field("objects", "objects", 0, "name", value="a\nb"),
            )
        ):
            client.step(picture(), stamp + 1)
            liar.lie = changed(spoiled, only="changes")
            next_id = client.next_id
            (result,) = client.add([boxed()])
            assert not result.success and "gave a wrong answer" in result.message
            assert client.next_id == next_id and not client.take_changes() and not client.objects().objects  # type: ignore[union-attr]
            liar.lie = honest
            client.connect(PATIENCE)
        client.close()


def test_an_answer_holds_eight_changes_of_each_object_and_of_eight_that_are_gone() -> None:
    change = ObjectChange(EventCode.REMOVED, 1, "cup", "", None, None, 0.0, 0.0, 0, "removed by request")
    assert len(answers.changes(to_wire([change] * 96), MAX_OBJECTS)) == 96
    with pytest.raises(protocol.ProtocolError, match="there are 97 changes; accepted: up to 96"):
        answers.changes(to_wire([change] * 97), MAX_OBJECTS)


@pytest.mark.parametrize(("index", "accepted"), [(0, False), (1, True), (3, True), (5, False)])
def test_candidates_are_numbered_from_one(index: int, accepted: bool) -> None:
    candidate = MaskCandidate(index, CroppedMask.empty(4, 4), 0.5, 0.5)
    offered = to_wire([PromptResult(PromptCode.OK, "object 1: added", 1, candidates=(candidate,))])
    if accepted:
        assert answers.prompt_results(offered, 1, 16)[0].candidates[0].index == index
    else:
        with pytest.raises(protocol.ProtocolError, match=f"a candidate's index is {index}; accepted: 1 to"):
            answers.prompt_results(offered, 1, 16)


@pytest.mark.parametrize(("seed", "count", "direct"), [(1, 250, False), (2, 2000, True)])
def test_random_lies(seed: int, count: int, direct: bool) -> None:
    outcomes = fuzz(seed, count, direct=direct)
    assert outcomes["answered"] > count // 12 and outcomes["dropped"] > count // 50


@pytest.mark.parametrize(
    ("option", "good", "bad", "accepted"),
    [
        ("quality", (1, 100), (0, 101), "1 to 100"),
        ("timeout", (0.001, 3600), (0, -1.0, 3600.1, float("nan")), "more than 0, up to 3600 seconds"),
        ("return_after", (0, 86400), (-0.1, 86400.1, float("nan")), "0 to 86400 seconds"),
        ("pixels", ("raw", "jpeg", "shm", "auto"), ("png", ""), "auto"),
    ],
)
def test_options_of_a_client_have_limits(option: str, good: Any, bad: Any, accepted: str) -> None:
    for value in good:
        RemoteBackend(["tcp://127.0.0.1:9"], **{option: value}).close()
    for value in bad:
        with pytest.raises(ValueError, match=f"{option} is .*accepted: .*{accepted}"):
            RemoteBackend(["tcp://127.0.0.1:9"], **{option: value})
