"""Segmenting a single image: prompts in a batch are independent, and prompts that make no sense are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sam2_reference import draw_weights
from torch import Tensor

from sam2_ros.model import ImageFeatures, ModelConfig, Sam2Model, predict

SIDE = 64
POINT, LABEL = torch.tensor([[[20.0, 30.0]]]), torch.tensor([[1]])
BOX = torch.tensor([[10.0, 12.0, 50.0, 40.0]])


@pytest.fixture(scope="module")
def model() -> Sam2Model:
    model = Sam2Model(ModelConfig("tiny", image_size=SIDE)).eval().requires_grad_(False)
    draw_weights(model)
    return model


@pytest.fixture(scope="module")
def features(model: Sam2Model) -> ImageFeatures:
    return model.encode_image(torch.randn((1, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0)))


def drawn(*shape: int) -> Tensor:
    return SIDE * torch.rand(shape, generator=torch.Generator().manual_seed(1))


def test_prompts_in_a_batch_are_answered_as_alone(model: Sam2Model, features: ImageFeatures) -> None:
    prompts: dict[str, Any] = {
        "points": drawn(3, 2, 2),
        "labels": torch.tensor([[1, 0], [1, 1], [0, -1]]),
        "boxes": drawn(3, 2, 2).sort(dim=1).values.flatten(1),
        "mask_logits": drawn(3, 1, SIDE // 4, SIDE // 4) - SIDE / 2,
    }
    together = predict(model, features, **prompts)
    assert together.logits.shape == (3, 3, SIDE // 4, SIDE // 4)
    for row in range(3):
        alone = predict(model, features, **{name: value[row : row + 1] for name, value in prompts.items()})
        torch.testing.assert_close(together.logits[row], alone.logits[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(together.ious[row], alone.ious[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(together.object_score[row], alone.object_score[0], rtol=1e-4, atol=1e-4)


def test_several_images_each_with_its_own_prompt(model: Sam2Model) -> None:
    images = torch.randn((2, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(2))
    together = predict(model, model.encode_image(images), boxes=BOX.repeat(2, 1))
    for row in range(2):
        alone = predict(model, model.encode_image(images[row : row + 1]), boxes=BOX)
        torch.testing.assert_close(together.logits[row], alone.logits[0], rtol=1e-4, atol=1e-4)


def test_a_padding_point_counts_for_nothing_but_a_token(model: Sam2Model, features: ImageFeatures) -> None:
    """Where it lies makes no difference."""
    labels = torch.tensor([[1, -1]])
    first, second = (
        predict(model, features, torch.cat((POINT, torch.tensor([[[x, x]]])), dim=1), labels).logits
        for x in (5.0, 60.0)
    )
    assert torch.equal(first, second)


def test_every_prompt_kind_changes_the_answer(model: Sam2Model, features: ImageFeatures) -> None:
    logits = torch.ones(1, 1, SIDE // 4, SIDE // 4)
    prompts: tuple[dict[str, Any], ...] = (
        {"points": POINT, "labels": LABEL},
        {"points": POINT, "labels": 1 - LABEL},
        {"points": POINT + 8, "labels": LABEL},
        {"boxes": BOX},
        {"boxes": BOX + 8},
        {"points": POINT, "labels": LABEL, "boxes": BOX},
        {"mask_logits": logits},
        {"mask_logits": -logits},
        {"mask_logits": logits, "boxes": BOX},
    )
    answers = [predict(model, features, **prompt).logits for prompt in prompts]
    for index, answer in enumerate(answers):
        for other in answers[:index]:
            assert (answer - other).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({}, "no prompt; accepted: points, boxes, mask_logits, combined"),
        ({"points": POINT}, "points and labels come together"),
        ({"labels": LABEL}, "points and labels come together"),
        ({"points": POINT[0], "labels": LABEL}, r"points has shape \(1, 2\); accepted: \(any, any, 2\)"),
        ({"points": POINT, "labels": torch.ones(1, 2)}, r"labels has shape \(1, 2\); accepted: \(any, 1\)"),
        ({"boxes": BOX[0]}, r"boxes has shape \(4,\); accepted: \(any, 4\)"),
        ({"mask_logits": torch.ones(1, 1, 64, 64)}, r"mask_logits has shape .*; accepted: \(any, 1, 16, 16\)"),
        ({"points": POINT, "labels": LABEL, "boxes": BOX.repeat(2, 1)}, r"prompts of different number: \[1, 2\]"),
    ],
    ids=range(8),
)
def test_prompts_that_make_no_sense(
    model: Sam2Model, features: ImageFeatures, prompts: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        predict(model, features, **prompts)
