"""Our tracker of SAM 3 agrees with ``transformers``', part by part, from a file in each layout."""

from __future__ import annotations

import pytest
import torch
from parity_sensitivity import differences, groups
from parity_stages import Pair, Stage
from sam2_reference import TOLERANCE, changed, difference
from sam3_reference import (
    SIZE,
    ImageEncoder,
    ImagePath,
    MaskDecoder,
    MaskPointer,
    MemoryAttention,
    MemoryEncoder,
    PromptEncoder,
    SamHeads,
    build_pair,
    build_reference,
)

STAGES = (
    ImageEncoder, MemoryAttention, MemoryEncoder, PromptEncoder, MaskDecoder, SamHeads, MaskPointer, ImagePath
)  # fmt: skip


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return build_pair(tmp_path_factory.mktemp("weights"))


@pytest.mark.parametrize("stage", STAGES)
def test_agrees_with_the_reference(pair: Pair, stage: type[Stage]) -> None:
    found = differences(stage(SIZE), pair)
    assert max(found.values()) <= TOLERANCE, found


@pytest.mark.parametrize("size", [56, 140])
def test_other_sizes_of_the_input(pair: Pair, size: int) -> None:
    """One window, and two and a half a side."""
    other = build_reference(size)
    other.load_state_dict(pair.reference.state_dict())
    for stage in (ImageEncoder, MemoryAttention, ImagePath):
        found = differences(stage(size), Pair(other, pair.model.at(size)))
        assert max(found.values()) <= TOLERANCE, (stage, found)


def test_a_tenth_of_noise_on_any_group_of_the_image_encoder_fails(pair: Pair) -> None:
    """Other weights are SAM 2's own, see test_parity_sensitivity.py."""
    generator = torch.Generator().manual_seed(2)
    stage = ImageEncoder(SIZE)
    state = {name: value.clone() for name, value in pair.model.state_dict().items() if name.startswith(stage.covers)}
    unseen = []
    with torch.no_grad():
        expected = stage.reference(pair.reference)
        for group, members in groups(state).items():
            noisy = {
                name: state[name] * (1 + 0.1 * torch.randn(state[name].shape, generator=generator)) for name in members
            }
            with changed((pair.model,), noisy):
                found = stage.ours(pair.model)
            if max(difference(found[name], expected[name]) for name in found) <= TOLERANCE:
                unseen.append(group)
    assert unseen == []


def test_colors_are_scaled_to_plus_and_minus_one(pair: Pair) -> None:
    image = torch.tensor([[[0, 51, 255]]], dtype=torch.uint8)
    expected = torch.tensor([-1.0, -0.6, 1.0])
    assert torch.allclose(pair.model.preprocess(image)[0].mean(dim=(1, 2)), expected, atol=1e-6)
