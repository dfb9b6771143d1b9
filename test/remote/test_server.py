"""The server: limits, the newest frame, draining, health, and clients that come, go and return."""

from __future__ import annotations

import socket
import threading
import urllib.request
from dataclasses import replace
from functools import partial
from typing import Any

import msgpack
import numpy as np
import pytest
from raw_client import Raw, wait_until
from served import PATIENCE, ServerProcess, boxed, connect_patiently, connected, picture, serving

from sam2_ros.cli.main import main
from sam2_ros.inference import NullBackend
from sam2_ros.inference.backend import FrameDropped, FrameRefused
from sam2_ros.inference.recovery import RESTARTED, Recovery, SavedObjects
from sam2_ros.remote import protocol
from sam2_ros.remote.client import RemoteBackend
from sam2_ros.remote.codec import to_wire
from sam2_ros.remote.connection import LinkDown, ServerRefusal
from sam2_ros.remote.server import Limits
from sam2_ros.remote.server.metrics import MetricsPage
from sam2_ros.tracking import FrameResult, ObjectState, TrackerConfig
from sam2_ros.tracking.types import EventCode, ObjectChange


def test_what_is_wrong_with_a_message_is_said_and_counted() -> None:
    header = msgpack.packb({"op": "ping", "seq": 3})
    wrong = [
        ((b"sam2/9", header), protocol.BAD_VERSION, "accepted: 1"),
        ((b"hello", header), protocol.MALFORMED, "first part"),
        ((protocol.PREFIX,), protocol.MALFORMED, "1 parts"),
        ((protocol.PREFIX, header, b"", b""), protocol.MALFORMED, "4 parts"),
        ((protocol.PREFIX, header[:-1]), protocol.MALFORMED, "no msgpack map"),
        ((protocol.PREFIX, b"\x93\x01\x02\x03"), protocol.MALFORMED, "accepted: a map"),
        ((protocol.PREFIX, msgpack.packb({"op": "ping"})), protocol.MALFORMED, "seq is None"),
        ((protocol.PREFIX, msgpack.packb({"op": "dance", "seq": 1})), protocol.NO_STREAM, "say hello first"),
        ((protocol.PREFIX, header, bytes(2000)), protocol.TOO_LARGE, "accepted: up to 1500"),
    ]
    with serving(limits=Limits(message_bytes=1500)) as server, Raw(server.endpoints[0]) as raw:
        for parts, code, words in wrong:
            raw.send(*parts)
            answer = raw.receive()
            assert (answer["ok"], answer["code"]) == (False, code)
            assert words in answer["message"]
        assert raw.ask("ping", 9)["seq"] == 9
        for code, count in ((protocol.MALFORMED, 6), (protocol.TOO_LARGE, 1)):
            assert server.metrics.registry.get_sample_value("sam2_ros_refused_total", {"code": code}) == count
        assert raw.hello(tracker={"max_objects": 2, "speed": 3})["message"].startswith(
            "TrackerConfig is a map with the unknown field 'speed'; accepted: "
        )
        assert "tracker.history is 999" in raw.hello(tracker={"history": 999})["message"]


def test_a_frame_must_be_what_its_header_says() -> None:
    with serving() as server, Raw(server.endpoints[0]) as raw:
        assert raw.hello()["ok"]
        for frame, words in (
            ({"height": 4, "width": 5, "encoding": "raw"}, "48 bytes; 5 x 4 in RGB need 60"),
            ({"height": 0, "width": 5, "encoding": "raw"}, "height is 0"),
            ({"height": 30000, "width": 30000, "encoding": "raw"}, "accepted: 67108864"),
            ({"height": 4, "width": 4, "encoding": "png"}, "accepted: raw, jpeg, shm"),
            ({"height": 4, "width": 4, "encoding": "jpeg"}, "no JPEG"),
            ({"height": 4, "width": 4, "encoding": "shm", "pid": 1, "fd": 0, "offset": 0}, "can't be used"),
            ({"height": 4, "width": 4, "encoding": "shm"}, "pid is None"),
        ):
            raw.step(1, frame=frame)
            answer = raw.receive()
            assert not answer["ok"] and words in answer["message"], answer
        raw.step(2)
        assert raw.receive()["ok"]


