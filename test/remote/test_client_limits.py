"""What one client may use of the server, and that no client can take what is another's."""

from __future__ import annotations

import fcntl
import os
import struct
import threading
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import msgpack
import pytest
from raw_client import Raw, wait_until
from served import LOCAL, PATIENCE, connect_patiently, connected, picture, running, serving

from sam2_ros.inference import NullBackend
from sam2_ros.inference.backend import BackendInfo
from sam2_ros.remote import protocol
from sam2_ros.remote.server import Limits, Server
from sam2_ros.remote.server.door import Door
from sam2_ros.remote.server.limits import engine_sizes
from sam2_ros.tracking import TrackerConfig


def test_what_can_not_be_read_is_answered_under_its_number() -> None:
    """So that the client that sent it knows why it failed."""

    def header(seq: int, filling: bytes) -> bytes:
        return b"\x82" + msgpack.packb("seq") + msgpack.packb(seq) + msgpack.packb("op") + filling

    many = b"\xdd" + struct.pack(">I", 1 << 20)
    bombs = [
        (header(7, many + b"\x90" * (1 << 20)), protocol.TOO_LARGE, "more than 50000 values"),
        (header(8, b"\x91" * 40_000 + b"\x90"), protocol.MALFORMED, "no msgpack map"),
        (header(9, b"\xdd\xff\xff\xff\xff\x90"), protocol.MALFORMED, "no msgpack map"),
        (
            header(10, b"\xc6" + struct.pack(">I", 33 << 20) + bytes(33 << 20)),
            protocol.TOO_LARGE,
            "accepted: up to 33554432",
        ),
        (header(11, msgpack.packb("x" * 70_000)), protocol.MALFORMED, "op is 'xxx"),
    ]
    with serving() as server, Raw(server.endpoints[0]) as raw:
        raw.ask("ping")
        for seq, (data, code, words) in enumerate(bombs, 7):
            raw.send(protocol.PREFIX, data)
            answer = raw.receive()
            assert (answer["seq"], answer["code"]) == (seq, code) and words in answer["message"], answer
            assert len(answer["message"]) < 300
        frame = {"height": 4, "width": 4, "encoding": "raw"}
        answer = raw.ask("step", 12, bytes(65 << 20), frame=frame, stamp=1)
        assert (answer["seq"], answer["code"]) == (12, protocol.TOO_LARGE)


def test_every_value_of_a_header_is_counted() -> None:
    numbers = [0, 127, 128, 1 << 8, 1 << 16, 1 << 32, -1, -33, -129, -(1 << 15) - 1, -(1 << 31) - 1, 0.5]
    texts = ["x" * size for size in (0, 31, 32, 256, 65536)] + [bytes(size) for size in (1, 256, 65536)]
    lists = [[1, 2], [0] * 16, [0] * 65536, {"a": 1}, {str(key): key for key in range(16)}]
    others = [msgpack.ExtType(1, bytes(size)) for size in (1, 2, 3, 4, 8, 16, 256, 65536)]
    values = [None, True, *numbers, *texts, *lists, *others]

    def count(value: Any) -> int:
        if isinstance(value, dict):
            return 1 + sum(1 + count(element) for element in value.values())
        return 1 + sum(map(count, value)) if isinstance(value, list) else 1

    for value in [*values, values]:
        parts = [protocol.PREFIX, msgpack.packb({"value": value})]
        expected = 2 + count(value)
        assert protocol.unpack(parts, 1 << 30, expected)
        with pytest.raises(protocol.ProtocolError, match=f"more than {expected - 1} values"):
            protocol.unpack(parts, 1 << 30, expected - 1)


def test_a_connection_has_one_stream() -> None:
    with serving(limits=Limits(streams=3)) as server, Raw(server.endpoints[0]) as raw:
        for number in range(20):
            wait_until(partial(opens, raw, f"stream number {number:06}"), "a place")
            assert server.health()["streams"] == 1


def slow_engine() -> tuple[type[NullBackend], threading.Event, threading.Event]:
    """An engine whose frames wait for the first event; the second one tells that a frame has begun."""
    gate, started = threading.Event(), threading.Event()

    class Slow(NullBackend):
        def step(self, frame: Any, stamp: int) -> Any:
            started.set()
            assert gate.wait(PATIENCE)
            return super().step(frame, stamp)

    return Slow, gate, started


def opens(raw: Raw, name: str) -> bool:
    """Whether a stream of this name is opened; it is not while an earlier one holds the last place."""
    return bool(raw.hello(stream=name)["ok"])


