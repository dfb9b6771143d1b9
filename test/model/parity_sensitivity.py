"""Differences from the reference, also how much each group of weights matters to them."""

from __future__ import annotations

import torch
from parity_stages import STAGES, Pair, Stage
from sam2_reference import changed, difference
from torch import Tensor

UNUSED = {"no_mem_pos_enc"}  # in every checkpoint, but on no path of the reference or ours


def groups(state: dict[str, Tensor]) -> dict[str, list[str]]:
    """The weights of each innermost module; those that belong to no layer stand alone."""
    found: dict[str, list[str]] = {}
    for name in state:
        module, _, leaf = name.rpartition(".")
        found.setdefault(module if leaf in ("weight", "bias") else name, []).append(name)
    return found


def stage_of(group: str) -> type[Stage]:
    """The comparison that is to notice a change in ``group``."""
    return next(stage for stage in STAGES if group.startswith(stage.covers))


def differences(stage: Stage, pair: Pair) -> dict[str, float]:
    """Of each output, from the reference's."""
    with torch.no_grad():
        expected, found = stage.reference(pair.reference), stage.ours(pair.model)
    assert expected.keys() == found.keys()
    return {name: difference(found[name], expected[name]) for name in expected}


def changes(pair: Pair, image_size: int) -> dict[str, float]:
    """By group of weights: the difference from the reference after noise of a tenth of its size was put on ours."""
    generator = torch.Generator().manual_seed(2)
    stages = {stage: stage(image_size) for stage in STAGES}
    found = {}
    with torch.no_grad():
        expected = {stage: inputs.reference(pair.reference) for stage, inputs in stages.items()}
        state = {name: value.clone() for name, value in pair.model.state_dict().items()}
        for group, names in groups(state).items():
            if group in UNUSED:
                continue
            stage = stage_of(group)
            noise = {name: 1 + 0.1 * torch.randn(state[name].shape, generator=generator) for name in names}
            with changed((pair.model,), {name: state[name] * noise[name] for name in names}):
                outputs = stages[stage].ours(pair.model)
                found[group] = max(difference(outputs[name], expected[stage][name]) for name in outputs)
    return found
