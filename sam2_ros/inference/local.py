"""The engine in this process. Importing this module imports torch.

Raises:
    ImportError: torch is not installed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# torch reads it when it is loaded. Its threads then sleep while they wait for each other: spinning threads slow
# tracking down where other processes use the same cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# oneDNN keeps a kernel for each combination of shapes, by default 1024 of them, which would fill hundreds of MiB.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")
try:
    import torch
except ImportError as error:
    raise ImportError(
        "the tracker needs PyTorch 2.3 or newer, which this Python does not have; install it, for example "
        "with: python3 -m pip install torch"
    ) from error

from sam2_ros.inference.backend import BackendInfo
from sam2_ros.model import load_model
from sam2_ros.model.bfloat16 import has_bfloat16
from sam2_ros.model.device import find_device
from sam2_ros.model.graph_runner import run_by
from sam2_ros.model.runtimes import AUTO, TORCH, choose_runtime, computes_bfloat16
from sam2_ros.model.weight_cache import cache_bytes
from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.image_segmenter import EncodedImage, ImageSegmenter
from sam2_ros.tracking.shared_model import SharedModel, give_threads
from sam2_ros.tracking.tracker import EncodedFrame, Tracker
from sam2_ros.tracking.types import FrameResult, PromptCode, PromptRequest, PromptResult


class LocalBackend(Tracker):
    """A :class:`~sam2_ros.inference.backend.Backend` in this process, on a network that others may use too."""

    def __init__(self, network: SharedModel, config: TrackerConfig | None = None) -> None:
        super().__init__(network.model, config, network.dtype, network)
        self._closed = False
        self.images = LocalImages(self, network)
        self.encodes_ahead = network.ahead
        self.info = BackendInfo(
            model=self.model.config.name,
            device=str(self.model.device) + (f" ({self.model.graphs})" if self.model.graphs is not None else ""),
            dtype=self.dtype,
            image_size=self.model.config.image_size,
            bank_bytes=self.bank.nbytes,
            max_objects=self.config.max_objects,
            history_bytes=self.history_bytes,
            cache_bytes=cache_bytes(self.model),
        )

    def step(self, frame: NDArray[np.uint8] | EncodedFrame, stamp: int = 0) -> FrameResult:
        """As :meth:`Tracker.step`.

        Raises:
            RuntimeError: the backend was closed.
        """
        if self._closed:
            raise RuntimeError("the backend was closed; make a new one")
        return super().step(frame, stamp)

    def close(self) -> None:
        super().close()
        self.take_changes()
        self._closed = True


class LocalImages(ImageSegmenter):
    """Single images beside a tracker; see :class:`~sam2_ros.inference.backend.NewestSegmenter`."""

    def __init__(self, tracker: Tracker, network: SharedModel) -> None:
        super().__init__(network, tracker.config.stability_fallback)
        self._tracker = tracker

    def segment_newest(self, requests: Sequence[PromptRequest]) -> list[PromptResult]:
        newest = self._tracker.newest_view()
        if newest is None:
            return [PromptResult(PromptCode.NO_FRAME, "no frame was processed yet")] * len(requests)
        image = EncodedImage(newest.width, newest.height, newest.features)
        return [self.answer(image, request) for request in requests]


def load_shared_model(
    model: str = "embedded",
    device: str = "auto",
    dtype: str = "auto",
    image_size: int = 0,
    threads: int = 0,
    together: bool = True,
    ahead: bool = False,
    runtime: str = "auto",
) -> SharedModel:
    """Loads a network for one or several :class:`LocalBackend`.

    Args:
        model: "embedded"; an official size (a key of :data:`sam2_ros.model.HIERA`, or with "-2.0"); or a path.
        device: "auto" (the first GPU, else the CPU), "cpu", "cuda" or "cuda:N".
        dtype: "auto" (bfloat16 where the hardware supports it, else float32), "float32" or "bfloat16".
        image_size: side of the network's square input in pixels; 0 = the checkpoint's own.
        threads: CPU threads of this process; 0 = torch's default.
        together, ahead: as for :class:`~sam2_ros.inference.BackendFactory`.
        runtime: one of :data:`sam2_ros.model.runtimes.RUNTIMES`; those but "auto" and "torch" need the device "cpu",
            which "auto" then is.

    Raises:
        FileNotFoundError, ValueError: the weights are missing or don't fit, or there is no such device or runtime.
    """
    if threads:
        give_threads(threads)
    others = runtime not in (AUTO, TORCH)
    chosen = find_device("cpu" if device == "auto" and others else device)
    weights = load_model(model, chosen, image_size)
    choice = choose_runtime(runtime, str(chosen), weights.config.trunk)
    if dtype == "auto":
        dtype = "bfloat16" if has_bfloat16(chosen) and computes_bfloat16(choice.runtime) else "float32"
    count = threads or torch.get_num_threads()
    network = run_by(weights, choice.runtime, dtype, max(1, count // 2) if ahead else count)
    return SharedModel(network, dtype, together, ahead=ahead, runtime=choice)
