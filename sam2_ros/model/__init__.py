"""The SAM 2 network: plain PyTorch modules, tensors in, tensors out; knows nothing of time or ROS."""

from sam2_ros.model.checkpoint import CheckpointError, load_model
from sam2_ros.model.config import HIERA, HieraConfig, ModelConfig, infer_config
from sam2_ros.model.image_path import ImagePrediction, predict
from sam2_ros.model.sam2 import ImageFeatures, Sam2Model

__all__ = [
    "HIERA",
    "CheckpointError",
    "HieraConfig",
    "ImageFeatures",
    "ImagePrediction",
    "ModelConfig",
    "Sam2Model",
    "infer_config",
    "load_model",
    "predict",
]
