"""The engine in this process. Imports torch only where PyTorch runs the network, or its graphs have to be made."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# torch reads it when it is loaded. Its threads then sleep while they wait for each other: spinning threads slow
# tracking down where other processes use the same cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# oneDNN keeps a kernel for each combination of shapes, by default 1024 of them, which would fill hundreds of MiB.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")

from sam2_ros.inference.backend import BackendInfo
from sam2_ros.model.bfloat16 import has_bfloat16
from sam2_ros.model.cached_graphs import CachedGraphs
from sam2_ros.model.graph_folder import is_graph_folder
from sam2_ros.model.graph_network import GraphNetwork, load_exported
from sam2_ros.model.int8 import INT8
from sam2_ros.model.runtimes import AUTO, TORCH, Choice, choose_runtime
from sam2_ros.model.weight_files import find_weights
from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.image_segmenter import EncodedImage, ImageSegmenter
from sam2_ros.tracking.shared_model import SharedModel, give_threads
from sam2_ros.tracking.tracker import EncodedFrame, Tracker
from sam2_ros.tracking.types import FrameResult, PromptCode, PromptRequest, PromptResult

# "auto" runs only networks like the embedded one by graphs, whose file has 24 MB; larger files are not hashed to look
# for graphs before their weights are loaded.
MOST_BYTES_OF_AUTO = 100 << 20


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
            windows=self.model.config.windows,
            cache_bytes=network.cache_bytes,
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

    @property
    def follows_edges(self) -> bool:
        return self._tracker.config.follows_edges(self.model.config.windows)

    def segment_newest(self, requests: Sequence[PromptRequest]) -> list[PromptResult]:
        newest = self._tracker.newest_view()
        if newest is None:
            return [PromptResult(PromptCode.NO_FRAME, "no frame was processed yet")] * len(requests)
        image = EncodedImage(newest.width, newest.height, newest.features, self._tracker.newest_edges())
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
    window_side: int = 0,
) -> SharedModel:
    """Loads a network for one or several :class:`LocalBackend`.

    Args:
        model: "embedded"; an official size (a key of :data:`sam2_ros.model.HIERA`, or with "-2.0"); a path; or the
            folder of an exported network, which runs without PyTorch on the CPU.
        device: "auto" (the first GPU, else the CPU), "cpu", "cuda" or "cuda:N".
        dtype: one of :data:`sam2_ros.model.config.DTYPES`: "auto" (bfloat16 where the hardware supports it; else int8
            where it does, and OpenVINO runs the embedded model; else float32), "float32", "bfloat16" or "int8".
        image_size: side of the network's square input in pixels; 0 = the checkpoint's own.
        threads: CPU threads of this process; 0 = the runtime's default.
        together, ahead: as for :class:`~sam2_ros.inference.BackendFactory`.
        runtime: one of :data:`sam2_ros.model.runtimes.RUNTIMES`; those but "auto" and "torch" need the device "cpu",
            which "auto" then is.
        window_side: as for :class:`~sam2_ros.tracking.shared_model.SharedModel`; weights only.

    Raises:
        ImportError: weights need PyTorch, which is not installed.
        FileNotFoundError, ValueError: the weights are missing or don't fit, or there is no such device or runtime.
    """
    count = threads or len(os.sched_getaffinity(0))
    of_graphs = max(1, count // 2) if ahead else threads
    if is_graph_folder(folder := Path(model).expanduser()):
        if device not in ("auto", "cpu"):
            raise ValueError(f"{folder} is an exported network, and device is '{device}'; accepted: auto, cpu")
        network, choice = load_exported(folder, runtime, dtype, of_graphs)
        network.at(image_size or network.config.image_size)  # refuses another size
        return _shared(network, choice, together, ahead)
    if device == "auto" and (runtime not in (AUTO, TORCH) or (runtime == AUTO and not may_have_gpu())):
        device = "cpu"
    if device != "cpu":
        _check_torch(model)
        from sam2_ros.model.device import find_device

        device = str(find_device(device))
    choice, cached = choose_runtime(runtime, device), None
    if choice.runtime != TORCH:
        path = find_weights(model)
        if runtime != AUTO or path.stat().st_size <= MOST_BYTES_OF_AUTO:
            cached = CachedGraphs(path, image_size)
            smaller = CachedGraphs(path, window_side) if window_side else None
            opened = cached.open(runtime, dtype, of_graphs)
            also = smaller.open(runtime, dtype, of_graphs) if smaller and opened else None
            if opened and (also or not smaller):
                opened[0].smaller = also[0] if also else None
                return _shared(*opened, together, ahead, window_side)
    _check_torch(model, cached.problem if cached else "")
    from sam2_ros.model import load_model

    if threads:
        give_threads(threads)
    weights = load_model(model, device, image_size)
    if choice.runtime != TORCH:
        choice = choose_runtime(runtime, device, weights.config.trunk)
        if choice.runtime != TORCH:
            cached = cached or CachedGraphs(find_weights(model), image_size)
            made = cached.make(weights, choice, dtype, of_graphs)
            if made and window_side:
                smaller = CachedGraphs(find_weights(model), window_side)
                made.smaller = smaller.make(weights.at(window_side), choice, dtype, of_graphs)
            if made and (made.smaller or not window_side):
                return _shared(made, choice, together, ahead, window_side)
            choice = Choice(TORCH, "its graphs can't be used")
    if dtype == "auto":
        dtype = "bfloat16" if has_bfloat16(device) else "float32"
    if dtype == INT8:
        raise ValueError(
            f"dtype is 'int8', but PyTorch runs the network ({choice.reason}); accepted: auto, float32, bfloat16, or "
            "runtime: openvino"
        )
    return SharedModel(weights, dtype, together, ahead=ahead, runtime=choice, window_side=window_side)


def _check_torch(model: str, problem: str = "") -> None:
    """``problem``: why the model's cached graphs, which need none, can't be opened.

    Raises:
        ImportError: there is no PyTorch.
    """
    try:
        import torch  # noqa: F401
    except ImportError as error:
        if problem:
            raise ImportError(
                f"the cached graphs of the model '{model}' can't be opened, and PyTorch, which makes them, is not "
                f"installed: {problem}"
            ) from error
        raise ImportError(
            f"the model '{model}' needs PyTorch 2.3 or newer, which this Python does not have; install it, for example "
            "with: python3 -m pip install torch; or give the folder that 'sam2_ros export' wrote where there is PyTorch"
        ) from error


def _shared(network: GraphNetwork, choice: Choice, together: bool, ahead: bool, window_side: int = 0) -> SharedModel:
    dtype = network.graphs.dtype
    return SharedModel(network, dtype, together, ahead=ahead, runtime=choice, window_side=window_side)


def may_have_gpu() -> bool:
    """Whether PyTorch may find a GPU here; looks for the drivers of NVIDIA and AMD, which takes no time."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return Path("/dev/kfd").exists()
    return True
