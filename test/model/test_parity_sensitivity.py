"""The comparison with the reference is one that notices: no weight can be wrong without failing it."""

from __future__ import annotations

import pytest
import torch
from parity_sensitivity import UNUSED, changes, groups, stage_of
from parity_stages import STAGES, Pair, build_pair
from sam2_reference import TOLERANCE, changed, difference

# The comparison of test_parity.py on a smaller image: it runs once for each of some 220 groups of weights. SAM 2.1 has
# every weight of SAM 2.0, used in the same way.
IMAGE_SIZE = 64


@pytest.fixture(scope="module")
def pair() -> Pair:
    return build_pair("tiny", "2.1", IMAGE_SIZE)


def test_a_tenth_of_noise_on_any_group_of_weights_fails(pair: Pair) -> None:
    found = changes(pair, IMAGE_SIZE)
    assert found.keys() == groups(pair.model.state_dict()).keys() - UNUSED
    assert {group: change for group, change in found.items() if change <= TOLERANCE} == {}


def test_every_weight_belongs_to_a_stage_or_is_unused(pair: Pair) -> None:
    covered = tuple(prefix for stage in STAGES for prefix in stage.covers)
    assert {group for group in groups(pair.model.state_dict()) if not group.startswith(covered)} == UNUSED


def test_unused_weights_change_nothing(pair: Pair) -> None:
    """Neither ours nor the reference's outputs: that is why they are exempt."""
    with torch.no_grad():
        for stage in STAGES:
            inputs = stage(IMAGE_SIZE)
            before = inputs.reference(pair.reference), inputs.ours(pair.model)
            with changed(pair, {name: torch.full_like(pair.model.get_parameter(name), 7.0) for name in UNUSED}):
                after = inputs.reference(pair.reference), inputs.ours(pair.model)
            for one, other in zip(before, after, strict=True):
                assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("row", range(7))
def test_every_row_of_the_temporal_code_counts(pair: Pair, row: int) -> None:
    stage = stage_of("maskmem_tpos_enc")(IMAGE_SIZE)
    code = pair.model.maskmem_tpos_enc.clone()
    code[row] += 0.1
    with torch.no_grad():
        before = stage.ours(pair.model)
        with changed((pair.model,), {"maskmem_tpos_enc": code}):
            after = stage.ours(pair.model)
    assert max(difference(after[name], before[name]) for name in before) > TOLERANCE