def test_limits_are_told_with_reasons() -> None:
    config = TrackerConfig(max_objects=2)
    with serving(limits=Limits(streams=1, objects=2)) as server, connected(server, config) as first:
        connect_patiently(first)
        first.step(picture(), 0)
        with connected(server, config) as second, pytest.raises(LinkDown, match="1 streams are open"):
            second.connect()
        with connected(server) as third, pytest.raises(LinkDown, match=r"max_objects is 16; .* accepts up to 2"):
            third.connect()
        first.close()
        with connected(server, config) as second:
            second.connect(PATIENCE)
            assert second.step(picture(), 0).frame_index == 0
            many: tuple[list[Any], ...] = ([boxed()] * 1025, [{}] * 40_000)
            for requests in many:  # not through add, which refuses them here
                with pytest.raises(ServerRefusal, match=f"{len(requests)} .*accepted: up to 1024; send fewer"):
                    second._ask("add", {"requests": to_wire(requests), "stamp": 0})


def hidden_at_2(result: FrameResult) -> FrameResult:
    """The result of stamp 2 with a change; others as they are."""
    states = ObjectState.VISIBLE, ObjectState.OCCLUDED
    change = ObjectChange(EventCode.STATE_CHANGED, 1, "", "", *states, 0.0, 0.0, 0, "hidden at 2")
    return replace(result, changes=(change,)) if result.stamp == 2 else result


def test_the_newest_frame_wins_and_the_older_one_is_told() -> None:
    gate, started = threading.Semaphore(0), threading.Event()

    class Gated(NullBackend):
        def step(self, frame: Any, stamp: int) -> Any:
            started.set()
            assert gate.acquire(timeout=PATIENCE)
            result = super().step(frame, stamp)
            return hidden_at_2(result)

    with serving(Gated) as server, Raw(server.endpoints[0]) as raw:
        raw.hello()
        raw.step(11)
        assert started.wait(PATIENCE)
        for seq in (12, 13, 14):
            raw.step(seq)
        dropped = [raw.receive(), raw.receive()]
        assert [(answer["seq"], answer["code"]) for answer in dropped] == [
            (12, protocol.DROPPED),
            (13, protocol.DROPPED),
        ]
        gate.release(2)
        assert [(answer["seq"], answer["ok"]) for answer in (raw.receive(), raw.receive())] == [(11, True), (14, True)]
        assert server.metrics.registry.get_sample_value("sam2_ros_frames_dropped_total") == 2


def test_a_frame_without_an_answer_in_time_is_dropped_and_its_changes_come_later() -> None:
    gate = threading.Semaphore(2)

    class Gated(NullBackend):
        def step(self, frame: Any, stamp: int) -> Any:
            assert gate.acquire(timeout=PATIENCE)
            result = super().step(frame, stamp)
            return hidden_at_2(result)

    with serving(Gated) as server, connected(server, timeout=3.0) as client:
        connect_patiently(client)
        client.step(picture(), 0)
        client.add([boxed()])
        client.step(picture(), 1)
        client.take_changes()
        with pytest.raises(FrameDropped, match="no answer to 'step' within 3 s") as dropped:
            client.step(picture(height=24), 2)
        hidden = dropped.value.hidden
        assert hidden is not None and (hidden.stamp, hidden.width, hidden.height) == (2, 64, 24)
        assert [(obj.object_id, obj.state, obj.mask.height, obj.mask.area) for obj in hidden.objects] == [
            (1, ObjectState.OCCLUDED, 24, 0)
        ]
        assert [(change.state, change.reason) for change in client.take_changes()] == [
            (ObjectState.OCCLUDED, "no inference server answered in time")
        ]
        assert client.link_values()["timeouts"] == 1 and client.link_values()["link"] == "connected"
        gate.release(10)
        result: FrameResult = wait_until(lambda: client.step(picture(), 3), "an answer again")
        assert [obj.state for obj in result.objects] == [ObjectState.VISIBLE]
        late, seen = client.take_changes() + list(result.changes)
        assert late.reason == "hidden at 2", "from the late answer"
        assert (seen.previous_state, seen.state) == (ObjectState.OCCLUDED, ObjectState.VISIBLE)
        assert client.link_values()["in flight"] == 0


