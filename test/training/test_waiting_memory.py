"""A memory that waits: for an object that is hidden, the frames without it are as if they had never been."""

from dataclasses import replace

import pytest
import torch
from small_training import TINYVIT

from sam2_ros.model.network import ImageFeatures
from sam2_ros.model.sam2 import Sam2Model
from sam2_ros.training.rollout import Memory

TOKENS = 4


@pytest.fixture(scope="module")
def model() -> Sam2Model:
    torch.manual_seed(0)
    config = replace(TINYVIT, present_iou=0.0, remember_absence=False)
    built = Sam2Model(config).eval()
    torch.nn.init.normal_(built.maskmem_tpos_enc)
    return built


def seen(model: Sam2Model, memory: Memory) -> torch.Tensor:
    """The features of one frame, conditioned on ``memory``."""
    generator = torch.Generator().manual_seed(5)
    features = ImageFeatures(torch.randn(1, 256, 4, 4, generator=generator), torch.empty(0), torch.empty(0))
    recall = memory.recall()
    with torch.no_grad():
        return model.with_memory(features, recall.tokens, recall.codes, recall.num_pointers, recall.mask)


@pytest.mark.parametrize("hidden", [(2,), (1, 2, 3), (7, 8), (9,)])
def test_hidden_frames_leave_no_trace(model: Sam2Model, hidden: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    maps, pointers = torch.randn(10, 2, TOKENS, 64), torch.randn(10, 2, 256)
    both, first, second = Memory(model), Memory(model), Memory(model)
    for t in range(10):
        present = torch.tensor([True, t not in hidden])
        both.add(maps[t], pointers[t], t in (0, 5), present)
        first.add(maps[t, :1], pointers[t, :1], t in (0, 5), present[:1])
        if present[1]:
            second.add(maps[t, 1:], pointers[t, 1:], t in (0, 5), present[1:])
    out = seen(model, both)
    torch.testing.assert_close(out[:1], seen(model, first), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out[1:], seen(model, second), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(out[:1], out[1:], atol=1e-2)


def test_other_models_remember_absences(model: Sam2Model) -> None:
    torch.manual_seed(1)
    waiting, remembering = model.config, replace(model.config, remember_absence=True)
    outcomes = []
    for config in (waiting, remembering):
        model.config = config
        memory = Memory(model)
        for t in range(3):
            torch.manual_seed(t)
            memory.add(torch.randn(1, TOKENS, 64), torch.randn(1, 256), t == 0, torch.tensor([t != 2]))
        outcomes.append(memory.recall().tokens.shape[1])
    model.config = waiting
    assert outcomes == [2 * TOKENS + 8, 3 * TOKENS + 12]
