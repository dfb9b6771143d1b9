"""Back to the preferred server once it is there again: same objects, nothing lost, at a moment that costs nothing."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from served import PATIENCE, ServerProcess, boxed, connect_patiently, connected, picture, serving

from sam2_ros.inference import NullBackend
from sam2_ros.inference.backend import BackendInfo, FrameDropped
from sam2_ros.remote import failback
from sam2_ros.remote.client import RemoteBackend
from sam2_ros.remote.connection import LinkDown, WrongAnswer
from sam2_ros.remote.server import Limits, Server
from sam2_ros.tracking import CroppedMask, FrameResult, ObjectState, TrackerConfig


class Camera:
    """Shows a client one frame after the other, and keeps what came back."""

    def __init__(self, client: RemoteBackend) -> None:
        self.client = client
        self.stamp = 0
        self.dropped = 0
        self.results: list[FrameResult] = []

    def show(self) -> FrameResult | None:
        self.stamp += 1
        try:
            self.results.append(self.client.step(picture(), self.stamp))
        except FrameDropped:
            self.dropped += 1
            return None
        return self.results[-1]

    def until(self, key: str, value: str) -> None:
        """Shows frames until the diagnostics say so."""
        deadline = time.monotonic() + PATIENCE
        while not str(self.client.link_values()[key]).startswith(value):
            assert time.monotonic() < deadline, self.client.link_values()
            self.show()
            time.sleep(0.01)


@contextmanager
def camera(*endpoints: str, return_after: float = 0.3, timeout: float = 5.0) -> Iterator[Camera]:
    client = RemoteBackend(endpoints, TrackerConfig(max_objects=4), timeout=timeout, return_after=return_after)
    try:
        connect_patiently(client)
        shown = Camera(client)
        shown.show()
        client.add([boxed(name="cup"), boxed(40, 5, 60, 20)])
        client.take_changes()
        shown.show()
        yield shown
    finally:
        client.close()


def told(camera: Camera) -> list[tuple[int, ObjectState | None]]:
    return [(change.object_id, change.state) for result in camera.results for change in result.changes]


def test_the_stream_goes_back_and_its_objects_never_notice(tmp_path: Path) -> None:
    """Killed, told to end, and hung; with real processes."""
    preferred = f"ipc://{tmp_path / 'preferred'}"
    first = ServerProcess("--bind", preferred)
    with ServerProcess("--bind", f"ipc://{tmp_path / 'spare'}") as second:
        try:
            with camera(preferred, second.endpoint) as shown:
                assert shown.client.link_values()["preferred server"] == "serves"
                for end in (ServerProcess.kill, ServerProcess.terminate):
                    end(first)
                    first.close()
                    shown.until("server", second.endpoint)
                    shown.show()
                    shown.results.clear()
                    dropped = shown.dropped
                    first = ServerProcess("--bind", preferred)
                    shown.until("server", preferred)
                    shown.show()
                    assert shown.dropped == dropped, "no frame is lost on the way back"
                    assert told(shown) == [], "nor is an object hidden"
                for result in shown.results:
                    assert [(obj.object_id, obj.name) for obj in result.objects] == [(1, "cup"), (2, "")]
                    assert {obj.state for obj in result.objects} == {ObjectState.VISIBLE}
                counted = [result.objects[0].frames_tracked for result in shown.results]
                assert counted == sorted(counted) and len(set(counted)) == len(counted)
                assert shown.client.add([boxed()])[0].object_id == 3

                os.kill(first.process.pid, signal.SIGSTOP)
                shown.until("server", second.endpoint)
                os.kill(first.process.pid, signal.SIGCONT)
                shown.until("server", preferred)
                found = shown.show()
                assert found is not None and [obj.object_id for obj in found.objects] == [1, 2, 3]
        finally:
            first.close()


class Hiding(NullBackend):
    """The first object is not in sight while the class says so."""

    hidden = threading.Event()
    state = ObjectState.OCCLUDED

    def step(self, frame: Any, stamp: int) -> FrameResult:
        result = super().step(frame, stamp)
        if not self.hidden.is_set() or not result.objects:
            return result
        nothing = CroppedMask.empty(result.width, result.height)
        first = replace(result.objects[0], state=self.state, mask=nothing)
        return replace(result, objects=(first, *result.objects[1:]))


def test_a_hidden_object_keeps_the_stream_where_its_memory_is(tmp_path: Path) -> None:
    preferred = f"ipc://{tmp_path / 'preferred'}"
    Hiding.hidden.clear()
    with serving(Hiding) as second, camera(preferred, second.endpoints[0]) as shown:
        Hiding.hidden.set()
        with serving(endpoint=preferred) as first:
            shown.until("preferred server", "ready")
            for _ in range(20):
                assert shown.show() is not None
            assert shown.client.link_values()["server"] == second.endpoints[0]
            assert first.health()["streams"] == 1, "its stream is open already"
            Hiding.hidden.clear()
            shown.until("server", preferred)
            assert [obj.object_id for obj in shown.show().objects] == [1, 2]  # type: ignore[union-attr]


def test_a_lost_object_is_looked_for_again_by_the_preferred_server(tmp_path: Path) -> None:
    preferred = f"ipc://{tmp_path / 'preferred'}"
    Hiding.hidden.clear()
    with (
        mock.patch.object(Hiding, "state", ObjectState.LOST),
        serving(Hiding) as second,
        camera(preferred, second.endpoints[0]) as shown,
    ):
        Hiding.hidden.set()
        shown.show()
        with serving(endpoint=preferred):
            shown.until("server", preferred)
            shown.show()
            assert told(shown) == [(1, ObjectState.OCCLUDED), (1, ObjectState.VISIBLE)]
            assert {obj.state for obj in shown.results[-1].objects} == {ObjectState.VISIBLE}


def test_a_server_that_makes_no_engine_is_given_up_for_the_next(tmp_path: Path) -> None:
    gate = threading.Event()

    def slow(config: TrackerConfig) -> NullBackend:
        assert gate.wait(PATIENCE)
        return NullBackend(config)

    preferred = f"ipc://{tmp_path / 'preferred'}"
    with (
        mock.patch("sam2_ros.remote.connection.HELLO_TIMEOUT", 0.3),
        serving(slow, preferred),
        serving() as second,
        camera(preferred, second.endpoints[0]) as shown,
    ):
        assert shown.client.link_values()["server"] == second.endpoints[0]
        for _ in range(50):  # its pings are answered, and again it makes no engine: nobody waits for it
            assert shown.show() is not None
            time.sleep(0.02)
        gate.set()
        shown.until("server", preferred)


def test_a_server_that_can_not_take_over_changes_nothing(tmp_path: Path) -> None:
    preferred = f"ipc://{tmp_path / 'preferred'}"
    tried = threading.Event()

    class Refusing(NullBackend):
        def step(self, frame: Any, stamp: int) -> FrameResult:
            tried.set()
            raise RuntimeError("out of memory")

    with serving() as second, camera(preferred, second.endpoints[0]) as shown:
        with serving(Refusing, preferred):
            deadline = time.monotonic() + PATIENCE
            while not tried.is_set():
                assert time.monotonic() < deadline
                shown.show()
                time.sleep(0.01)
            for _ in range(5):
                assert shown.show() is not None
        assert shown.client.link_values()["server"] == second.endpoints[0]
        assert shown.dropped == 0 and told(shown) == []


def test_a_stream_waits_until_the_preferred_server_has_a_place(tmp_path: Path) -> None:
    preferred = f"ipc://{tmp_path / 'preferred'}"
    with (
        serving(endpoint=preferred, limits=Limits(streams=1)) as first,
        serving() as second,
        camera(preferred) as occupant,
        camera(preferred, second.endpoints[0], return_after=0.1) as shown,
    ):
        before = asked(first)
        deadline = time.monotonic() + PATIENCE
        while asked(first) < before + 5:
            assert time.monotonic() < deadline
            assert shown.show() is not None
            assert shown.client.link_values()["server"] == second.endpoints[0]
            time.sleep(0.01)
        assert shown.client.link_values()["preferred server"] == "does not answer" and first.health()["streams"] == 1
        occupant.client.close()
        shown.until("server", preferred)


def asked(server: Server) -> float:
    """Pings that a server has answered."""
    return server.metrics.registry.get_sample_value("sam2_ros_requests_total", {"op": "ping"}) or 0.0


def test_without_failback_nobody_asks_the_preferred_server(tmp_path: Path) -> None:
    preferred = f"ipc://{tmp_path / 'preferred'}"
    with (
        serving() as second,
        camera(preferred, second.endpoints[0], return_after=0.0) as shown,
        serving(endpoint=preferred) as first,
    ):
        for _ in range(30):
            assert shown.show() is not None
            time.sleep(0.02)
        assert shown.client.link_values()["server"] == second.endpoints[0] and asked(first) == 0


def test_a_full_server_does_not_hide_the_next_one(tmp_path: Path) -> None:
    first, second = f"ipc://{tmp_path / 'first'}", f"ipc://{tmp_path / 'second'}"
    with (
        serving(endpoint=first, limits=Limits(streams=1)) as full,
        serving() as last,
        camera(first),
        camera(first, second, last.endpoints[0], return_after=0.1) as shown,
    ):
        assert shown.client.link_values()["server"] == last.endpoints[0]
        with serving(endpoint=second):
            shown.until("server", second)
            assert full.health()["streams"] == 1
            assert [result.frame_index for result in shown.results] == list(range(len(shown.results)))
            assert shown.dropped == 0


def test_a_server_that_was_away_must_be_healthy_anew() -> None:
    """On a clock of its own, and with a server that answers when the test says so."""
    now, answers = 0.0, True

    class Flapping:
        def __init__(self, endpoint: str, ending: threading.Event) -> None:
            self.endpoint = endpoint

        def ping(self) -> dict[str, Any]:
            if not answers:
                raise LinkDown("away")
            return {"ready": True, "streams": 0, "streams_at_most": 1}

        def close(self, reason: str, bye: bool = False) -> None:
            pass

    clock = mock.patch.object(failback, "time", SimpleNamespace(monotonic=lambda: now))
    with clock:
        watched: Any = failback.Failback(["tcp://a:1"], 10.0, Flapping, lambda connection: None)  # type: ignore[arg-type]
        watched.close()  # its thread; the test looks instead
        assert watched._look() is None
        now = 6.0
        answers = False
        assert watched._look() is None and watched.state == "does not answer"
        now, answers = 7.0, True
        assert watched._look() is None
        now = 16.0
        assert watched._look() is None, "healthy for 9 s"
        now = 17.0
        assert watched._look().endpoint == "tcp://a:1"


class Fleet:
    """Servers of which the test says what they answer, for a :class:`failback.Failback` without its thread."""

    def __init__(self, *endpoints: str, after: float = 10.0) -> None:
        self.now = 0.0
        self.health: dict[str, dict[str, Any] | None] = dict.fromkeys(endpoints)  # None: away
        self.refuses: set[str] = set()  # a hello
        self.closed: list[tuple[str, str]] = []
        self.watched: Any = failback.Failback(endpoints, after, self._connect, self._hello)
        self.watched.close()

    def _connect(self, endpoint: str, ending: threading.Event) -> Any:
        if self.health[endpoint] is None:
            raise WrongAnswer("odd")

        def ping() -> Any:
            if self.health[endpoint] is None:
                raise LinkDown("away")
            return self.health[endpoint]

        def close(reason: str, bye: bool = False) -> None:
            self.closed.append((endpoint, reason))

        return SimpleNamespace(endpoint=endpoint, ping=ping, close=close)

    def _hello(self, connection: Any) -> None:
        if connection.endpoint in self.refuses:
            raise LinkDown("no engine")

    def look(self, now: float) -> str | None:
        """Which server is offered at this time."""
        with mock.patch.object(failback, "time", SimpleNamespace(monotonic=lambda: now)):
            found = self.watched._look()
        return None if found is None else str(found.endpoint)


def healthy(streams: int = 0, ready: bool = True) -> dict[str, Any]:
    return {"ready": ready, "streams": streams, "streams_at_most": 2}


def test_the_best_server_that_was_healthy_for_long_enough_is_offered() -> None:
    fleet = Fleet("tcp://a:1", "tcp://b:1")
    assert fleet.look(0) is None and fleet.watched.state == "does not answer" and not fleet.closed
    fleet.health["tcp://b:1"] = healthy()
    assert fleet.look(1) is None and fleet.closed == [("tcp://b:1", "not yet")]
    assert fleet.watched.state == "answers since 0 s"
    fleet.health["tcp://a:1"] = healthy(1)
    assert fleet.look(5) is None, "the better one may be ready soon"
    assert fleet.look(12) is None and fleet.watched.state == "answers since 7 s"
    fleet.health["tcp://a:1"] = None
    assert fleet.look(13) == "tcp://b:1", "since 12 s"
    fleet.health["tcp://a:1"] = healthy(1)
    assert fleet.look(14) is None and fleet.look(23.9) is None and fleet.look(24) == "tcp://a:1"


@pytest.mark.parametrize("health", [healthy(2), healthy(3), healthy(ready=False)], ids=["full", "fuller", "not ready"])
def test_a_server_without_room_counts_as_away(health: dict[str, Any]) -> None:
    fleet = Fleet("tcp://a:1", "tcp://b:1")
    fleet.health = {"tcp://a:1": healthy(), "tcp://b:1": healthy()}
    fleet.look(0)
    fleet.health["tcp://a:1"] = health
    assert fleet.look(5) is None and fleet.closed[-2:] == [("tcp://a:1", "not now"), ("tcp://b:1", "not yet")]
    assert fleet.look(15) == "tcp://b:1"
    fleet.health["tcp://a:1"] = healthy()
    assert fleet.look(16) is None and fleet.look(25) is None and fleet.look(26) == "tcp://a:1"


def test_a_server_that_makes_no_engine_has_to_be_healthy_anew() -> None:
    fleet = Fleet("tcp://a:1", "tcp://b:1")
    fleet.health, fleet.refuses = {"tcp://a:1": healthy(), "tcp://b:1": healthy()}, {"tcp://a:1"}
    assert fleet.look(0) is None
    assert fleet.look(10) is None and fleet.closed[1:] == [("tcp://a:1", "no engine"), ("tcp://b:1", "not yet")]
    fleet.refuses.clear()
    assert fleet.look(19) is None and fleet.look(29) == "tcp://a:1"


def test_an_offer_is_taken_once_and_replaced_when_its_server_goes() -> None:
    fleet = Fleet("tcp://a:1")
    fleet.health["tcp://a:1"] = healthy()
    watched = fleet.watched
    with mock.patch.object(failback, "time", SimpleNamespace(monotonic=lambda: fleet.now)):
        watched._after = 0.0
        for stops in ([False, True], [False, True]):  # a turn of its thread each; the second one keeps the offer
            watched._stopping = mock.Mock(wait=mock.Mock(side_effect=stops))
            watched._run()
            assert watched.state == "ready; waits until no object is hidden" and not fleet.closed
        fleet.health["tcp://a:1"] = None
        watched._stopping = mock.Mock(wait=mock.Mock(side_effect=[False, True]))
        watched._run()
        assert fleet.closed == [("tcp://a:1", "away")] and watched.take() is None
        fleet.health["tcp://a:1"] = healthy()
        watched._stopping = mock.Mock(wait=mock.Mock(side_effect=[False, True]))
        watched._run()
        with watched._lock:
            assert watched.take() is None, "it never waits"
        assert watched.take().endpoint == "tcp://a:1" and watched.take() is None


@pytest.mark.parametrize(("after", "period"), [(0.3, 0.1), (6.0, 2.0), (60.0, 2.0)])
def test_pings_come_often_enough_and_not_more_often(after: float, period: float) -> None:
    assert Fleet("tcp://a:1", after=after).watched._period == pytest.approx(period)


def test_a_client_that_was_never_connected_knows_nothing_of_its_server() -> None:
    with connected("tcp://127.0.0.1:1", TrackerConfig(max_objects=3)) as client:
        assert client.info == BackendInfo("unknown", "not connected", "unknown", 0, 0, 3)
