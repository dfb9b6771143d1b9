"""How large the network's input is: the embedded model's is smaller with windows, which show things larger."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest
from numpy.typing import NDArray

from sam2_ros.inference import make_backend, window_side
from sam2_ros.inference.local import LocalBackend
from sam2_ros.tracking import ObjectState, Prompt, PromptRequest, TrackerConfig

OFF, AUTO, ON = TrackerConfig(window="off"), TrackerConfig(), TrackerConfig(window="on")
LARGE, SMALL = (60, 40, 460, 330), (540, 380, 570, 410)  # boxes


def picture(*boxes: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    image = np.full((480, 640, 3), 90, np.uint8)
    for (x0, y0, x1, y1), color in zip(boxes, ((200, 40, 40), (40, 60, 220)), strict=False):
        image[y0:y1, x0:x1] = color
    return image


def request(box: tuple[int, int, int, int]) -> PromptRequest:
    return PromptRequest(Prompt(box=np.array(box, np.float32)))


@pytest.mark.parametrize("runtime", ["torch", "openvino"])
def test_whole_frames_have_a_larger_input_than_windows(runtime: str) -> None:
    """A large object alone is seen as without windows. Beside a small one both have the input of windows."""
    pytest.importorskip(runtime, reason=f"{runtime} is not installed")
    with closing(make_backend("embedded", "cpu", config=TrackerConfig(max_objects=2), runtime=runtime)) as backend:
        assert isinstance(backend, LocalBackend) and backend.info.image_size == 448

        def sides_after(*boxes: tuple[int, int, int, int]) -> set[int]:
            for _ in range(2):
                result = backend.step(picture(*boxes))
            assert [obj.state for obj in result.objects] == [ObjectState.VISIBLE] * len(boxes)
            assert backend.history.newest is not None
            return {side for _, side in backend.history.newest.features}

        backend.step(picture(LARGE))
        (large,) = backend.add([request(LARGE)])
        assert large.success and sides_after(LARGE) == {448}
        backend.step(picture(LARGE, SMALL))
        (small,) = backend.add([request(SMALL)])
        assert small.success and sides_after(LARGE, SMALL) == {384}
        assert backend.remove(small.object_id)
        assert sides_after(LARGE) == {448}


@pytest.mark.parametrize(
    "config, chosen, side", [(OFF, 0, 0), (AUTO, 0, 384), (ON, 448, 384), (AUTO, 320, 0), (OFF, 448, 0)]
)
def test_windows_have_their_own_input_if_no_other_is_chosen(config: TrackerConfig, chosen: int, side: int) -> None:
    assert window_side("embedded", chosen, config) == side


def test_the_reference_policy_has_no_windows() -> None:
    assert window_side("embedded", 0, TrackerConfig(reference_policy=True)) == window_side("embedded", 0, ON, True) == 0


@pytest.mark.parametrize("model", ["tiny", "my_weights.pt"])
def test_other_models_have_one_size(model: str) -> None:
    assert window_side(model, 0, AUTO) == window_side(model, 0, ON) == window_side(model, 0, OFF) == 0
