"""The SAM 2 network: plain PyTorch modules, tensors in, tensors out, without time or ROS.

The names below are imported at first use, so that fetching a checkpoint needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sam2_ros.model.checkpoint import CheckpointError, load_model
    from sam2_ros.model.config import HIERA, HieraConfig, ModelConfig, infer_config
    from sam2_ros.model.image_path import ImagePrediction, predict
    from sam2_ros.model.network import ImageFeatures
    from sam2_ros.model.sam2 import Sam2Model

__all__ = [
    "HIERA", "CheckpointError", "HieraConfig", "ImageFeatures", "ImagePrediction", "ModelConfig", "Sam2Model",
    "infer_config", "load_model", "predict",
]  # fmt: skip

_MODULES = {
    "checkpoint": ("CheckpointError", "load_model"),
    "config": ("HIERA", "HieraConfig", "ModelConfig", "infer_config"),
    "image_path": ("ImagePrediction", "predict"),
    "network": ("ImageFeatures",),
    "sam2": ("Sam2Model",),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"sam2_ros.model.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
