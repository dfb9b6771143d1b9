"""A frame that is encoded while the one before is tracked gives the same tracks; each side has half of the threads."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_tracker import small_model

from sam2_ros.inference import BackendFactory
from sam2_ros.inference.backend import EncodesAhead
from sam2_ros.inference.frames import Frame, Processed
from sam2_ros.inference.worker import Worker
from sam2_ros.tracking import FrameResult, Prompt, PromptRequest, Tracker, TrackerConfig, shared_model
from sam2_ros.tracking.shared_model import SharedModel

FRAMES = 12
PATIENCE = 60.0


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Every thread of this process uses two; their number changes the last bits of sums."""
    before, whole = torch.get_num_threads(), shared_model._Threads.whole
    shared_model._Threads.whole = 0
    torch.set_num_threads(2)
    yield
    shared_model._Threads.whole = whole
    torch.set_num_threads(before)


def frame(index: int) -> NDArray[np.uint8]:
    image = np.random.default_rng(0).integers(60, 120, (90, 120, 3), dtype=np.uint8)
    image[20:50, 10 + 4 * index : 40 + 4 * index] = (220, 40, 30)
    return image


def request() -> PromptRequest:
    return PromptRequest(Prompt(box=np.array([10, 20, 40, 50], np.float32)))


def told(result: FrameResult) -> list[tuple[object, ...]]:
    return [(one.object_id, one.state, one.object_score, one.mask.box, one.mask.area) for one in result.objects]


def test_a_frame_may_be_encoded_before_its_turn() -> None:
    alone = Tracker(small_model(), TrackerConfig(deadline=1e-9))  # sheds load at once
    ahead = Tracker(small_model(), TrackerConfig(deadline=1e-9))
    for index in range(FRAMES):
        ahead._load_shedder.level = alone._load_shedder.level  # it depends on measured times, which differ
        expected = alone.step(frame(index), index + 1)
        found = ahead.step(ahead.encode(frame(index)), index + 1)
        assert told(found) == told(expected) and found.width == 120 and found.height == 90
        assert found.timings_ms.keys() == expected.timings_ms.keys() and found.load_shedding == expected.load_shedding
        if index == 0:
            assert alone.add([request()])[0].success and ahead.add([request()])[0].success
    assert expected.load_shedding, "the last frames were worked on with less"
    with pytest.raises(ValueError, match=r"uint8 of shape \[H, W, 3\]"):
        ahead.encode(np.zeros((9, 9), np.uint8))


def test_encoding_beside_tracking_changes_nothing() -> None:
    model = small_model()
    alone, shared = Tracker(model), SharedModel(model, ahead=True)
    tracker = Tracker(model, shared=shared)
    torch.set_num_threads(1)
    expected = []
    for index in range(FRAMES):
        expected.append(told(alone.step(frame(index), index + 1)))
        if index == 0:
            assert alone.add([request()])[0].success
    with ThreadPoolExecutor(1) as helper:
        coming = helper.submit(tracker.encode, frame(0))
        for index in range(FRAMES):
            encoded = coming.result(PATIENCE)
            coming = helper.submit(tracker.encode, frame(index + 1))
            assert told(tracker.step(encoded, index + 1)) == expected[index]
            if index == 0:
                assert tracker.add([request()])[0].success


def test_each_side_has_half_of_the_threads_however_often_a_network_is_loaded() -> None:
    model = small_model()
    pixels = torch.zeros(1, 3, model.config.image_size, model.config.image_size)
    shared_model.give_threads(4)

    def threads_of(ahead: bool) -> tuple[int, int]:
        """Threads of the helper that encodes, and of the thread that tracks."""
        shared = SharedModel(model, ahead=ahead)
        with ThreadPoolExecutor(1) as helper:
            helper.submit(shared.encode, pixels).result(PATIENCE)
            encoding = helper.submit(torch.get_num_threads).result(PATIENCE)
        with shared.turn():
            return encoding, torch.get_num_threads()

    for ahead, expected in ((True, 2), (True, 2), (False, 4), (True, 2)):
        with ThreadPoolExecutor(1) as fresh:  # as the node loads a network in a thread of its own
            assert fresh.submit(threads_of, ahead).result(PATIENCE) == (expected, expected)
    shared_model.give_threads(6)
    assert threads_of(True) == (3, 3) and threads_of(False) == (6, 6)


def test_the_encoder_has_turns_of_its_own() -> None:
    model = small_model()
    for ahead in (False, True):
        shared = SharedModel(model, ahead=ahead)
        pixels = torch.zeros(1, 3, model.config.image_size, model.config.image_size)
        with ThreadPoolExecutor(1) as helper:
            with shared.turn():
                encoding = helper.submit(shared.encode, pixels)
                if ahead:
                    encoding.result(PATIENCE)
                else:
                    with pytest.raises(futures.TimeoutError):  # the built-in one from Python 3.11 on
                        encoding.result(0.3)
            encoding.result(PATIENCE)


class _Listener:
    def __init__(self) -> None:
        self.processed: list[Processed] = []
        self.failures: list[Exception] = []

    def on_processed(self, processed: Processed) -> None:
        self.processed.append(processed)

    def on_changes(self, processed: Processed) -> None: ...

    def on_objects(self, processed: Processed) -> None: ...

    def on_hidden(self, processed: Processed) -> None: ...

    def on_restart(self, frame: Frame, reason: str) -> None: ...

    def on_failure(self, frame: Frame, error: Exception) -> None:
        self.failures.append(error)


def test_the_embedded_model_tracks_encoding_ahead() -> None:
    factory = BackendFactory("embedded", "cpu", "float32", image_size=224, ahead=True)
    listener = _Listener()
    worker = Worker(factory.make, listener, queue=FRAMES)
    worker.start().result(PATIENCE)
    ahead = worker.call(lambda backend: isinstance(backend, EncodesAhead) and backend.encodes_ahead)
    assert ahead.result(PATIENCE)
    worker.resume()
    for index in range(FRAMES):
        worker.submit(Frame(index + 1, partial(frame, index), 0))
        if index == 0:
            added = worker.call_on_frame(lambda backend: backend.add([request()], 1), 1, PATIENCE)
            assert added.result(PATIENCE)[0].success
    worker.call_on_frame(lambda backend: None, FRAMES, PATIENCE).result(PATIENCE)
    worker.close(PATIENCE)
    assert not listener.failures and [each.frame.stamp for each in listener.processed] == list(range(1, FRAMES + 1))
    for index, each in enumerate(listener.processed[1:], start=1):
        (one,) = each.result.objects
        x0, _, x1, _ = one.mask.box
        assert abs((x0 + x1) / 2 - (25 + 4 * index)) < 6, "it follows the box"
