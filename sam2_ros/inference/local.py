"""The engine in this process. torch is imported when a backend is made, not before."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sam2_ros.inference.backend import BackendInfo
from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.types import AddRequest, FrameResult, ObjectChange, PromptResult

if TYPE_CHECKING:
    from sam2_ros.tracking.shared_model import SharedModel
    from sam2_ros.tracking.tracker import EncodedFrame, Tracker


class LocalBackend:
    """A :class:`~sam2_ros.inference.backend.Backend` that runs a :class:`~sam2_ros.tracking.Tracker`.

    Args:
        model: "embedded"; an official size (a key of :data:`sam2_ros.model.HIERA`, or with "-2.0"); or a path.
        device: "auto" (the first GPU, else the CPU), or a torch device.
        dtype: "auto" (bfloat16 where the hardware supports it, else float32), "float32" or "bfloat16".
        config: settings of the tracker.
        image_size: side of the network's square input in pixels; 0 = the checkpoint's own.
        threads: CPU threads of this process; 0 = torch's default.
        shared: a loaded network, which other backends may use too; model, device and dtype are ignored then.

    Raises:
        ImportError: torch is not installed.
        FileNotFoundError, ValueError: the weights are missing or don't fit.
    """

    def __init__(
        self,
        model: str = "embedded",
        device: str = "auto",
        dtype: str = "auto",
        config: TrackerConfig | None = None,
        image_size: int = 0,
        threads: int = 0,
        shared: SharedModel | None = None,
    ) -> None:
        network = shared or load_shared_model(model, device, dtype, image_size, threads)
        from sam2_ros.model.weight_cache import cache_bytes
        from sam2_ros.tracking.tracker import Tracker

        self._tracker: Tracker | None = Tracker(network.model, config, network.dtype, network)
        self.encodes_ahead = network.ahead
        self.info = BackendInfo(
            model=network.model.config.name,
            device=str(network.model.device),
            dtype=network.dtype,
            image_size=network.model.config.image_size,
            bank_bytes=self._tracker.bank.nbytes,
            max_objects=self._tracker.config.max_objects,
            history_bytes=self._tracker.history_bytes,
            cache_bytes=cache_bytes(network.model),
        )

    @property
    def next_id(self) -> int:
        return self.tracker.next_id

    @next_id.setter
    def next_id(self, value: int) -> None:
        self.tracker.next_id = value

    @property
    def tracker(self) -> Tracker:
        """The engine.

        Raises:
            RuntimeError: the backend was closed.
        """
        if self._tracker is None:
            raise RuntimeError("the backend was closed; make a new one")
        return self._tracker

    def configure(self, config: TrackerConfig) -> None:
        self.tracker.configure(config)

    def step(self, frame: NDArray[np.uint8], stamp: int) -> FrameResult:
        return self.tracker.step(frame, stamp)

    def encode(self, frame: NDArray[np.uint8]) -> EncodedFrame:
        return self.tracker.encode(frame)

    def step_encoded(self, encoded: EncodedFrame, stamp: int) -> FrameResult:
        return self.tracker.step(encoded, stamp)

    def add(self, requests: Sequence[AddRequest], stamp: int = 0) -> list[PromptResult]:
        return self.tracker.add(requests, stamp)

    def refine(self, request: AddRequest, stamp: int = 0) -> PromptResult:
        return self.tracker.refine(request, stamp)

    def remove(self, object_id: int) -> bool:
        return self.tracker.remove(object_id)

    def rename(self, object_id: int, name: str, label: str, label_score: float | None = None) -> None:
        self.tracker.rename(object_id, name, label, label_score)

    def reset(self) -> int:
        return self.tracker.reset()

    def objects(self) -> FrameResult | None:
        return self.tracker.objects()

    def take_changes(self) -> list[ObjectChange]:
        return [] if self._tracker is None else self._tracker.take_changes()

    def link_values(self) -> Mapping[str, object]:
        return {}

    def close(self) -> None:
        if self._tracker is not None:
            self._tracker.close()
            self._tracker = None


def load_shared_model(
    model: str = "embedded",
    device: str = "auto",
    dtype: str = "auto",
    image_size: int = 0,
    threads: int = 0,
    together: bool = True,
    ahead: bool = False,
) -> SharedModel:
    """Loads a network for several :class:`LocalBackend`; arguments and errors as there, and as for
    :class:`~sam2_ros.inference.BackendFactory`."""
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
    from sam2_ros.model import load_model
    from sam2_ros.tracking.shared_model import SharedModel, give_threads

    if threads:
        give_threads(threads)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype == "auto":
        # GPUs before Ampere (8.0) emulate bfloat16.
        fast = torch.cuda.get_device_capability(device)[0] >= 8 if device != "cpu" else cpu_has_bfloat16()
        dtype = "bfloat16" if fast else "float32"
    return SharedModel(load_model(model, device, image_size), dtype, together, ahead=ahead)


def cpu_has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware; emulated, it would be slower than float32."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False  # not Linux: float32 is right everywhere
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})
