"""The weights of a benchmark: a checkpoint if there is one, else random weights, which take as long."""

from __future__ import annotations

from dataclasses import replace

import torch

from sam2_ros.model import Sam2Model, load_model
from sam2_ros.model.config import EDGE_MODELS, HIERA, SAM3, official_config
from sam2_ros.model.weight_files import find_weights

CHECKPOINT, RANDOM = "checkpoint", "drawn at random (timings do not depend on them)"
_SCORE = "sam_mask_decoder.pred_obj_score_head.layers.2.bias"


def find(name: str, image_size: int, device: str = "cpu") -> tuple[Sam2Model, str]:
    """The network ``name`` on its device, and the origin of its weights: :data:`CHECKPOINT` or :data:`RANDOM`.

    Args:
        name: as in :func:`sam2_ros.model.load_model`; an official size whose checkpoint was not downloaded, "sam3", and
            a key of :data:`sam2_ros.model.config.EDGE_MODELS`, gets random weights.
        image_size: side of the square input, pixels, a multiple of 32 (of 14 for SAM 3); 0: the checkpoint's own.
        device: a torch device.

    Raises:
        FileNotFoundError: neither a checkpoint nor an official size.
    """
    size, _, version = name.partition("-")
    try:
        find_weights(name)
    except FileNotFoundError:
        if name not in (*EDGE_MODELS, SAM3.name) and (size not in HIERA or version not in ("", "2.0")):
            raise
    else:
        return load_model(name, device, image_size), CHECKPOINT
    config = official_config(name)
    model = Sam2Model(replace(config, image_size=image_size or config.image_size))
    draw(model)
    return model.to(device).eval().requires_grad_(False), RANDOM


@torch.no_grad()
def draw(model: Sam2Model, seed: int = 0) -> None:
    """Overwrites every weight at random so that masks are neither empty nor full and no object counts as hidden.

    Linear maps keep the magnitude of their input. The object score is far above zero, so that the engine tracks,
    remembers and shows every object on every frame.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        drawn = torch.randn(tensor.shape, generator=generator)
        parent, leaf = name.split(".")[-2:] if "." in name else ("", name)
        if leaf == "bias":
            drawn *= 0.2
        elif leaf == "weight" and tensor.ndim == 1:  # of a norm
            drawn = 1 + 0.2 * drawn
        elif leaf == "weight" and "embed" not in parent and not parent.endswith(("token", "tokens")):
            drawn /= tensor[0].numel() ** 0.5
        else:  # embeddings, position codes, layer scales
            drawn *= 0.5
        tensor.copy_(drawn)
    model.get_parameter(_SCORE).fill_(10.0)
