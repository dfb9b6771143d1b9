"""Where the engine runs: in this process, or nowhere at all. Knows nothing of ROS; imports torch only on demand."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from sam2_ros.inference.backend import Backend, BackendInfo
from sam2_ros.inference.null import NullBackend, is_null_model
from sam2_ros.tracking.config import TrackerConfig

if TYPE_CHECKING:
    from sam2_ros.tracking.shared_model import SharedModel

__all__ = ["Backend", "BackendFactory", "BackendInfo", "NullBackend", "is_null_model", "make_backend"]


class BackendFactory:
    """Makes one backend for each camera, all on one network, which is loaded when the first is made. Thread-safe.

    Args:
        model: "null" for an engine without a network, or as for :class:`~sam2_ros.inference.local.LocalBackend`, whose
            arguments the others are.
        together: encode frames of several cameras that wait at the same time as one batch.
        ahead: on a CPU, encode a frame while the one before it is tracked, each with half of the threads.
    """

    def __init__(
        self,
        model: str,
        device: str = "auto",
        dtype: str = "auto",
        image_size: int = 0,
        threads: int = 0,
        together: bool = True,
        ahead: bool = False,
    ) -> None:
        self._model = model
        self._arguments = (device, dtype, image_size, threads, together, ahead)
        self._lock = threading.Lock()
        self._shared: SharedModel | None = None

    def make(self, config: TrackerConfig | None = None) -> Backend:
        """A tracker with its own objects and memory, to be owned by one thread.

        Raises:
            ImportError: torch is missing.
            FileNotFoundError, ValueError: the model can't be loaded; the message says why and what is accepted.
        """
        if is_null_model(self._model):
            return NullBackend.from_name(self._model, config)
        from sam2_ros.inference.local import LocalBackend, load_shared_model

        with self._lock:
            if self._shared is None:
                self._shared = load_shared_model(self._model, *self._arguments)
                from sam2_ros.tracking.warmup import warm_up  # needs torch, whose absence was told before

                warm_up(self._shared, config or TrackerConfig())
            else:
                self._shared.record(config or TrackerConfig())  # what other settings need, if anything
        return LocalBackend(config=config, shared=self._shared)

    @property
    def batches(self) -> dict[int, int]:
        """How many batches of each size the image encoder has worked on."""
        return dict(self._shared.batches) if self._shared else {}


def make_backend(
    model: str,
    device: str = "auto",
    dtype: str = "auto",
    config: TrackerConfig | None = None,
    image_size: int = 0,
    threads: int = 0,
) -> Backend:
    """One backend on a network of its own, loaded and run once; arguments and errors as for :class:`BackendFactory`."""
    return BackendFactory(model, device, dtype, image_size, threads).make(config)
