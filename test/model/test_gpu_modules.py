"""The network's modules with the Triton kernels in them against the plain ones, on a GPU or by Triton's interpreter."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from unittest import mock

import pytest
import torch
from torch import Tensor

from sam2_ros.bench.weights import draw
from sam2_ros.model import ModelConfig, Sam2Model, dispatch, hiera, layers, mask_decoder, memory_encoder, sam2
from sam2_ros.model.dispatch import has_triton
from sam2_ros.model.network import ImageFeatures

os.environ.setdefault("TRITON_INTERPRET", "0" if torch.cuda.is_available() else "1")
pytestmark = pytest.mark.skipif(not has_triton(), reason="needs triton, which make setup installs, and torch 2.6")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MODULES = sam2, hiera, layers, mask_decoder, memory_encoder
GRID, OBJECTS = 4, 3


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


@pytest.fixture(scope="module")
def model() -> Sam2Model:
    torch.manual_seed(0)
    model = Sam2Model(ModelConfig("test", image_size=16 * GRID, memory_layers=1, memory_ffn=64))
    draw(model)
    return model.to(DEVICE).eval()


@pytest.fixture(scope="module")
def features() -> ImageFeatures:
    return ImageFeatures(
        noise(1, 256, GRID, GRID, seed=1),
        noise(1, 64, 2 * GRID, 2 * GRID, seed=2),
        noise(1, 32, 4 * GRID, 4 * GRID, seed=3),
    )


def run(function: Callable[[], list[Tensor]], fast: bool, rounds: bool) -> list[Tensor]:
    with ExitStack() as stack:
        for module in MODULES:
            stack.enter_context(mock.patch.object(module, "uses_triton", lambda _: fast))
        if not rounds:
            stack.enter_context(mock.patch.object(dispatch, "TRITON_DTYPE", torch.float32))
        stack.enter_context(torch.autocast(DEVICE, torch.bfloat16, enabled=rounds))
        stack.enter_context(torch.inference_mode())
        return [tensor.float() for tensor in function()]


def check(function: Callable[[], list[Tensor]]) -> None:
    """Each of the tensors is by the kernels what it is by plain formulas: in float32 by the interpreter, which rounds
    to bfloat16 in a way of its own, and in bfloat16 on a GPU, as near to float32 as the plain ones are."""
    exact = run(function, fast=False, rounds=False)
    if DEVICE == "cpu":
        for fast, wanted in zip(run(function, fast=True, rounds=False), exact, strict=True):
            assert not torch.equal(fast, wanted), "no kernel ran"
            assert (fast - wanted).norm() < 1e-5 * wanted.norm()
        return
    for plain, fast, wanted in zip(run(function, False, True), run(function, True, True), exact, strict=True):
        assert not torch.equal(fast, plain), "no kernel ran"
        drifts = [((found - wanted).norm() / wanted.norm()).item() for found in (plain, fast)]
        assert drifts[1] < 1.25 * drifts[0] < 0.05


@pytest.mark.parametrize("binarized", [False, True])
def test_memory_encoder(model: Sam2Model, features: ImageFeatures, binarized: bool) -> None:
    logits, present = (
        5 * noise(OBJECTS, 1, 4 * GRID, 4 * GRID, seed=4),
        torch.tensor([True, False, True], device=DEVICE),
    )
    binarize = torch.tensor([False, False, True], device=DEVICE) if binarized else None
    check(lambda: [model.encode_low_memory(features, logits, present, binarize)])


def test_mask_decoder(model: Sam2Model, features: ImageFeatures) -> None:
    # As the memory attention gives it: tokens, seen as a map.
    conditioned = noise(OBJECTS, GRID**2, 256, seed=5).transpose(1, 2).unflatten(2, (GRID, GRID))
    check(lambda: [model.decode(conditioned, features, *model.no_prompt(OBJECTS)).logits])


def test_mask_decoder_of_as_many_images_as_objects(model: Sam2Model, features: ImageFeatures) -> None:
    each = ImageFeatures(*(torch.cat((one, one + 1, one - 1)) for one in features.tensors[:3]))
    conditioned = noise(OBJECTS, 256, GRID, GRID, seed=6)
    check(lambda: [model.decode(conditioned, each, *model.no_prompt(OBJECTS)).logits])


def test_image_encoder() -> None:
    torch.manual_seed(0)
    model = Sam2Model(ModelConfig("test", image_size=128, memory_layers=1, memory_ffn=64))
    draw(model)
    model.to(DEVICE).eval()
    images = noise(2, 3, 128, 128, seed=7)
    check(lambda: model.encode_image(images).tensors[:3])
