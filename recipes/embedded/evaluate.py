"""Quick evaluation while training: region similarity J on stored features, streamed as the engine does it."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recipes.embedded.features import FeatureStore
from recipes.embedded.rollout import prompt_frame, track_frame
from sam2_ros.evaluation.mask_metrics import jaccard
from sam2_ros.model.network import ImageFeatures
from sam2_ros.model.sam2 import Sam2Model
from sam2_ros.training.rollout import Memory
from sam2_ros.training.simulated_user import make_prompt


def project(model: Sam2Model, stride_4: Tensor, stride_8: Tensor, stride_16: Tensor) -> ImageFeatures:
    """The encoder's maps as the decoder wants them: ``Sam2Model.encode_image`` for stored features."""
    decoder = model.sam_mask_decoder
    return ImageFeatures(stride_16, decoder.conv_s1(stride_8), decoder.conv_s0(stride_4))


@torch.no_grad()
def evaluate(model: Sam2Model, store: FeatureStore, kind: str, every: int = 1) -> dict[str, float]:
    """Mean J of each clip of ``store``: objects of the first frame, prompted there; first and last frame left out.

    ``every`` takes each n-th frame only, for a coarser and quicker answer.
    """
    size = store.size
    model = model.at(size)
    scores: dict[str, float] = {}
    for entry in store.clips:
        memory = Memory(model)
        values = []
        for t in range(0, entry.length - 1, every):
            frame = store[entry.start + t]
            features = project(model, frame.stride_4, frame.stride_8, frame.stride_16)
            if t == 0:
                objects = np.unique(frame.labels)[1:]
                masks = [frame.labels == value for value in objects]
                prompt_frame(model, memory, features, make_prompt(kind, masks), fallback=True)
                continue
            output = track_frame(model, memory, features)
            full = F.interpolate(output.logits, (size, size), mode="bilinear", align_corners=False)[:, 0] > 0
            pairs = zip(full.numpy(), objects, strict=True)
            values.append(np.mean([jaccard(mask, frame.labels == value) for mask, value in pairs]))
        scores[entry.name] = float(np.mean(values))
    return scores
