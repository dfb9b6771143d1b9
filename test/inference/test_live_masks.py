"""The thread that carries masks to every image, beside an engine that is late."""

from __future__ import annotations

import queue
import threading

import numpy as np
import pytest

from sam2_ros.inference.frames import Frame, decoded_once
from sam2_ros.inference.live_masks import MOST_WAITING, LiveImage, LiveMasks
from sam2_ros.tracking.types import CroppedMask, FrameResult, ObjectResult, ObjectState

PATIENCE = 60.0
IMAGE = np.random.default_rng(1).integers(0, 256, (48, 64, 3), np.uint8)


def frame(stamp: int) -> Frame:
    return Frame(stamp, lambda: IMAGE, 0)


def answer(stamp: int) -> FrameResult:
    mask = np.zeros((48, 64), np.bool_)
    mask[10:30, 10:30] = True
    return FrameResult(
        0, stamp, 64, 48, (ObjectResult(1, CroppedMask.from_full(mask), ObjectState.VISIBLE, 1, 1, 1, True),)
    )


def test_images_come_out_in_order_with_the_newest_answer() -> None:
    shown: queue.Queue[LiveImage] = queue.Queue()
    answers: list[FrameResult | None] = [None]
    live = LiveMasks(lambda: answers[-1], shown.put, lambda *_: pytest.fail("an image failed"))
    live.submit(frame(1))
    first = shown.get(timeout=PATIENCE)
    assert (first.frame.stamp, first.carried) == (1, None)
    assert first.image is IMAGE
    answers.append(answer(1))
    for stamp in (2, 3):
        live.submit(frame(stamp))
        one = shown.get(timeout=PATIENCE)
        assert one.frame.stamp == stamp and one.carried is not None
        assert (one.carried.network_stamp, one.carried.frames) == (1, stamp - 1)
    live.close(PATIENCE)
    live.submit(frame(4))
    assert shown.empty()


def test_an_image_that_fails_is_reported_and_the_next_one_comes() -> None:
    failed: queue.Queue[tuple[Frame, Exception]] = queue.Queue()
    shown: queue.Queue[LiveImage] = queue.Queue()
    live = LiveMasks(lambda: None, shown.put, lambda *args: failed.put(args))

    def refuse() -> np.ndarray:
        raise ValueError("no picture")

    live.submit(Frame(1, refuse, 0))
    where, why = failed.get(timeout=PATIENCE)
    assert (where.stamp, str(why)) == (1, "no picture")
    live.submit(frame(2))
    assert shown.get(timeout=PATIENCE).frame.stamp == 2
    live.close(PATIENCE)


def test_a_slow_taker_costs_the_oldest_images_not_memory() -> None:
    begun, go = threading.Event(), threading.Event()
    shown: list[int] = []

    def take(live: LiveImage) -> None:
        begun.set()
        assert go.wait(PATIENCE)
        shown.append(live.frame.stamp)
        if live.frame.stamp == 99:
            done.set()

    done = threading.Event()
    live = LiveMasks(lambda: None, take, lambda *_: None)
    live.submit(frame(1))
    assert begun.wait(PATIENCE)
    for stamp in range(90, 100):
        live.submit(frame(stamp))
    go.set()
    assert done.wait(PATIENCE)
    assert shown == [1, *range(100 - MOST_WAITING, 100)]
    live.close(PATIENCE)


def test_two_threads_decode_a_frame_once() -> None:
    calls: list[int] = []

    def decode() -> np.ndarray:
        calls.append(1)
        return IMAGE

    once = decoded_once(Frame(7, decode, 5, "header", "rgb8"))
    assert (once.stamp, once.receive_time, once.source, once.encoding) == (7, 5, "header", "rgb8")
    threads = [threading.Thread(target=once.decode) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert once.decode() is IMAGE and len(calls) == 1
