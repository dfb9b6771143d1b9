"""``model.compile``: the same features, compiled before the first frame and never again."""

from __future__ import annotations

import shutil
import threading
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from sam2_reference import draw_weights
from small_tracker import box, run, stepped
from torch import Tensor, nn
from torch._dynamo.utils import counters

from sam2_ros.model import HieraConfig, ModelConfig, Sam2Model
from sam2_ros.tracking import Tracker, TrackerConfig
from sam2_ros.tracking.shared_model import SharedModel
from sam2_ros.tracking.warmup import warm_up

COMPILER = any(map(shutil.which, ("c++", "g++", "clang++")))


class LeastEncoder(nn.Module):
    """Three convolutions, which are compiled in seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Conv2d(3, 256, side, stride=side) for side in (4, 8, 16))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(F.gelu(each(images)) for each in self.maps)


@pytest.fixture(scope="module")
def model() -> Sam2Model:
    config = ModelConfig("least", hiera=HieraConfig(16, 1, (1, 1, 1, 1), (2,)), image_size=96, memory_layers=1)
    model = Sam2Model(config).eval()
    model.image_encoder = LeastEncoder()
    draw_weights(model.requires_grad_(False), seed=0, gain=1.0)
    return model


@pytest.mark.skipif(not COMPILER, reason="torch.compile needs a C++ compiler on a CPU")
def test_no_live_frame_is_compiled_for(model: Sam2Model) -> None:
    shared, config = SharedModel(model, compiled=True), TrackerConfig(max_objects=2)
    warm_up(shared, config)
    compiled = counters["stats"]["unique_graphs"]
    assert compiled > 0
    tracker = Tracker(model, config, shared=shared)
    assert shared.compiled is not None
    with mock.patch.object(shared, "compiled", wraps=shared.compiled) as used:
        stepped(tracker, [box()])
        run(tracker, 1, 3)
        assert used.call_count == 4
        tracker._governor = mock.Mock(level=3)  # a smaller input
        run(tracker, 4, 4)
        with torch.inference_mode():  # strided as an image of just the network's size would be
            pixels = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
            pixels = pixels.to(memory_format=torch.channels_last)
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(shared.encode(pixels)))
        thread.start()
        thread.join()
        assert used.call_count == 5
    assert counters["stats"]["unique_graphs"] == compiled
    with torch.inference_mode():
        expected = model.encode_image(pixels)
    for name in ("stride_16", "stride_8", "stride_4"):
        exact = getattr(expected, name)
        assert (getattr(found[0], name) - exact).abs().max() <= 1e-4 * exact.abs().max()


def test_says_what_is_missing(model: Sam2Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler on a CPU, and there is none; install one"):
        SharedModel(model, compiled=True)
