"""The memory attention made of Triton kernels against the plain one, on a GPU or by Triton's interpreter."""

from __future__ import annotations

import os

import pytest
import torch

from sam2_ros.bench.weights import draw
from sam2_ros.model import ModelConfig, Sam2Model, dispatch
from sam2_ros.model.dispatch import has_triton
from sam2_ros.model.gpu import memory_attention
from sam2_ros.model.memory_attention import MemoryAttention
from sam2_ros.model.padded import PaddedMemory

os.environ.setdefault("TRITON_INTERPRET", "0" if torch.cuda.is_available() else "1")
pytestmark = pytest.mark.skipif(not has_triton(), reason="needs triton, which make setup installs, and torch 2.6")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NEAR = 2e-2 if DEVICE == "cuda" else 2e-3  # a GPU multiplies float32 as TF32 in these kernels


def noise(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def drawn(pool: int) -> MemoryAttention:
    torch.manual_seed(0)
    model = Sam2Model(ModelConfig("test", image_size=64, memory_layers=2, memory_ffn=64, memory_pool=pool))
    draw(model)
    return model.to(DEVICE).memory_attention


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("pool", [1, 2])
@torch.inference_mode()
def test_conditions_as_the_plain_one(pool: int, full: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects with different numbers of frames and pointers, one of them with none but a frame."""
    if DEVICE == "cpu":
        monkeypatch.setattr(dispatch, "TRITON_DTYPE", torch.float32)  # the arithmetic, not the rounding
    attention, cells = drawn(pool), 16 // pool**2
    counts, pointers = ([4 * cells] * 3, [8] * 3) if full else ([4 * cells, 2 * cells, cells], [8, 4, 0])
    memory = PaddedMemory(
        noise(3, 4, cells, 64, seed=1), noise(3, 4, 64, seed=2),
        torch.tensor(counts, dtype=torch.int32, device=DEVICE),
        noise(3, 8, 64, seed=3), noise(3, 8, 64, seed=4), torch.tensor(pointers, dtype=torch.int32, device=DEVICE), full
    )  # fmt: skip
    image, position, code = noise(1, 16, 256, seed=5), noise(1, 16, 256, seed=6), noise(64, cells, seed=7).T
    tokens, codes, there = memory.flat(code)
    assert there.all() == full
    with torch.autocast(DEVICE, torch.bfloat16, enabled=DEVICE == "cuda"):
        plain = attention(image, position, tokens, codes, 8, there)
        found = memory_attention.condition(attention, image, position, code, memory)
    assert (found - plain).norm() / plain.norm() < NEAR