def test_a_frame_that_fails_in_the_engine_fails_alone() -> None:
    class Faulty(NullBackend):
        def step(self, frame: Any, stamp: int) -> Any:
            if stamp == 1:
                raise RuntimeError("out of memory")
            return super().step(frame, stamp)

    with serving(Faulty) as server, connected(server) as client:
        connect_patiently(client)
        client.step(picture(), 0)
        client.add([boxed()])
        with pytest.raises(RuntimeError, match="out of memory"):
            client.step(picture(), 1)
        assert [obj.object_id for obj in client.step(picture(), 2).objects] == [1]


def test_jpeg_is_close_and_smaller() -> None:
    seen: list[Any] = []

    class Looking(NullBackend):
        def step(self, frame: Any, stamp: int) -> Any:
            seen.append(np.array(frame))
            return super().step(frame, stamp)

    slope = np.broadcast_to(np.arange(64, dtype=np.uint8)[None, :, None] * 3, (48, 64, 3)).copy()
    slope[..., 2] = 7
    with serving(Looking) as server:
        for pixels in ("jpeg", "raw", "shm"):
            with connected(server, pixels=pixels) as client:
                connect_patiently(client)
                client.step(slope, 0)
    assert np.abs(seen[0].astype(int) - slope).max() < 12
    assert (seen[1] == slope).all() and (seen[2] == slope).all()


def stepped(client: RemoteBackend) -> FrameResult | None:
    """The result of a frame; None where it was dropped."""
    try:
        return client.step(picture(), 3)
    except FrameDropped:
        return None


def test_a_silent_stream_is_forgotten_and_taken_up_again() -> None:
    with serving(limits=Limits(idle=0.3)) as server, connected(server) as client:
        connect_patiently(client)
        client.step(picture(), 0)
        client.add([boxed(name="cup")])
        first = client.step(picture(), 1).objects[0]
        wait_until(lambda: server.health()["streams"] == 0, "the stream to be forgotten")
        with pytest.raises(FrameDropped):
            client.step(picture(), 2)
        again = wait_until(partial(stepped, client), "the stream to be back").objects[0]
        assert (again.object_id, again.name, again.mask.box) == (first.object_id, "cup", first.mask.box)
        assert again.first_seen == first.first_seen


def test_sigterm_answers_what_is_under_way_and_ends() -> None:
    with ServerProcess("--bind", "tcp://127.0.0.1:*", model="null:600") as server, Raw(server.endpoint) as raw:
        raw.hello()
        raw.step(5)
        raw.ask("ping", 6)
        assert server.terminate() == 0
        answer = raw.receive()
        assert answer["ok"] and answer["seq"] == 5


