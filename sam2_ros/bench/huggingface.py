"""Hugging Face ``transformers``' ``Sam2VideoModel``, streaming.

It runs with random weights of its own, because it names weights differently; timings do not depend on them.
Our code resizes the frames, as for every contestant, because its own processor needs torchvision.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from sam2_ros.bench.contestants import Task
from sam2_ros.bench.moving_scene import Rgb
from sam2_ros.model.arrays import autocast
from sam2_ros.tracking.prompt_inputs import to_network


class HuggingFace:
    """SAM 2.1 tiny in transformers; we do not build other sizes."""

    name = "huggingface"

    def __init__(self, task: Task, dtype: str) -> None:
        self.task = task
        self.dtype = dtype
        self._model: Any = None
        self._session: Any = None

    def begin(self, frame: Rgb, boxes: NDArray[np.float32]) -> None:
        from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

        self._model = self._build()
        device, (height, width) = self.task.model.device, frame.shape[:2]
        self._session = Sam2VideoInferenceSession(
            video_height=height, video_width=width, inference_device=device, inference_state_device=device,
            video_storage_device=device, dtype=torch.float32,
        )  # fmt: skip
        corners = torch.from_numpy(to_network(boxes.reshape(-1, 2), width, height, self.task.model.config.image_size))
        labels = torch.tensor([[[2, 3]]], dtype=torch.int32)
        for number, box in enumerate(corners.float().reshape(-1, 1, 1, 2, 2)):
            index = self._session.obj_id_to_idx(number)
            self._session.add_point_inputs(index, 0, {"point_coords": box, "point_labels": labels})
        self._session.obj_with_new_inputs = list(range(len(boxes)))
        self.step(frame)

    @torch.inference_mode()
    def step(self, frame: Rgb) -> int:
        pixels = self.task.model.preprocess(torch.from_numpy(frame))
        with autocast(self.task.model.device, self.dtype):
            out = self._model(inference_session=self._session, frame=pixels[0])
        # As its processor's post_process_masks.
        masks = F.interpolate(out.pred_masks.float(), frame.shape[:2], mode="bilinear", align_corners=False)
        return int((masks[:, 0] > 0).cpu().numpy().any(axis=(1, 2)).sum())

    def end(self) -> None:
        self._model, self._session = None, None

    def _build(self) -> Any:
        from transformers import Sam2VideoConfig, Sam2VideoModel

        config, side = Sam2VideoConfig(), self.task.model.config.image_size
        grid = side // 16
        config.image_size = config.prompt_encoder_config.image_size = side
        config.memory_attention_rope_feat_sizes = [grid, grid]
        config.vision_config.backbone_config.image_size = [side, side]
        config.vision_config.backbone_feature_sizes = [[4 * grid] * 2, [2 * grid] * 2, [grid] * 2]
        return Sam2VideoModel(config).to(self.task.model.device).eval().requires_grad_(False)
