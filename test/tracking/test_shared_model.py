"""One network for several trackers in threads: batches, turns, and results that don't depend on other trackers."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import numpy as np
import pytest
import torch

from sam2_ros.inference import BackendFactory
from sam2_ros.inference.local import load_shared_model
from sam2_ros.tracking import FrameResult, Prompt, PromptRequest, Tracker
from sam2_ros.tracking.shared_model import SharedModel

PATIENCE = 60.0  # seconds until a test that waits in vain fails
FRAMES = 5


@pytest.fixture(scope="module")
def model() -> SharedModel:
    return load_shared_model("embedded", "cpu", "float32", runtime="torch")


def pixels(shared: SharedModel, seed: int) -> torch.Tensor:
    side = shared.model.config.image_size
    return torch.randn((1, 3, side, side), generator=torch.Generator().manual_seed(seed))


def test_frames_that_wait_at_the_same_time_are_one_batch(model: SharedModel) -> None:
    shared = SharedModel(model.model)
    images = [pixels(shared, seed) for seed in range(3)]
    with ThreadPoolExecutor(3) as threads:
        with shared.turn():  # until all three wait
            futures = [threads.submit(shared.encode, image) for image in images]
            wait_for(lambda: len(shared._waiting) == 3)
        found = [future.result(PATIENCE) for future in futures]
    assert shared.batches == {3: 1}
    for image, together in zip(images, found, strict=True):
        with torch.inference_mode():
            alone = shared.model.encode_image(image)
        for name in ("stride_16", "stride_8", "stride_4"):
            a, b = getattr(together, name), getattr(alone, name)
            assert a.shape == b.shape and a.untyped_storage().nbytes() == b.numel() * 4  # no other camera's frame
            torch.testing.assert_close(a, b, rtol=0, atol=1e-4 * max(1.0, float(b.abs().max())))


def wait_for(condition: object) -> None:
    event = threading.Event()
    for _ in range(int(PATIENCE / 0.01)):
        if condition():  # type: ignore[operator]
            return
        event.wait(0.01)
    pytest.fail("waited in vain")


def test_without_batches_every_frame_is_encoded_alone(model: SharedModel) -> None:
    shared = SharedModel(model.model, together=False)
    with ThreadPoolExecutor(3) as threads:
        with shared.turn():
            futures = [threads.submit(shared.encode, pixels(shared, seed)) for seed in range(3)]
            wait_for(lambda: len(shared._waiting) == 3)
        for future in futures:
            future.result(PATIENCE)
    assert shared.batches == {1: 3}


def test_frames_of_different_sizes_are_not_mixed(model: SharedModel) -> None:
    shared = SharedModel(model.model)
    small = pixels(shared, 0)[..., :128, :128]
    with ThreadPoolExecutor(3) as threads:
        with shared.turn():
            futures = [threads.submit(shared.encode, each) for each in (pixels(shared, 1), small, pixels(shared, 2))]
            wait_for(lambda: len(shared._waiting) == 3)
        for future in futures:
            future.result(PATIENCE)
    assert shared.batches == {2: 1, 1: 1}


def test_a_fault_reaches_all_frames_of_the_batch_and_no_later_one(model: SharedModel) -> None:
    shared = SharedModel(model.model)
    wrong = torch.zeros(1, 4, 64, 64)
    with pytest.raises(RuntimeError):
        shared.encode(wrong)
    assert shared.encode(pixels(shared, 0)).stride_16.isfinite().all()


def scene(camera: int, number: int) -> np.ndarray:
    frame = np.full((96, 128, 3), 60 + 40 * camera, np.uint8)
    frame[30 + camera * 8 : 66, 20 + 3 * number : 60 + 3 * number] = (200, 40 + 80 * camera, 30)
    return frame


def track(tracker: Tracker, camera: int, barrier: threading.Barrier | None = None) -> list[FrameResult]:
    results = []
    for number in range(FRAMES):
        if barrier:
            barrier.wait(PATIENCE)
        results.append(tracker.step(scene(camera, number), number + 1))
        if number == 0:
            (answer,) = tracker.add([PromptRequest(Prompt(box=np.array([20, 30, 60, 66], np.float32)))])
            assert answer.success, answer.message
    return results


def test_cameras_in_company_see_what_each_sees_alone(model: SharedModel) -> None:
    shared = SharedModel(model.model)
    alone = [track(Tracker(model.model), camera) for camera in range(3)]
    barrier = threading.Barrier(3)
    trackers = [Tracker(model.model, shared=shared) for _ in range(3)]
    with ThreadPoolExecutor(3) as threads:
        futures = [threads.submit(track, trackers[camera], camera, barrier) for camera in range(3)]
        together = [future.result(PATIENCE) for future in futures]
    assert sum(size * count for size, count in shared.batches.items()) == 3 * FRAMES
    for one, other in zip(chain(*alone), chain(*together), strict=True):
        assert [known.state for known in one.objects] == [known.state for known in other.objects]
        for a, b in zip(one.objects, other.objects, strict=True):
            assert a.visibility == pytest.approx(b.visibility, abs=1e-3)
            assert np.count_nonzero(a.mask.full() ^ b.mask.full()) <= 0.005 * max(1, a.mask.area)


def test_backends_of_one_factory_share_one_network() -> None:
    factory = BackendFactory("embedded", "cpu", "float32")
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(lambda _: factory.make(), range(2))
    assert first.model is second.model  # type: ignore[attr-defined]
    assert first.bank is not second.bank  # type: ignore[attr-defined]
    first.step(scene(0, 0), 1)
    assert second.objects() is None
    assert sum(factory.batches.values()) == 1