def test_the_next_server_takes_over_with_the_same_ids() -> None:
    with ServerProcess("--bind", "tcp://127.0.0.1:*") as first, serving() as second:
        client = RemoteBackend([first.endpoint, second.endpoints[0]], timeout=PATIENCE)
        client.step(picture(), 0)
        client.add([boxed(name="cup"), boxed(40, 5, 60, 20)])
        client.remove(1)
        client.add([boxed(1, 1, 9, 9, name="dish")])
        client.take_changes()
        before = client.step(picture(), 1)
        first.kill()
        with pytest.raises(FrameDropped):
            client.step(picture(), 2)
        lost = client.objects()
        assert lost is not None and [obj.state for obj in lost.objects] == [ObjectState.OCCLUDED] * 2
        assert [change.state for change in client.take_changes()] == [ObjectState.OCCLUDED] * 2
        try:
            after = client.step(picture(), 3)
        except FrameDropped:  # where the frame before got no answer, the end of the connection is seen only now
            after = client.step(picture(), 4)
        assert [obj.object_id for obj in after.objects] == [2, 3]
        assert [obj.mask.box for obj in after.objects] == [obj.mask.box for obj in before.objects]
        assert [change.state for change in after.changes] == [ObjectState.VISIBLE] * 2
        assert after.frame_index == 2 and after.objects[1].frames_tracked == before.objects[1].frames_tracked + 1
        assert client.add([boxed()])[0].object_id == 4
        assert client.link_values()["server"] == second.endpoints[0]
        client.close()


@pytest.mark.parametrize("pixels", ["raw", "jpeg"])
def test_a_frame_that_is_too_large_says_which_limit_to_raise(pixels: str, tmp_path: Any) -> None:
    """At once; smaller frames and the objects go on, also when the stream has to move."""
    small, great = picture(), picture(height=128)
    limits = Limits(message_bytes=20_000)
    with serving(limits=limits, endpoint=f"ipc://{tmp_path / 'small'}") as server:
        with connected(server, pixels=pixels) as client:
            connect_patiently(client)
            client.step(small, 1)
            client.add([boxed(1, 1, 9, 9)])
            for stamp in (2, 3):
                with pytest.raises(
                    FrameRefused, match=r"bytes; accepted: .*20000; .*start it with a larger --max-bytes"
                ):
                    client.step(great, stamp)
            assert [obj.object_id for obj in client.step(small, 4).objects] == [1]
            assert client.link_values()["timeouts"] == 0
        with ServerProcess("--bind", "tcp://127.0.0.1:*") as large:
            moving = RemoteBackend([large.endpoint, server.endpoints[0]], timeout=PATIENCE, pixels="raw")
            moving.step(great, 1)
            moving.add([boxed(1, 1, 9, 9)])
            large.kill()
            with pytest.raises(FrameDropped):
                moving.step(great, 2)
            with pytest.raises(FrameRefused, match="--max-bytes"):
                moving.step(great, 3)
            moving.close()


def test_no_frame_waits_long_for_a_server_that_makes_no_engine() -> None:
    gate = threading.Event()

    def slow(config: TrackerConfig) -> NullBackend:
        assert gate.wait(PATIENCE)
        return NullBackend(config)

    with serving(slow) as server, connected(server, timeout=0.1) as client:
        for stamp in range(3):
            with pytest.raises(FrameDropped, match=f"connecting to {server.endpoints[0]} for"):
                client.step(picture(), stamp)
        assert "connecting" in str(client.link_values()["link"])
        gate.set()
        client.connect(PATIENCE)
        assert client.step(picture(), 3).stamp == 3
        assert client.link_values()["connections"] == 1, "all of them waited for the same one"


def test_a_client_waits_for_a_server_that_comes_late(tmp_path: Any) -> None:
    endpoint = f"ipc://{tmp_path / 'late'}"
    with connected(endpoint) as client:
        with pytest.raises(FrameDropped, match="no inference server"):
            client.step(picture(), 0)
        with pytest.raises(FrameDropped, match="next try in"):
            client.step(picture(), 1)
        assert not client.add([boxed()])[0].success
        assert "down" in str(client.link_values()["link"])
        with serving(endpoint=endpoint):
            client.connect(PATIENCE)
            assert client.step(picture(), 2).stamp == 2


