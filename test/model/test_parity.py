"""The network agrees with the reference, part by part and as a whole, in every size and both versions."""

from __future__ import annotations

import pytest
import torch
from parity_stages import (
    COMPARED,
    ImageEncoder,
    ImagePath,
    ManyMasks,
    MaskPointer,
    MemoryAttention,
    MemoryEncoder,
    Pair,
    SamHeads,
    Stage,
    build_pair,
)
from sam2_reference import SCORE_BIAS, SIZES, TOLERANCE, VERSIONS, build_reference, changed, difference
from torch import Tensor

from sam2_ros.model.choice import choose, stability
from sam2_ros.model.network import DecodedMasks

IMAGE_SIZE = 256


@pytest.fixture(scope="module", params=[(size, version) for size in SIZES for version in VERSIONS], ids="-".join)
def pair(request: pytest.FixtureRequest) -> Pair:
    size, version = request.param
    return build_pair(size, version, IMAGE_SIZE)


def assert_parity(stage: Stage, pair: Pair) -> None:
    with torch.no_grad():
        expected, found = stage.reference(pair.reference), stage.ours(pair.model)
    assert expected.keys() == found.keys()
    differences = {name: difference(found[name], expected[name]) for name in expected}
    assert max(differences.values()) <= TOLERANCE, differences


@pytest.mark.parametrize("stage", COMPARED)
def test_agrees_with_the_reference(pair: Pair, stage: type[Stage]) -> None:
    assert_parity(stage(IMAGE_SIZE), pair)


@pytest.fixture(scope="module", params=VERSIONS)
def tiny(request: pytest.FixtureRequest) -> Pair:
    return build_pair("tiny", request.param, IMAGE_SIZE)


@pytest.mark.parametrize(("bias", "present"), [(100.0, True), (-100.0, False)], ids=["present", "absent"])
@pytest.mark.parametrize("stage", [SamHeads, MaskPointer])
def test_agrees_for_present_and_absent_objects(tiny: Pair, stage: type[Stage], bias: float, present: bool) -> None:
    with changed(tiny, {SCORE_BIAS: torch.tensor([bias])}):
        assert_parity(stage(IMAGE_SIZE), tiny)
        with torch.no_grad():
            pointers = torch.cat(
                [out for name, out in stage(IMAGE_SIZE).ours(tiny.model).items() if name.endswith("pointer")]
            )
    absent = (pointers == tiny.model.no_obj_ptr).all(dim=1)
    expected = torch.full_like(absent, not present)
    if stage is MaskPointer:
        expected[-1] = True  # that of the empty mask
    assert torch.equal(absent, expected)


def test_the_drawn_weights_give_present_and_absent_objects_in_one_batch(tiny: Pair) -> None:
    with torch.no_grad():
        scores = SamHeads(IMAGE_SIZE).ours(tiny.model)["tracked: object score"]
    assert (scores > 0).sum() == (scores < 0).sum() == 3


@pytest.mark.parametrize("tiny", ["2.1"], indirect=True)
@pytest.mark.parametrize(("scale", "stable"), [(1.0, True), (0.01, False)], ids=["stable", "unstable"])
def test_agrees_where_an_unstable_mask_gives_way(tiny: Pair, scale: float, stable: bool) -> None:
    """The fainter the single mask's logits, the more of them lie near the threshold."""
    state = tiny.model.state_dict()
    head = "sam_mask_decoder.output_hypernetworks_mlps.0.layers.2."
    with changed(tiny, {name: scale * state[name] for name in (head + "weight", head + "bias")}):
        assert_parity(ImagePath(IMAGE_SIZE), tiny)
        with torch.no_grad():
            found = ImagePath(IMAGE_SIZE).ours(tiny.model)
    for prompt in ("box", "three boxes"):
        kept, three = found[f"{prompt}, stable: logits"], found[f"{prompt}, three: logits"]
        best = found[f"{prompt}, three: predicted IoU"].argmax(dim=1)
        wanted = found[f"{prompt}, single: logits"] if stable else three[torch.arange(len(best)), best][:, None]
        assert torch.equal(kept, wanted)


def test_chooses_masks_as_the_reference() -> None:
    """Stable, unstable, empty and full single masks in one batch."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((4, 4, 64, 64), generator=generator)
    logits[0, 0] *= 100
    logits[2, 0], logits[3, 0] = -1, 1
    decoded = DecodedMasks(logits, torch.rand((4, 4), generator=generator), torch.zeros(4, 4, 256), torch.zeros(4, 1))
    reference = build_reference("tiny", "2.1", 64).sam_mask_decoder
    expected_logits, expected_ious = reference._dynamic_multimask_via_stability(decoded.logits, decoded.ious)
    chosen = choose(decoded, multimask=False, stability_fallback=True)
    assert torch.equal(chosen.logits, expected_logits)
    assert torch.equal(chosen.iou[:, None], expected_ious)
    assert (chosen.index > 0).tolist() == [False, True, False, False]
    assert torch.equal(stability(logits), reference._get_stability_scores(logits))


@pytest.mark.parametrize("tiny", ["2.1"], indirect=True)
@pytest.mark.parametrize("stage", [ImageEncoder, MemoryAttention, MemoryEncoder, ManyMasks])
def test_autocast_to_bfloat16_drifts_no_more_than_the_reference(tiny: Pair, stage: type[Stage]) -> None:
    def drift(exact: Tensor, rounded: Tensor) -> float:
        return ((rounded.float() - exact).square().mean().sqrt() / exact.std()).item()

    inputs = stage(IMAGE_SIZE)
    with torch.no_grad():
        ours, reference = inputs.ours(tiny.model), inputs.reference(tiny.reference)
        with torch.autocast("cpu", torch.bfloat16):
            ours_rounded, reference_rounded = inputs.ours(tiny.model), inputs.reference(tiny.reference)
    for name in ours:
        limit = 1.25 * drift(reference[name], reference_rounded[name]) + 0.002
        assert drift(ours[name], ours_rounded[name]) <= limit <= 0.1, name