def test_streams_that_are_ending_count() -> None:
    slow, gate, started = slow_engine()

    with serving(slow, limits=Limits(streams=2)) as server, Raw(server.endpoints[0]) as raw:
        for _ in range(2):
            assert raw.hello()["ok"]
            started.clear()
            raw.step(1)
            assert started.wait(PATIENCE)
        refused = raw.hello(seq=9)
        assert (refused["code"], refused["seq"]) == (protocol.LIMIT, 9) and "open or ending" in refused["message"]
        gate.set()


def test_engines_that_are_too_large_are_refused() -> None:
    made_with = TrackerConfig(max_objects=1)
    info = BackendInfo("x", "cpu", "float32", 512, bank_bytes=19_000, max_objects=1, history_bytes=9_225)
    size = engine_sizes(info, made_with)
    assert size(made_with) == 28_225
    assert size(TrackerConfig(max_objects=10)) == 10 * 19_000 + 11_250
    assert size(TrackerConfig(max_objects=1, history=256)) > 10 * 19_000
    assert size(TrackerConfig(max_objects=1, edges="on")) - size(made_with) == 9 * 1920 * 1080 * 3
    assert size(TrackerConfig(max_objects=9, window="on")) > size(TrackerConfig(max_objects=9)) + 9 * 1920 * 1080 * 3

    server = Server(NullBackend, [LOCAL], Limits(engine_bytes=4 * 10 * 19_000), engine_bytes=size)
    with running(server), Raw(server.endpoints[0]) as raw, Raw(server.endpoints[0]) as second:
        large = raw.hello(tracker={"max_objects": 64, "history": 256, "prompted_slots": 64})
        assert large["code"] == protocol.LIMIT and "these tracker settings need" in large["message"]
        others = [Raw(server.endpoints[0]) for _ in range(4)]
        answers = [
            other.hello(stream=f"another stream {number}", tracker={"max_objects": 9})
            for number, other in enumerate(others)
        ]
        assert [answer["ok"] for answer in answers] == [True] * 4
        grown = others[0].ask("configure", 2, tracker={"max_objects": 9, "window": "on"})
        assert grown["code"] == protocol.LIMIT and "these tracker settings need" in grown["message"]
        assert others[0].ask("configure", 3, tracker={"max_objects": 9, "lost_after": 5})["ok"]
        full = second.hello(tracker={"max_objects": 9})
        assert full["code"] == protocol.LIMIT and "engines of all streams" in full["message"]
        for other in others:
            other.__exit__()


def test_an_error_without_a_name_is_that_clients_alone() -> None:
    """For instance, there is no thread left for its stream."""
    with serving() as server, connected(server) as client, Raw(server.endpoints[0]) as raw:
        connect_patiently(client)
        client.step(picture(), 0)
        with mock.patch.object(threading.Thread, "start", side_effect=RuntimeError("can't start new thread")):
            answer = raw.hello(seq=5)
        assert (answer["seq"], answer["code"]) == (5, protocol.FAILED) and "can't start new thread" in answer["message"]
        assert client.step(picture(), 1).stamp == 1
        assert server.health()["streams"] == 1
        assert raw.hello()["ok"], "and later it is served"


def test_a_stream_whose_thread_died_gives_its_place_back() -> None:
    def broken(config: TrackerConfig) -> NullBackend:
        raise MemoryError("no memory")

    with serving(broken, limits=Limits(streams=1)) as server, Raw(server.endpoints[0]) as raw:
        for seq in (1, 2):
            answer = wait_until(partial(refused, raw, seq), "the place of the dead one")
            assert (answer["seq"], answer["code"]) == (seq, protocol.FAILED) and "no memory" in answer["message"]
            assert raw.ask("objects", 8)["code"] == protocol.NO_STREAM


def refused(raw: Raw, seq: int) -> dict[str, Any] | None:
    """The answer to a hello; None while an earlier stream holds the place."""
    answer = raw.hello(seq=seq)
    return None if answer["code"] == protocol.LIMIT else answer


def test_requests_that_wait_hold_a_bounded_number_of_bytes() -> None:
    slow, gate, started = slow_engine()

    frame = {"height": 100, "width": 100, "encoding": "raw"}
    with (
        serving(slow, limits=Limits(message_bytes=40_000, waiting_bytes=100_000)) as server,
        Raw(server.endpoints[0]) as raw,
        Raw(server.endpoints[0]) as other,
    ):
        raw.hello()
        raw.tell("step", 1, bytes(30_000), frame=frame, stamp=1)
        assert started.wait(PATIENCE)
        raw.tell("step", 2, bytes(30_000), frame=frame, stamp=2)
        for seq in range(3, 9):
            raw.tell("objects", seq, padding="x" * 30_000)
        busy = [raw.receive() for _ in range(5)]
        assert [(answer["seq"], answer["code"]) for answer in busy] == [(seq, protocol.BUSY) for seq in range(4, 9)]
        other.hello(stream="another one's stream")
        assert other.ask("objects", 1, padding="x" * 30_000)["code"] == protocol.BUSY, "there is no room for all"
        gate.set()
        assert [raw.receive()["ok"] for _ in range(3)] == [True] * 3
        assert other.ask("objects", 2, padding="x" * 30_000)["ok"]


