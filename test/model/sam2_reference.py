"""The reference network (PyPI ``sam2``), the weights that are drawn for it, and the measure of agreement."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from unittest import mock

import PIL.Image  # noqa: F401  (the reference imports it while sys.modules is patched)
import torch
from sam2.build_sam import build_sam2
from torch import Tensor, nn

SIZES = {"tiny": "t", "small": "s", "base_plus": "b+", "large": "l"}
VERSIONS = ("2.1", "2.0")
TOLERANCE = 1e-4  # times max(1, max |reference|)
SCORE_BIAS = "sam_mask_decoder.pred_obj_score_head.layers.2.bias"


def build_reference(size: str, version: str, image_size: int) -> Any:
    """The official network (``SAM2Base``) as its configuration file describes it, for another input size."""
    folder = "sam2.1/sam2.1" if version == "2.1" else "sam2/sam2"
    feature_size = f"[{image_size // 16},{image_size // 16}]"
    overrides = [f"++model.image_size={image_size}"]
    overrides += [f"++model.memory_attention.layer.{a}_attention.feat_sizes={feature_size}" for a in ("self", "cross")]
    with without_initialisation():
        return build_sam2(
            f"configs/{folder}_hiera_{SIZES[size]}.yaml",
            None,
            device="cpu",
            hydra_overrides_extra=overrides,
            apply_postprocessing=False,
        )


@contextmanager
def without_initialisation() -> Iterator[None]:
    """Modules made in here keep uninitialised weights: they are overwritten anyway, and drawing 224 M takes seconds."""

    def keep(tensor: Tensor, *_: Any, **__: Any) -> Tensor:
        return tensor

    with (
        mock.patch.object(nn.init, "kaiming_uniform_", keep),
        mock.patch.object(nn.init, "uniform_", keep),
        mock.patch.object(nn.init, "normal_", keep),
    ):
        yield


@torch.no_grad()
def draw_weights(reference: nn.Module, seed: int = 0, gain: float = 1.4) -> None:
    """Overwrites every weight by a random one, at a scale at which every one of them matters.

    The default initialisation leaves position embeddings zero and layer scales at 1e-6: two networks with different
    position codes would agree. The gain of linear maps
    makes attention selective and keeps activations moderate in the deepest network.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in reference.state_dict().items():
        drawn = torch.randn(tensor.shape, generator=generator)
        leaf = name.rsplit(".", 1)[-1]
        if leaf == "bias":
            drawn *= 0.2
        elif leaf == "weight" and tensor.ndim == 1:  # of a layer norm
            drawn = 1 + 0.2 * drawn
        elif leaf == "weight" and "embed" not in name.rsplit(".", 2)[-2] and "token" not in name.rsplit(".", 2)[-2]:
            drawn *= gain / tensor[0].numel() ** 0.5
        else:  # embeddings, position codes, layer scales
            drawn *= 0.5
        tensor.copy_(drawn)


def difference(ours: Tensor, reference: Tensor) -> float:
    """max |difference| over max(1, max |reference|); parity means at most :data:`TOLERANCE`."""
    assert ours.shape == reference.shape, (ours.shape, reference.shape)
    assert torch.isfinite(reference).all()
    if not torch.isfinite(ours).all():
        return float("inf")
    return ((ours - reference).abs().max() / reference.abs().max().clamp(min=1)).item()


@contextmanager
def changed(models: tuple[nn.Module, ...], changes: dict[str, Tensor]) -> Iterator[None]:
    """Gives ``models`` other values for some of their weights for a while."""
    before = {name: models[0].state_dict()[name].clone() for name in changes}
    for model in models:
        model.load_state_dict(changes, strict=False)
    try:
        yield
    finally:
        for model in models:
            model.load_state_dict(before, strict=False)


class ReadyTransforms:
    """In place of the reference's transforms, which need torchvision: the image comes resized and normalised, and the
    low-resolution masks are handed out as they are."""

    def __init__(self, **_: Any) -> None:
        pass

    def __call__(self, image: Any) -> Tensor:
        return torch.from_numpy(image).permute(2, 0, 1)

    def postprocess_masks(self, masks: Tensor, _: Any) -> Tensor:
        return masks


def image_predictor(reference: Any, image: Tensor) -> Any:
    """``SAM2ImagePredictor`` after ``set_image`` of the normalised ``image`` (``[1, 3, S, S]``)."""
    transforms = ModuleType("sam2.utils.transforms")
    transforms.SAM2Transforms = ReadyTransforms  # type: ignore[attr-defined]
    with mock.patch.dict(sys.modules, {transforms.__name__: transforms}):
        predictor_module = importlib.import_module("sam2.sam2_image_predictor")
    predictor = predictor_module.SAM2ImagePredictor(reference)
    side = reference.image_size
    predictor._bb_feat_sizes = [(side // stride, side // stride) for stride in (4, 8, 16)]
    predictor.set_image(image[0].permute(1, 2, 0).numpy())
    return predictor
