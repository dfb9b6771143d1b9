"""Which layers of an image encoder may run in int8, and between which limits their inputs lie."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from torch import nn

from sam2_ros.model.int8 import Limits
from sam2_ros.model.layers import Conv2d, Linear
from sam2_ros.model.sam2 import Sam2Model
from sam2_ros.model.weight_files import EMBEDDED_INT8


def layers(encoder: nn.Module) -> dict[str, nn.Module]:
    """The layers that :func:`.int8.quantise` counts, in their order, by their names."""
    return {
        name: module
        for name, module in encoder.named_modules()
        if isinstance(module, Linear) or (isinstance(module, Conv2d) and module.groups == 1)
    }


def digest(encoder: nn.Module) -> str:
    """The SHA-256 of an encoder's weights in half precision, in which a checkpoint holds them."""
    found = hashlib.sha256()
    for name, weights in encoder.state_dict().items():
        found.update(name.encode() + weights.half().cpu().numpy().tobytes())
    return found.hexdigest()


def limits_of(model: Sam2Model) -> list[Limits]:
    """Of each of :func:`layers`; empty where none were measured for these weights. They hold for all input sizes."""
    if model.config.trunk != "tinyvit":
        return []
    about: dict[str, Any] = json.loads(EMBEDDED_INT8.read_text(encoding="utf-8"))
    if about["encoder"] != digest(model.image_encoder):
        return []
    return [about["limits"].get(name) for name in layers(model.image_encoder)]
