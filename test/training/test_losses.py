"""Losses and first prompts."""

import numpy as np
import pytest
import torch
from small_training import SIZE

from sam2_ros.model.network import DecodedMasks
from sam2_ros.training.losses import frame_loss
from sam2_ros.training.rollout import FrameOutput
from sam2_ros.training.simulated_user import make_prompt


def output_of(logits: torch.Tensor, score: float = 2.0) -> FrameOutput:
    """Four candidates ``[1, 4, 16, 16]`` on a tracked frame."""
    decoded = DecodedMasks(logits, torch.full((1, 4), 0.5), torch.zeros(1, 4, 256), torch.tensor([[score]]))
    return FrameOutput(decoded, logits[:, :1], multimask=True)


def test_a_perfect_mask_costs_nothing_and_only_the_best_candidate_is_corrected() -> None:
    target = torch.zeros(1, 1, SIZE, SIZE)
    target[..., 16:48, 16:48] = 1
    coarse = torch.nn.functional.avg_pool2d(target, 4) * 40 - 20
    logits = torch.cat((torch.zeros_like(coarse), -coarse, coarse, -coarse), dim=1).requires_grad_()
    losses = frame_loss(output_of(logits), target)
    assert losses["mask"] < 0.1
    losses["mask"].backward()
    assert logits.grad is not None
    moved = logits.grad.abs().sum(dim=(0, 2, 3)) > 0
    assert moved.tolist() == [False, False, True, False]


def test_an_absent_object_costs_presence_only() -> None:
    logits = torch.randn(1, 4, 16, 16)
    absent = torch.zeros(1, 1, SIZE, SIZE)
    wrong = frame_loss(output_of(logits, score=4.0), absent)
    right = frame_loss(output_of(logits, score=-4.0), absent)
    assert wrong["mask"] == wrong["iou"] == 0
    assert wrong["presence"] > 3 > 0.1 > right["presence"]


@pytest.mark.parametrize("kind", ["mask", "box", "click"])
def test_prompts_lie_on_the_object(kind: str) -> None:
    mask = np.zeros((SIZE, SIZE), np.bool_)
    mask[10:20, 30:50] = True
    prompt = make_prompt(kind, [mask])
    if kind == "mask":
        assert prompt.mask is not None and np.array_equal(prompt.mask[0, 0].numpy() > 0, mask)
    elif kind == "box":
        assert prompt.points is not None and prompt.points[0].tolist() == [[30, 10], [50, 20]]
    else:
        assert prompt.points is not None and prompt.ambiguous
        x, y = prompt.points[0, 0].int().tolist()
        assert mask[y, x]
