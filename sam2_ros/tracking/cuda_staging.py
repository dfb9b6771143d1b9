"""Pinned memory through which arrays go to a GPU, which reads it by itself."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Staged:
    """Arrays, one after the other, in pinned memory. Can be sent once; then others may use the memory."""

    def __init__(self, device: torch.device, *arrays: NDArray[Any]) -> None:
        self._device, self._count = device, sum(array.nbytes for array in arrays)
        buffer, self._event = _STAGING.take(device, self._count)
        start = 0
        for array in arrays:
            # PyTorch's own copy would wake a thread on every core.
            place = buffer.numpy()[start : start + array.nbytes]
            np.copyto(place.view(array.dtype).reshape(array.shape), array)
            start += array.nbytes
        self._buffer: Tensor | None = buffer

    def into(self, target: Tensor) -> None:
        """Sends them to the beginning of ``target`` (``uint8 [N]``, on the device), without waiting.

        Raises:
            RuntimeError: they were sent before.
        """
        buffer, self._buffer = self._buffer, None
        if buffer is None:
            raise RuntimeError("what is staged is sent once, and this has been sent; stage it again")
        target[: self._count].copy_(buffer[: self._count], non_blocking=True)
        _STAGING.sent(self._device, buffer, self._event)

    def tensor(self) -> Tensor:
        """Sends them, ``uint8 [N]``, without waiting."""
        there = torch.empty(self._count, dtype=torch.uint8, device=self._device)
        self.into(there)
        return there


class _Staging:
    """Pinned memory, reused when what was sent from it has arrived. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # By device and bytes, a power of two.
        self._sent: dict[tuple[torch.device, int], list[tuple[Tensor, torch.cuda.Event]]] = {}

    def take(self, device: torch.device, count: int) -> tuple[Tensor, torch.cuda.Event | None]:
        """Memory for ``count`` bytes or more, and an event for :meth:`sent`."""
        size = 1 << max(count - 1, 255).bit_length()
        if device.type != "cuda":
            return torch.empty(size, dtype=torch.uint8), None
        with self._lock:
            waiting = self._sent.get((device, size), [])
            for index, (buffer, event) in enumerate(waiting):
                if event.query():
                    del waiting[index]
                    return buffer, event
        return torch.empty(size, dtype=torch.uint8, pin_memory=True), torch.cuda.Event()

    def sent(self, device: torch.device, buffer: Tensor, event: torch.cuda.Event | None) -> None:
        """Notes that the current stream is about to read ``buffer``."""
        if event is None:
            return
        event.record(torch.cuda.current_stream(device))
        with self._lock:
            self._sent.setdefault((device, len(buffer)), []).append((buffer, event))


_STAGING = _Staging()
