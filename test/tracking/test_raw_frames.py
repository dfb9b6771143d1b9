"""Images that are resized as part of the image encoder's CUDA graph, on a GPU or by Triton's interpreter; and how they
get there."""

from __future__ import annotations

import copy
import os
import threading
import time
import warnings
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_tracker import box, scene, small_model
from torch import Tensor

from sam2_ros.model.dispatch import has_triton
from sam2_ros.tracking import PromptRequest, Tracker, TrackerConfig, cuda_encoder
from sam2_ros.tracking.cuda_encoder import RawFrame
from sam2_ros.tracking.cuda_staging import Staged
from sam2_ros.tracking.shared_model import SharedModel

os.environ.setdefault("TRITON_INTERPRET", "0" if torch.cuda.is_available() else "1")
by_triton = pytest.mark.skipif(not has_triton(), reason="needs triton, which make setup installs, and torch 2.6")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def image(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def shared() -> SharedModel:
    found = SharedModel(copy.deepcopy(small_model()).to(DEVICE), use_graphs=True)
    found._resizes = True  # by the interpreter, too
    return found


def same(found: Tensor, wanted: Tensor) -> bool:
    return bool((found - wanted).norm() < 1e-4 * wanted.norm())


@by_triton
@torch.inference_mode()
def test_are_encoded_as_resized_ones() -> None:
    """One graph for several sizes, in any order."""
    one = shared()
    side = one.model.config.image_size
    for size in ((side, side), (side // 2, side), (11, 7), (side // 2, side)):
        frame = image(*size)
        assert one.takes_raw(frame, 1.0)
        found = one.encode(RawFrame(frame, DEVICE))
        wanted = one.encode(one.model.preprocess(torch.from_numpy(frame)))
        assert all(same(a, b) for a, b in zip(found.tensors, wanted.tensors, strict=True))


@by_triton
def test_a_tracker_gives_the_same_masks() -> None:
    found = []
    for resizes in (True, False):
        one = shared()
        one._resizes = resizes
        tracker = Tracker(one.model, TrackerConfig(max_objects=1), "float32", one)
        tracker.step(scene(0), 1)
        assert tracker.add([PromptRequest(box())])[0].success
        found.append([tracker.step(scene(index), index + 1).objects[0].mask.full() for index in range(1, 4)])
    differing = sum(int((a != b).sum()) for a, b in zip(*found, strict=True))
    assert all(mask.any() for mask in found[0])
    assert differing < 1e-3 * sum(mask.size for mask in found[0])


def test_not_those_that_shrink_or_are_wanted_smaller() -> None:
    one = shared()
    side = one.model.config.image_size
    assert one.takes_raw(image(side, 8), 1.0)
    assert not one.takes_raw(image(side + 1, 8), 1.0)
    assert not one.takes_raw(image(8, 8), 0.5)


@torch.inference_mode()
def test_that_wait_together_are_encoded_together() -> None:
    """Beside one that has been resized already."""
    one = shared()
    frames = [image(20, 30, seed) for seed in range(3)]
    pixels = [one.model.preprocess(torch.from_numpy(frame)) for frame in frames]
    wanted = [one.encode(each) for each in pixels]
    one.batches.clear()
    found = {}

    @torch.inference_mode()
    def encode(index: int) -> None:
        given = pixels[index] if index == 2 else RawFrame(frames[index], DEVICE)
        found[index] = one.encode(given)

    threads = [threading.Thread(target=encode, args=(index,)) for index in range(3)]
    deadline = time.monotonic() + 30
    with one.turn():
        for thread in threads:
            thread.start()
        while len(one._waiting) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    for thread in threads:
        thread.join()
    assert one.batches == {3: 1}
    for index in range(3):
        assert all(same(a, b) for a, b in zip(found[index].tensors, wanted[index].tensors, strict=True))


@pytest.mark.parametrize("fails", ["RawFrameEncoder", "GraphEncoder"])
@torch.inference_mode()
def test_one_kind_of_graph_fails_without_the_other(fails: str) -> None:
    one, frame = shared(), image(20, 30)
    pixels = one.model.preprocess(torch.from_numpy(frame))
    wanted = one.model.encode_image(pixels)
    with mock.patch.object(cuda_encoder, fails, side_effect=RuntimeError("out of memory")) as kind:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            if fails == "RawFrameEncoder":
                assert one.takes_raw(frame, 1.0)
                found = one.encode(RawFrame(frame, DEVICE))
                assert not one.takes_raw(frame, 1.0)
            else:
                found = one.encode(pixels)
                assert one.takes_raw(frame, 1.0)
            one.encode(pixels)
        assert kind.call_count == 1
    assert ["no CUDA graph for the image encoder" in str(each.message) for each in said] == [True]
    assert all(same(a, b) for a, b in zip(found.tensors, wanted.tensors, strict=True))


def test_what_is_staged_arrives() -> None:
    arrays: list[NDArray[Any]] = [
        np.arange(3, dtype=np.int32), image(5, 7)[::-1, ::2], np.zeros((0, 4), np.float64), np.array(7, np.int64),
        np.array([True, False]), np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.broadcast_to(np.float32(2), (3,)),
    ]  # fmt: skip
    there = Staged(DEVICE, *arrays).tensor().cpu().numpy()
    assert there.tobytes() == b"".join(array.tobytes() for array in arrays)


def test_what_is_staged_is_sent_once() -> None:
    staged = Staged(DEVICE, np.arange(4))
    staged.tensor()
    with pytest.raises(RuntimeError, match="sent once"):
        staged.tensor()


def test_an_image_arrives_in_its_shape() -> None:
    frame = image(9, 14)
    assert np.array_equal(RawFrame(frame, DEVICE).image().cpu().numpy(), frame)
