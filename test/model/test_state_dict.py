"""Names and shapes of the weights are the official ones, and tell size and version."""

from __future__ import annotations

import pytest
from sam2_reference import SIZES, VERSIONS, build_reference, without_initialisation

from sam2_ros.model import HIERA, Sam2Model, infer_config

# Millions of parameters, as published by the authors; 2.1 adds 16 thousand to 2.0.
PUBLISHED = {"tiny": 38.9, "small": 46.0, "base_plus": 80.8, "large": 224.4}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("size", SIZES)
def test_state_dict_is_the_references(size: str, version: str) -> None:
    reference = build_reference(size, version, 1024).state_dict()
    config = infer_config(reference)
    with without_initialisation():
        model = Sam2Model(config)
    assert config.hiera == HIERA[size]
    assert config.version == version
    assert config.image_size == 1024
    ours = {name: (tuple(value.shape), value.dtype) for name, value in model.state_dict().items()}
    assert ours == {name: (tuple(value.shape), value.dtype) for name, value in reference.items()}
    assert sum(value.numel() for value in model.parameters()) / 1e6 == pytest.approx(PUBLISHED[size], abs=0.1)
