"""Images that are resized as part of the image encoder's recording, on a GPU or by Triton's interpreter."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
import torch
from small_tracker import small_model

from sam2_ros.model.kernels import has_triton
from sam2_ros.tracking.encoding import RawFrame
from sam2_ros.tracking.sharing import SharedModel

os.environ.setdefault("TRITON_INTERPRET", "0" if torch.cuda.is_available() else "1")
pytestmark = pytest.mark.skipif(not has_triton(), reason="Triton comes with PyTorch for GPUs; pip install triton")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def shared(together: bool = True) -> SharedModel:
    found = SharedModel(small_model().to(DEVICE), replays=True, together=together)
    found._resizes = True  # by the interpreter, too
    return found


def same(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    return bool((found - wanted).norm() < 1e-4 * wanted.norm())


@torch.inference_mode()
def test_are_encoded_as_resized_ones() -> None:
    """One recording for several sizes, in any order."""
    one = shared()
    side = one.model.config.image_size
    for size in ((side, side), (side // 2, side), (11, 7), (side // 2, side)):
        frame = image(*size)
        assert one.takes_raw(frame, 1.0)
        found = one.encode_raw(RawFrame(frame, DEVICE))
        wanted = one.encode(one.model.preprocess(torch.from_numpy(frame)))
        assert all(same(a, b) for a, b in zip(found.tensors, wanted.tensors, strict=True))


def test_not_those_that_shrink_or_are_wanted_smaller() -> None:
    one = shared()
    side = one.model.config.image_size
    assert not one.takes_raw(image(side + 1, 8), 1.0)
    assert not one.takes_raw(image(8, 8), 0.5)


@torch.inference_mode()
def test_that_wait_together_are_encoded_together() -> None:
    one = shared()
    frames = [image(20, 30, seed) for seed in range(3)]
    wanted = [one.encode(one.model.preprocess(torch.from_numpy(frame))) for frame in frames]
    one.batches.clear()
    found = {}

    def encode(index: int) -> None:
        found[index] = one.encode_raw(RawFrame(frames[index], DEVICE))

    threads = [threading.Thread(target=encode, args=(index,)) for index in range(3)]
    with one.turn():
        for thread in threads:
            thread.start()
        while len(one._waiting) < 3:
            pass
    for thread in threads:
        thread.join()
    assert one.batches == {3: 1}
    for index in range(3):
        assert all(same(a, b) for a, b in zip(found[index].tensors, wanted[index].tensors, strict=True))
