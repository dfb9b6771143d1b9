"""Sends arrays to a device and back without waiting for the device's other work."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sam2_ros.model.network import HOST, Array

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def upload(values: NDArray[Any] | Sequence[Any], device: Any) -> Array:
    """``values`` on the ``device`` of a network; to a GPU through pinned memory, which it reads by itself."""
    array = np.ascontiguousarray(values)
    if device == HOST:
        return array
    import torch

    if device.type != "cuda":
        return torch.from_numpy(array).to(device)
    from sam2_ros.tracking.cuda_staging import Staged

    dtype = torch.from_numpy(array[:0] if array.ndim else array).dtype
    return Staged(device, array).tensor().view(dtype).view(array.shape)


def on_device(device: Any) -> AbstractContextManager[object]:
    """Makes ``device`` the current GPU. Triton launches kernels there, wherever their tensors are."""
    if device.type != "cuda":
        return nullcontext()
    import torch

    return torch.cuda.device(device)


class Fetched:
    """Brings a tensor of a device to the host in the background."""

    def __init__(self, tensor: Tensor) -> None:
        self._arrived: torch.cuda.Event | None = None
        if tensor.device.type == "cuda":
            import torch

            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(tensor.device))
        else:
            self._host = tensor.cpu()

    def tensor(self) -> Tensor:
        """The tensor on the host; waits until it has arrived."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._host
