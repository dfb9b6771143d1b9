"""Where the engine runs: in this process, or nowhere at all. Knows nothing of ROS; imports torch only on demand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sam2_ros.inference.backend import Backend, BackendInfo
from sam2_ros.inference.null import NullBackend, is_null_model
from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.types import AddRequest, Prompt

if TYPE_CHECKING:
    from sam2_ros.inference.local import LocalBackend

__all__ = ["Backend", "BackendInfo", "NullBackend", "is_null_model", "make_backend"]


def make_backend(
    model: str,
    device: str = "auto",
    dtype: str = "auto",
    config: TrackerConfig | None = None,
    image_size: int = 0,
    threads: int = 0,
) -> Backend:
    """Builds the engine that ``model`` names ("null" for none), loads its weights and runs it once.

    The other arguments are those of :class:`~sam2_ros.inference.local.LocalBackend`.

    Raises:
        ImportError: torch is missing.
        FileNotFoundError, ValueError: the model can't be loaded; the message says why and what is accepted.
    """
    if is_null_model(model):
        return NullBackend.from_name(model, config)
    from sam2_ros.inference.local import LocalBackend

    backend = LocalBackend(model, device, dtype, config, image_size, threads)
    _warm_up(backend)
    return backend


def _warm_up(backend: LocalBackend) -> None:
    """Runs every module of the network once, so that the first camera frame is not the slow one.

    A tracker of its own does it: the backend's own starts with frame 0 and id 1 afterwards.
    """
    from sam2_ros.tracking import Tracker

    tracker = Tracker(backend.tracker.model, TrackerConfig(max_objects=1), backend.info.dtype)
    frame = np.zeros((64, 64, 3), np.uint8)
    tracker.step(frame, 0)
    tracker.add([AddRequest(Prompt(box=np.array([16, 16, 48, 48], np.float32)))])
    tracker.step(frame, 1)
    tracker.close()
