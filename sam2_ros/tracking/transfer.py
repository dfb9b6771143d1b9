"""Numbers on their way to a device and back, without waiting for what the device is at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def upload(values: NDArray[Any] | Sequence[Any], device: torch.device) -> Tensor:
    """``values`` on ``device``. To a GPU they go through memory that it reads by itself, when its turn comes."""
    host = torch.from_numpy(np.ascontiguousarray(values))
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host.to(device)


class Fetched:
    """A tensor of a device on its way to the host."""

    def __init__(self, tensor: Tensor) -> None:
        self._arrived: torch.cuda.Event | None = None
        self._host = tensor
        if tensor.device.type == "cuda":
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(tensor.device))
        elif tensor.device.type != "cpu":
            self._host = tensor.cpu()

    def tensor(self) -> Tensor:
        """On the host; waits until it has arrived."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._host

    def numpy(self) -> NDArray[Any]:
        """As :meth:`tensor`."""
        array: NDArray[Any] = self.tensor().numpy()
        return array