def test_health_and_metrics_over_http() -> None:
    with serving() as server, connected(server) as client:
        page = MetricsPage(server.metrics, "127.0.0.1", 0, server.health)
        client.step(picture(), 0)

        def get(path: str) -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{page.port}{path}", timeout=PATIENCE) as answer:
                return str(answer.read().decode())

        idle = [socket.create_connection(("127.0.0.1", page.port)) for _ in range(40)]
        assert '"ready": true, "streams": 1' in get("/health"), "though others say nothing"
        assert "sam2_ros_frames_total 1.0" in get("/metrics")
        assert 'sam2_ros_requests_total{op="step"} 1.0' in get("/metrics")
        idle[0].settimeout(PATIENCE)
        assert idle[0].recv(1) == b"", "the oldest made room"
        server.stop()
        with pytest.raises(urllib.error.HTTPError, match="503"):
            get("/health")
        page.close()
        for connection in idle:
            connection.close()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--bind", "tcp://0.0.0.0:5999"], "reached from other machines, and there are no keys"),
        (["--bind", "tcp://*:5999"], "reached from other machines"),
        (["--bind", "udp://127.0.0.1:1"], "the endpoint is 'udp://127.0.0.1:1'; accepted: ipc:"),
        (["--bind", "tcp://127.0.0.1:99999"], "accepted: ipc:"),
        (["--keys", "nothing.key_secret"], "belong together"),
        (["--max-streams", "0"], "accepted: more than 0"),
        (["--metrics", "9464"], "accepted: HOST:PORT"),
        (["--metrics", "0.0.0.0:0"], "the page asks for no keys"),
        (["--metrics", "[::]:0"], "the page asks for no keys"),
    ],
)
def test_what_can_not_be_served_is_said(options: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--model", "null", *options]) == 2
    assert words in capsys.readouterr().err


def test_objects_of_an_earlier_process_are_handed_to_the_first_server_that_answers() -> None:
    recovery, engine = Recovery(), NullBackend()
    engine.step(picture(), 5)
    engine.add([boxed(name="cup"), boxed(0, 0, 8, 8)])
    engine.remove(1)
    engine.add([boxed(name="cup")])
    newest = engine.objects()
    assert newest is not None
    recovery.note(newest.objects, picture(), 5)
    with serving() as server:
        address = server.endpoints[0]
    client = RemoteBackend([address], timeout=0.5)
    try:
        client.restore(SavedObjects(newest, recovery.sightings, engine.next_id))
        with pytest.raises(FrameDropped) as dropped:
            client.step(picture(), 6)
        hidden = dropped.value.hidden
        assert hidden is not None
        assert [(obj.object_id, obj.name, obj.state) for obj in hidden.objects] == [
            (2, "", ObjectState.OCCLUDED), (3, "cup", ObjectState.OCCLUDED),
        ]  # fmt: skip
        assert {change.reason for change in client.take_changes()} == {RESTARTED}
        with serving(endpoint=address):
            result = wait_until(lambda: answered(client, 7), "an answer")
            assert [(obj.object_id, obj.name, obj.state, obj.mask.area) for obj in result.objects] == [
                (2, "", ObjectState.VISIBLE, 64), (3, "cup", ObjectState.VISIBLE, 600),
            ]  # fmt: skip
            assert client.add([boxed(40, 10, 50, 20)])[0].object_id == 4
    finally:
        client.close()


def answered(client: RemoteBackend, stamp: int) -> FrameResult | None:
    try:
        return client.step(picture(), stamp)
    except FrameDropped:
        return None


def test_a_new_name_keeps_the_score_unless_there_is_a_new_one() -> None:
    with serving() as server, connected(server) as client:
        connect_patiently(client)
        client.step(picture(), 0)
        (added,) = client.add([replace(boxed(name="cup"), label="dish", label_score=0.25)])
        for score, known in ((None, 0.25), (0.5, 0.5), (0.0, 0.0)):
            client.rename(added.object_id, "mug", "bowl", score)
            obj = client.step(picture(), 1).object(added.object_id)
            assert (obj.name, obj.label, obj.label_score) == ("mug", "bowl", known)
