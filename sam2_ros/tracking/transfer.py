"""Numbers on their way to a device and back, without waiting for what the device is at."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def upload(values: NDArray[Any] | Sequence[Any], device: torch.device) -> Tensor:
    """``values`` on ``device``. To a GPU they go through memory that it reads by itself, when its turn comes."""
    array = np.ascontiguousarray(values)
    if device.type != "cuda":
        return torch.from_numpy(array).to(device)
    return _STAGING.send(array, device)


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """Where kernels of Triton are to run: it launches them on the current GPU, wherever their tensors are."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


class _Staging:
    """Pinned memory, used again when what was sent from it has arrived. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # By device and bytes, a power of two.
        self._sent: dict[tuple[torch.device, int], list[tuple[Tensor, torch.cuda.Event]]] = {}

    def send(self, array: NDArray[Any], device: torch.device) -> Tensor:
        room = device, 1 << max(array.nbytes - 1, 255).bit_length()
        buffer, event = self._take(room)
        # PyTorch's own copy wakes a thread on every core for this.
        np.copyto(buffer.numpy()[: array.nbytes].view(array.dtype).reshape(array.shape), array)
        dtype = torch.from_numpy(array[:0] if array.ndim else array).dtype
        staged = buffer[: array.nbytes].view(dtype).view(array.shape)
        there = staged.to(device, non_blocking=True)
        event.record(torch.cuda.current_stream(device))
        with self._lock:
            self._sent.setdefault(room, []).append((buffer, event))
        return there

    def _take(self, room: tuple[torch.device, int]) -> tuple[Tensor, torch.cuda.Event]:
        with self._lock:
            waiting = self._sent.get(room, [])
            for index, (buffer, event) in enumerate(waiting):
                if event.query():
                    del waiting[index]
                    return buffer, event
        return torch.empty(room[1], dtype=torch.uint8, pin_memory=True), torch.cuda.Event()


_STAGING = _Staging()


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
