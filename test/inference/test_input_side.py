"""How large the network's input is: the embedded model's is smaller with windows, which show things larger."""

from __future__ import annotations

from contextlib import closing

import pytest

from sam2_ros.inference import input_side, make_backend
from sam2_ros.tracking import TrackerConfig

OFF, AUTO, ON = TrackerConfig(window="off"), TrackerConfig(), TrackerConfig(window="on")


@pytest.mark.parametrize(
    "config, chosen, side", [(OFF, 0, 448), (AUTO, 0, 384), (ON, 0, 384), (AUTO, 448, 448), (OFF, 320, 320)]
)
def test_the_embedded_model_has_a_smaller_input_with_windows(config: TrackerConfig, chosen: int, side: int) -> None:
    with closing(make_backend("embedded", "cpu", config=config, image_size=chosen, runtime="torch")) as backend:
        assert backend.info.image_size == side


def test_without_windows_it_is_the_models_own() -> None:
    assert input_side("embedded", 0, TrackerConfig(reference_policy=True)) == input_side("embedded", 0, ON, True) == 0


@pytest.mark.parametrize("model", ["tiny", "my_weights.pt"])
def test_other_models_keep_their_own(model: str) -> None:
    assert input_side(model, 0, AUTO) == input_side(model, 0, ON) == input_side(model, 0, OFF) == 0
