"""The reference video predictor (PyPI ``sam2``), driven frame by frame as a stream, with the same weights as ours.

The predictor is made for whole clips. Here it gets one frame at a time, resized as ours, and returns the masks at once.
It still keeps the output of every frame.
"""

from __future__ import annotations

import contextlib
import sys
from collections import OrderedDict
from functools import lru_cache
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray

from sam2_ros.bench.contestants import Task
from sam2_ros.bench.moving_scene import Rgb
from sam2_ros.model.arrays import autocast

_FILES = {"tiny": "t", "small": "s", "base_plus": "b+", "large": "l"}
ENDLESS = 1_000_000  # the length of the clip that the predictor expects, frames


def stream_state(images: Any, num_frames: int, height: int, width: int, device: torch.device) -> dict[str, Any]:
    """The state that the predictor's ``init_state`` returns, without reading a clip.

    Args:
        images: frames of the network's size, by index.
        num_frames: length of the clip that the predictor expects.
        height, width: of the masks, pixels.
    """
    empty = (
        "point_inputs_per_obj", "mask_inputs_per_obj", "cached_features", "constants", "output_dict_per_obj",
        "temp_output_dict_per_obj", "frames_tracked_per_obj",
    )  # fmt: skip
    return {
        "images": images,
        "num_frames": num_frames,
        "offload_video_to_cpu": False,
        "offload_state_to_cpu": False,
        "video_height": height,
        "video_width": width,
        "device": device,
        "storage_device": device,
        "obj_id_to_idx": OrderedDict(),
        "obj_idx_to_id": OrderedDict(),
        "obj_ids": [],
        **{name: {} for name in empty},
    }


class _OneFrame:
    """Stands for a clip: any index gives the newest frame."""

    image: Any = None

    def __getitem__(self, index: int) -> Any:
        return self.image[0]


class Official:
    """``SAM2VideoPredictor``; with ``compiled``, ``SAM2VideoPredictorVOS``, which compiles all of its parts."""

    def __init__(self, task: Task, dtype: str, compiled: bool) -> None:
        self.task = task
        self.dtype = dtype
        self.name = "official VOS" if compiled else "official"
        self.compiled = compiled
        self._predictor: Any = None
        self._state: dict[str, Any] = {}
        self._frame = 0

    def begin(self, frame: Rgb, boxes: NDArray[np.float32]) -> None:
        self._predictor = _compiled(self.task, self.dtype) if self.compiled else _build(self.task, compiled=False)
        self._state = stream_state(_OneFrame(), ENDLESS, frame.shape[0], frame.shape[1], self.task.model.device)
        self._frame = 0
        self._load(frame)
        with autocast(self.task.model.device, self.dtype):
            for number, box in enumerate(boxes):
                self._predictor.add_new_points_or_box(self._state, 0, number, box=box)

    def step(self, frame: Rgb) -> int:
        self._frame += 1
        self._load(frame)
        tqdm = mock.patch("sam2.sam2_video_predictor.tqdm", lambda frames, **_: frames)
        with autocast(self.task.model.device, self.dtype), tqdm:
            ((_, _, logits),) = self._predictor.propagate_in_video(self._state, self._frame, 0)
        return int((logits[:, 0] > 0).cpu().numpy().any(axis=(1, 2)).sum())

    def end(self) -> None:
        self._predictor, self._state = None, {}

    def _load(self, frame: Rgb) -> None:
        self._state["images"].image = self.task.model.preprocess(torch.from_numpy(frame))


@lru_cache(maxsize=1)  # reused for the next number of objects, because compilation takes minutes
def _compiled(task: Task, dtype: str) -> Any:
    """A compiled predictor for one ``dtype``."""
    return _build(task, compiled=True)


def _build(task: Task, compiled: bool) -> Any:
    from sam2.build_sam import build_sam2_video_predictor

    config, device = task.model.config, task.model.device
    folder = "sam2.1/sam2.1" if config.version == "2.1" else "sam2/sam2"
    sizes = f"_attention.feat_sizes=[{config.grid},{config.grid}]"
    overrides = [f"++model.memory_attention.layer.{kind}{sizes}" for kind in ("self", "cross")]
    with contextlib.redirect_stdout(sys.stderr):  # it prints that it compiles; stdout is for the report
        predictor = build_sam2_video_predictor(
            f"configs/{folder}_hiera_{_FILES[task.size_name]}.yaml",
            device=str(device),
            apply_postprocessing=False,  # hole filling needs its CUDA extension; ours is off by default too
            vos_optimized=compiled,
            hydra_overrides_extra=[f"++model.image_size={config.image_size}", *overrides],
        )
    predictor.load_state_dict(task.model.state_dict())
    if compiled:
        # The next run of a compiled part overwrites its output. The predictor copies every output that it keeps
        # except this one, and PyTorch 2.11 refuses to read an overwritten tensor.
        attend = predictor.memory_attention.forward
        predictor.memory_attention.forward = lambda *args, **named: attend(*args, **named).clone()
    return predictor.requires_grad_(False)