@pytest.mark.parametrize("op", ["objects", "pixels", "ping", "hello", "nothing"])
def test_only_frames_have_pixels(op: str) -> None:
    """Otherwise a client keeps the server busy with bytes that nobody needs."""
    frame = {"height": 100, "width": 100, "encoding": "raw"}
    with serving() as server, Raw(server.endpoints[0]) as raw:
        assert raw.hello()["ok"]
        answer = raw.ask(op, 3, bytes(1 << 16), frame=frame)
        assert (answer["seq"], answer["code"]) == (3, protocol.MALFORMED) and "comes with pixels" in answer["message"]
        assert raw.ask("objects", 4)["ok"], "a few bytes are only refused"
        raw.tell(op, 5, bytes((1 << 16) + 1), frame=frame)
        labels = {"reason": "unused part"}
        ended = partial(server.metrics.registry.get_sample_value, "sam2_ros_rejected_connections_total", labels)
        wait_until(lambda: ended() == 1 and server.health()["streams"] == 0, "the connection to be ended")


def test_who_is_silent() -> None:
    """A ping counts as a sign of life, and a client whose requests wait is not silent."""
    slow, gate, started = slow_engine()

    with serving(slow) as server, Raw(server.endpoints[0]) as raw:
        raw.hello()
        (stream,) = server._streams.values()
        wait_until(lambda: not stream._working, "the hello to be done")
        heard = stream.last_heard
        raw.ask("ping")
        assert stream.last_heard > heard
        raw.step(1)
        assert started.wait(PATIENCE)
        stream.last_heard -= 1000
        assert not stream.over, "its request is in work"
        raw.step(2)
        raw.ask("ping")
        stream.last_heard -= 1000
        assert not stream.over
        gate.set()
        assert raw.receive()["ok"] and raw.receive()["ok"]
        wait_until(lambda: not stream._working, "the last request to be done")
        assert not stream.over, "its client may still read the answer"
        stream.last_heard -= 1000
        assert stream.over


def sealed(start: bytes, size: int = 16384) -> int:
    """A file as a client makes it for its frames."""
    fd = os.memfd_create("sam2_ros_pixels", os.MFD_ALLOW_SEALING)
    os.truncate(fd, size)
    os.pwrite(fd, start, 0)
    fcntl.fcntl(fd, 1033, 2)  # F_ADD_SEALS, F_SEAL_SHRINK
    return fd


def test_shared_memory_is_only_what_this_client_made(tmp_path: Path) -> None:
    """No other client's memory, no other open file of this user, and no memory that could be cut short."""
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(16384))
    with serving() as server, Raw(server.endpoints[0]) as raw, Raw(server.endpoints[0]) as other:
        proof, others = raw.hello()["shm"], other.hello(stream="another one's stream")["shm"]
        assert len(proof) == 16 and proof != others
        unsealed = os.memfd_create("sam2_ros_pixels")
        os.truncate(unsealed, 16384)
        os.pwrite(unsealed, proof, 0)
        wrong = [os.open(secret, os.O_RDONLY), unsealed, sealed(others), sealed(bytes(16)), sealed(b"")]
        right = sealed(proof)
        for op in ("step", "pixels"):
            for fd in (*wrong, right):
                about = {"height": 4, "width": 4, "encoding": "shm", "pid": os.getpid(), "fd": fd, "offset": 4096}
                answer = raw.ask(op, 1, frame=about, stamp=1)
                assert answer["ok"] is (fd == right), answer
                assert answer["ok"] or "begins with this stream's proof" in answer["message"]
        for fd in (*wrong, right):
            os.close(fd)


def test_a_client_elsewhere_is_offered_no_shared_memory() -> None:
    with (
        mock.patch.object(Door, "connection_of", lambda door, frame: (1, False)),
        serving() as server,
        Raw(server.endpoints[0]) as raw,
    ):
        assert "shm" not in raw.hello()
        about = {"height": 4, "width": 4, "encoding": "shm", "pid": os.getpid(), "fd": 0, "offset": 4096}
        assert "clients on the server's machine" in raw.ask("step", 1, frame=about, stamp=1)["message"]
        with connected(server) as client:
            connect_patiently(client)
            assert client.step(picture(), 1).stamp == 1, "it sends the pixels"
