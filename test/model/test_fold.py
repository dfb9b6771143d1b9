"""Folding EdgeTAM's batch normalisation and parallel branches into convolutions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sam2_ros.model.repvit import NORM_EPS, fold

MIXER = "stage.token_mixer"
CHANNELS = 4
NORM = ("weight", "bias", "running_mean", "running_var")


@pytest.fixture
def state() -> dict[str, Tensor]:
    """A token mixer as in the official checkpoint."""
    drawn = torch.Generator().manual_seed(0)
    norm = {f"{MIXER}.conv.bn.{name}": torch.rand(CHANNELS, generator=drawn) + 0.5 for name in NORM}
    return {
        f"{MIXER}.conv.c.weight": torch.randn(CHANNELS, 1, 3, 3, generator=drawn), **norm,
        f"{MIXER}.conv1.weight": torch.randn(CHANNELS, 1, 1, 1, generator=drawn),
        f"{MIXER}.conv1.bias": torch.randn(CHANNELS, generator=drawn),
    }  # fmt: skip


def test_one_convolution_is_the_same_as_its_parts(state: dict[str, Tensor]) -> None:
    folded = fold(state)
    assert folded.keys() == {f"{MIXER}.weight", f"{MIXER}.bias"}
    x = torch.randn(1, CHANNELS, 6, 6, generator=torch.Generator().manual_seed(1))
    gain, bias, mean, variance = (state[f"{MIXER}.conv.bn.{name}"] for name in NORM)
    around = F.conv2d(x, state[f"{MIXER}.conv.c.weight"], padding=1, groups=CHANNELS)
    centre = F.conv2d(x, state[f"{MIXER}.conv1.weight"], state[f"{MIXER}.conv1.bias"], groups=CHANNELS)
    parts = F.batch_norm(around, mean, variance, gain, bias, eps=NORM_EPS) + centre + x
    whole = F.conv2d(x, folded[f"{MIXER}.weight"], folded[f"{MIXER}.bias"], padding=1, groups=CHANNELS)
    torch.testing.assert_close(whole, parts, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("conv.bn.weight", (5,)), ("conv.bn.weight", ()), ("conv.bn.running_var", (1,)), ("conv.c.weight", ()),
        ("conv.c.weight", (4,)), ("conv.c.weight", (4, 1, 1, 1)), ("conv.c.weight", (1, 1, 3, 3)),
        ("conv1.weight", (4,)), ("conv1.bias", (7,)),
    ],
)  # fmt: skip
def test_a_convolution_of_which_a_part_has_another_shape_stays_as_it_is(
    name: str, shape: tuple[int, ...], state: dict[str, Tensor]
) -> None:
    folded = fold(state | {f"{MIXER}.{name}": torch.ones(shape)})
    assert f"{MIXER}.weight" not in folded
