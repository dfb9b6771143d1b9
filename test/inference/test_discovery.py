"""What no track covers becomes an object: the rules, and searches between the frames of a worker's stream."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sam2_ros.inference import NullBackend
from sam2_ros.inference.discovery import MOST_ASKED, Discovery, DiscoverySettings, iou, share, whole_objects
from sam2_ros.inference.frames import Counters, Frame, Processed
from sam2_ros.inference.local import LocalBackend, load_shared_model
from sam2_ros.inference.worker import Worker
from sam2_ros.media.rendered_scene import bounding_box, render
from sam2_ros.tracking import CroppedMask, Prompt, PromptError, PromptRequest, TrackerConfig

PATIENCE = 120.0  # seconds
SETTINGS = DiscoverySettings(points=7, slice=10, min_stability=0.8)


def rectangle(x0: int, y0: int, x1: int, y1: int) -> CroppedMask:
    mask = np.zeros((60, 80), np.bool_)
    mask[y0:y1, x0:x1] = True
    return CroppedMask.from_full(mask)


def test_shares_and_ious() -> None:
    one, other, apart = rectangle(10, 10, 20, 20), rectangle(15, 10, 35, 20), rectangle(50, 40, 60, 50)
    assert share(one, other) == share(other, one) == 0.5
    assert iou(one, other) == pytest.approx(50 / 250) and iou(one, one) == 1.0
    assert share(one, apart) == iou(one, apart) == share(one, CroppedMask.empty(80, 60)) == 0.0


def test_of_whole_and_part_the_whole_stays_and_background_goes() -> None:
    whole, part, neighbour = rectangle(10, 10, 40, 30), rectangle(12, 12, 20, 20), rectangle(50, 10, 60, 20)
    background, speck = rectangle(0, 0, 80, 40), rectangle(70, 50, 71, 51)
    found = [part, background, neighbour, speck, whole]
    assert whole_objects(found, DiscoverySettings(max_area=0.3)) == [whole, neighbour]
    assert whole_objects(found, DiscoverySettings(max_area=0.1)) == [neighbour, part]
    assert whole_objects(found, DiscoverySettings(max_area=0.3, min_area=0.0)) == [whole, neighbour, speck]


class Camera:
    """A worker on the embedded model, its newest results, and its discovery."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.settings, self.wanted, self.problems = SETTINGS, False, list[str]()
        self.results: list[Processed] = []
        self.between: list[int] = []  # processed frames, as each search's slice saw them
        self.worker = Worker(make, self)
        self.discovery = Discovery(self._queue, lambda: self.settings, lambda: self.wanted, self.problems.append)
        self.arrived = threading.Condition()
        self.worker.start().result(PATIENCE)
        self.worker.resume()

    def _queue(self, apply: Callable[[Any], Any]) -> Any:
        self.between.append(len(self.results))
        return self.worker.call(apply)

    def on_processed(self, processed: Processed) -> None:
        self.discovery.note(processed)
        with self.arrived:
            self.results.append(processed)
            self.arrived.notify_all()

    def on_restart(self, *_: Any) -> None:
        self.discovery.forget()

    def on_failure(self, frame: Frame, error: Exception) -> None:
        raise error

    def on_changes(self, *_: Any) -> None:
        pass

    on_objects = on_hidden = on_changes

    def show(self, rgb: Any) -> Processed:
        """Processes one more frame."""
        count = len(self.results)
        self.worker.submit(Frame(1 + count, lambda: rgb, 0))
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.results) > count, PATIENCE)
        return self.results[-1]

    def objects(self) -> list[CroppedMask]:
        newest = self.worker.call(lambda backend: backend.objects()).result(PATIENCE)
        return [] if newest is None else [obj.mask for obj in newest.objects]


@contextmanager
def camera(make: Callable[[], Any]) -> Iterator[Camera]:
    running = Camera(make)
    try:
        yield running
    finally:
        running.worker.close(PATIENCE)


@pytest.fixture(scope="module")
def shared() -> Any:
    return load_shared_model("embedded", "cpu", threads=1)


@pytest.fixture(scope="module")
def frames() -> list[Any]:
    return list(render(16, 320, 240, post=False))[:2]


