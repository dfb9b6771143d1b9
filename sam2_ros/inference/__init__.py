"""Runs the engine in this process, or one without a network. Knows nothing of ROS; imports torch only on demand."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from sam2_ros.inference.backend import Backend, BackendInfo
from sam2_ros.inference.null import NullBackend, is_null_model
from sam2_ros.model.config import WHOLE_SIDE, WINDOW_SIDE
from sam2_ros.tracking.config import TrackerConfig

if TYPE_CHECKING:
    from sam2_ros.tracking.shared_model import SharedModel

__all__ = ["Backend", "BackendFactory", "BackendInfo", "NullBackend", "is_null_model", "make_backend", "window_side"]


class BackendFactory:
    """Makes the backends of all cameras on one network, which it loads for the first. Thread-safe.

    Args:
        model: "null" for an engine without a network; this and the other arguments are those of
            :func:`~sam2_ros.inference.local.load_shared_model`.
        together: encode the waiting frames of several cameras as one batch.
        ahead: on a CPU, encode a frame while the one before is tracked, each with half of the threads.
        runtime: runs the network; see :data:`sam2_ros.model.runtimes.RUNTIMES`.
        window_side: of the input for what is seen through windows; see :func:`window_side`.
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
        runtime: str = "auto",
        window_side: int = 0,
    ) -> None:
        self._model = model
        self._arguments = (device, dtype, image_size, threads, together, ahead, runtime, window_side)
        self._lock = threading.Lock()
        self._shared: SharedModel | None = None

    def make(self, config: TrackerConfig | None = None) -> Backend:
        """A tracker with its own objects and memory, for one thread.

        Raises:
            ImportError: torch is missing, and the model is no exported network.
            FileNotFoundError, ValueError: the model can't be loaded.
        """
        config = config or TrackerConfig()
        if is_null_model(self._model):
            return NullBackend(config, delay=int(self._model.removeprefix("null").lstrip(":") or 0) / 1000)
        from sam2_ros.inference.local import LocalBackend, load_shared_model
        from sam2_ros.tracking.warmup import warm_up

        with self._lock:
            if self._shared is None:
                self._shared = load_shared_model(self._model, *self._arguments)
                warm_up(self._shared, config)
            else:
                self._shared.capture_graphs(config)  # those that these settings need
        return LocalBackend(self._shared, config)

    @property
    def runtime(self) -> str:
        """What runs the network, why, and how long its graphs took; empty where there is no network."""
        return self._shared.runtime if self._shared else ""

    @property
    def batches(self) -> dict[int, int]:
        """Batches that the image encoder has run, by their size."""
        return dict(self._shared.batches) if self._shared else {}


def make_backend(
    model: str,
    device: str = "auto",
    dtype: str = "auto",
    config: TrackerConfig | None = None,
    image_size: int = 0,
    threads: int = 0,
    runtime: str = "auto",
    ahead: bool = False,
) -> Backend:
    """One backend with a network of its own, warmed up; arguments and errors as for :class:`BackendFactory`."""
    config = config or TrackerConfig()
    side = window_side(model, image_size, config, ahead)
    factory = BackendFactory(model, device, dtype, image_size, threads, ahead=ahead, runtime=runtime, window_side=side)
    return factory.make(config)


def window_side(model: str, image_size: int, config: TrackerConfig, ahead: bool = False) -> int:
    """The side of the network's input for what is seen through windows, pixels; 0 = as without.

    Windows show things larger, so that the embedded model needs a smaller input for them, if no other size is chosen.
    There are none where frames are encoded ``ahead``.
    """
    embedded = model == "embedded" and image_size in (0, WHOLE_SIDE)
    return WINDOW_SIDE if embedded and config.uses_windows(True) and not ahead else 0
