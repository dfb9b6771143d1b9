"""EdgeTAM and EfficientTAM agree with the authors' networks, part by part, from a file with the official names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from edge_references import NAMES, CondensedMemoryAttention, EdgeMemoryEncoder, build_pair
from parity_sensitivity import differences, groups
from parity_stages import (
    ImageEncoder,
    ImagePath,
    MaskDecoder,
    MaskPointer,
    MemoryAttention,
    Pair,
    PromptEncoder,
    SamHeads,
    Stage,
)
from sam2_reference import TOLERANCE, changed, difference

from sam2_ros.model import load_model
from sam2_ros.model.checkpoint import CheckpointError

pytestmark = pytest.mark.filterwarnings("ignore:.*sdp_kernel")  # which the references use
SIZE = 256
STAGES = (
    ImageEncoder, MemoryAttention, EdgeMemoryEncoder, PromptEncoder, MaskDecoder, SamHeads, MaskPointer, ImagePath
)  # fmt: skip


@pytest.fixture(scope="module", params=NAMES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return build_pair(request.param, SIZE, tmp_path_factory.mktemp("weights"))


@pytest.mark.parametrize("stage", STAGES)
def test_agrees_with_the_reference(pair: Pair, stage: type[Stage]) -> None:
    if stage is MemoryAttention and pair.model.config.perceiver_side:
        stage = CondensedMemoryAttention
    found = differences(stage(SIZE, finer=has_finer_maps(pair)), pair)
    assert max(found.values()) <= TOLERANCE, found


def has_finer_maps(pair: Pair) -> bool:
    return pair.model.config.trunk == "repvit"


@pytest.mark.parametrize("pair", ["edgetam"], indirect=True)
def test_condenses_windows_of_several_cells(pair: Pair) -> None:
    """At 256 pixels each window is one cell, at 512 four."""
    found = differences(EdgeMemoryEncoder(512), Pair(pair.reference, pair.model.at(512)))
    assert max(found.values()) <= TOLERANCE, found


@pytest.mark.parametrize("pair", ["edgetam", "efficienttam_ti"], indirect=True)
def test_a_tenth_of_noise_on_any_group_of_new_weights_fails(pair: Pair) -> None:
    """Those of the image encoder and the perceiver; SAM 2's own are in test_parity_sensitivity.py."""
    generator = torch.Generator().manual_seed(2)
    state = {name: value.clone() for name, value in pair.model.state_dict().items()}
    unseen = []
    for stage, size in ((ImageEncoder, 64), (EdgeMemoryEncoder, SIZE)):
        inputs, model = stage(size, finer=has_finer_maps(pair)), pair.model.at(size)
        names = [name for name in state if name.startswith(stage.covers) and not name.startswith("memory_encoder.")]
        with torch.no_grad():
            expected = inputs.reference(pair.reference)
            for group, members in groups({name: state[name] for name in names}).items():
                noisy = {name: state[name] * (1 + 0.1 * noise(state[name], generator)) for name in members}
                with changed((pair.model,), noisy):
                    found = inputs.ours(model)
                if max(difference(found[name], expected[name]) for name in found) <= TOLERANCE:
                    unseen.append(group)
    assert unseen == []


def noise(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(like.shape, generator=generator)


@pytest.mark.parametrize("pair", ["edgetam"], indirect=True)
@pytest.mark.parametrize(
    "lost", ["body.stem.conv1.bn.running_var", "body.stages_2.blocks.3.token_mixer.conv1.c.weight"]
)
def test_a_checkpoint_without_a_part_of_a_convolution_is_refused(pair: Pair, tmp_path: Path, lost: str) -> None:
    state = pair.reference.state_dict()
    del state[f"image_encoder.trunk.{lost}"]
    torch.save({"model": state}, tmp_path / "edgetam.pt")
    with pytest.raises(CheckpointError, match=r"edgetam\.pt does not fit edgetam: tensor '.*' .* is missing"):
        load_model(tmp_path / "edgetam.pt")


def test_other_sizes_than_the_reference_takes(tmp_path: Path) -> None:
    """320 pixels make 20 cells a side, which don't fall into 16 windows."""
    model = build_pair("edgetam", SIZE, tmp_path).model.at(320)
    stage = EdgeMemoryEncoder(320)
    with torch.no_grad():
        found = stage.ours(model)
    assert found["memory"].shape == (4, 512, 64) and found["code"].shape == (512, 64)
    assert torch.isfinite(found["memory"]).all()