def test_discovers_what_is_there_once(shared: Any, frames: list[Any]) -> None:
    """The prompted ball stays one object; the book is found, and again nothing. Frames are tracked between slices."""
    ball, book = frames[0].masks.values()
    rgb = frames[0].rgb
    with camera(lambda: LocalBackend(shared, TrackerConfig(max_objects=6))) as running:
        running.show(rgb)
        prompt = Prompt(box=np.array(bounding_box(ball), np.float32))
        running.worker.call(lambda backend: backend.add([PromptRequest(prompt)])).result(PATIENCE)
        asked, shown = running.discovery.ask(), 0
        while not asked.done():
            running.show(rgb)
            shown += 1
        added = asked.result(PATIENCE)
        assert 1 not in added and shown >= 4
        steps = [after - before for before, after in zip(running.between, running.between[1:], strict=False)]
        assert sum(step > 0 for step in steps) >= 3  # the search did not run in one go
        masks = running.objects()
        assert len(masks) == 1 + len(added)
        book_mask = CroppedMask.from_full(book)
        assert max(iou(mask, book_mask) for mask in masks) > 0.7
        assert all(share(a, b) < 0.6 for i, a in enumerate(masks) for b in masks[:i])
        again = running.discovery.ask()
        while not again.done():
            running.show(rgb)
        assert again.result() == []
        assert not running.problems


def test_a_limit_and_a_period(shared: Any, frames: list[Any]) -> None:
    with camera(lambda: LocalBackend(shared, TrackerConfig(max_objects=6))) as running:
        running.settings = replace(SETTINGS, max_objects=1, period=0.1)
        running.wanted = True
        deadline = time.monotonic() + PATIENCE
        while not running.show(frames[0].rgb).result.objects and time.monotonic() < deadline:
            pass
        running.settings = replace(running.settings, min_area=0.0)
        for _ in range(6):
            running.show(frames[0].rgb)
        assert [obj.object_id for obj in running.results[-1].result.objects] == [1]
        assert not running.problems


def test_an_engine_without_images_says_so() -> None:
    with camera(NullBackend) as running:
        with pytest.raises(PromptError, match="no frame was processed"):
            running.discovery.ask().result(PATIENCE)
        running.show(np.zeros((24, 32, 3), np.uint8))
        with pytest.raises(PromptError, match="single images need a network in the node's own process"):
            running.discovery.ask().result(PATIENCE)
        running.wanted, running.settings = True, replace(SETTINGS, period=0.1)
        deadline = time.monotonic() + PATIENCE
        while not running.problems and time.monotonic() < deadline:
            running.show(np.zeros((24, 32, 3), np.uint8))
        assert "single images need a network" in running.problems[0]


def test_a_step_of_a_search_that_has_ended_does_nothing(shared: Any, frames: list[Any]) -> None:
    """Requests that come in a row run as one search: at most one step waits at a time."""
    waiting: deque[Callable[[], None]] = deque()
    backend, problems = LocalBackend(shared, TrackerConfig(max_objects=6)), list[str]()

    def queue(apply: Callable[[Any], Any]) -> Future[Any]:
        done: Future[Any] = Future()

        def run() -> None:
            try:
                done.set_result(apply(backend))
            except PromptError as error:
                done.set_exception(error)

        waiting.append(run)
        return done

    rgb = frames[0].rgb
    shown = Processed(Frame(1, lambda: rgb, 0), rgb, backend.step(rgb, 1), 0, 0, Counters())
    discovery = Discovery(queue, lambda: SETTINGS, lambda: True, problems.append)
    discovery.forget()
    assert not problems, "nothing was searched"
    discovery.note(shown)
    waiting.popleft()()  # begins, and queues the first step
    again = discovery.ask()
    waiting.popleft()()  # the first step, which queues the second behind the request
    discovery.forget()
    discovery.note(shown)
    others = [discovery.ask() for _ in range(MOST_ASKED)]
    for _ in range(len(waiting)):  # the request begins another search; the old one's step is behind it
        waiting.popleft()()
    assert len(waiting) == 1
    while waiting:
        waiting.popleft()()
    assert again.result() == others[0].result() != []
    with pytest.raises(PromptError, match="wait for the search already"):
        others[-1].result()
    backend.close()


def test_who_no_longer_waits_is_left_out(shared: Any, frames: list[Any]) -> None:
    """A client that cancelled takes nothing from the others that wait for the same search."""
    with camera(lambda: LocalBackend(shared, TrackerConfig(max_objects=6))) as running:
        running.show(frames[0].rgb)
        gate = threading.Event()
        running.worker.call(lambda backend: gate.wait(PATIENCE))
        gone, waits = running.discovery.ask(), running.discovery.ask()
        assert gone.cancel()
        gate.set()
        assert waits.result(PATIENCE)
        assert gone.cancelled() and not running.problems


def test_a_restart_ends_the_search(shared: Any, frames: list[Any]) -> None:
    with camera(lambda: LocalBackend(shared, TrackerConfig(max_objects=2))) as running:
        running.show(frames[0].rgb)
        asked = running.discovery.ask()
        running.show(np.ascontiguousarray(frames[0].rgb[:, :120]))  # another aspect
        with pytest.raises(PromptError, match="interrupted"):
            asked.result(PATIENCE)
        assert running.objects() == []
