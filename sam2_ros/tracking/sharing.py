"""One network for several trackers, each in a thread of its own.

The network does one thing at a time. Whoever wants it waits for a turn, first come first served; frames that wait for
the image encoder at the same time are encoded together by the first of them whose turn comes.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from sam2_ros.model.sam2 import ImageFeatures, Sam2Model
from sam2_ros.tracking.propagation import autocast


@dataclass(eq=False)
class _Waiting:
    """A frame that waits for the image encoder, and then what became of it."""

    pixels: Tensor  # [1, 3, S, S]
    features: ImageFeatures | None = None
    error: Exception | None = None

    @property
    def done(self) -> bool:
        return self.features is not None or self.error is not None


class SharedModel:
    """A network with loaded weights whose users take turns. Thread-safe.

    Args:
        model: the network, on its device.
        dtype: as for :class:`~sam2_ros.tracking.Tracker`.
        compiled: encode single frames of the model's own size by ``torch.compile``.
        together: encode waiting frames as one batch. Which frames meet is chance, and a batch of another size differs
            in the last bits of its numbers; False makes every run of the same frames the same.
    """

    def __init__(self, model: Sam2Model, dtype: str = "float32", together: bool = True, compiled: bool = False) -> None:
        self.model = model
        self.dtype = dtype
        self.compiled: Callable[[Tensor], ImageFeatures] | None = compiled_encoder(model) if compiled else None
        self.together = together
        self.batches: dict[int, int] = {}  # how many batches of each size were encoded
        self._changed = threading.Condition()  # guards what follows
        self._queue: deque[object] = deque()  # who waits for a turn; the first one has it
        self._waiting: list[_Waiting] = []

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Has the network to itself. Not reentrant."""
        ticket = object()
        with self._changed:
            self._queue.append(ticket)
            self._changed.wait_for(lambda: self._queue[0] is ticket)
        try:
            yield
        finally:
            with self._changed:
                self._queue.popleft()
                self._changed.notify_all()

    def encode(self, pixels: Tensor) -> ImageFeatures:
        """Features of one preprocessed frame (``float32 [1, 3, S, S]``), encoded with those that wait meanwhile."""
        mine = _Waiting(pixels)
        with self._changed:
            self._waiting.append(mine)
        with self.turn():
            if not mine.done:
                self._encode(self._take_batch(mine))
        if mine.error is not None:
            raise mine.error
        assert mine.features is not None
        return mine.features

    def _take_batch(self, first: _Waiting) -> list[_Waiting]:
        """``first`` and those of its size that wait; frames of another size wait for their own turn."""
        with self._changed:
            size = first.pixels.shape
            batch = [each for each in self._waiting if each is first or (self.together and each.pixels.shape == size)]
            self._waiting = [each for each in self._waiting if each not in batch]
        return batch

    @torch.inference_mode()
    def _encode(self, batch: list[_Waiting]) -> None:
        try:
            with autocast(self.model, self.dtype):
                pixels = batch[0].pixels if len(batch) == 1 else torch.cat([each.pixels for each in batch])
                maps = self._encode_image(pixels)
        except Exception as error:
            for each in batch:
                each.error = error
            return
        self.batches[len(batch)] = self.batches.get(len(batch), 0) + 1
        for row, each in enumerate(batch):
            each.features = maps if len(batch) == 1 else _row(maps, row)

    def _encode_image(self, pixels: Tensor) -> ImageFeatures:
        # What differs in size or strides from the first frame would be compiled for anew, while a camera waits.
        if self.compiled is None or pixels.shape[0] > 1 or pixels.shape[-1] != self.model.config.image_size:
            return self.model.encode_image(pixels)
        return self.compiled(pixels.contiguous())


def compiled_encoder(model: Sam2Model) -> Callable[[Tensor], ImageFeatures]:
    """``model.encode_image`` by ``torch.compile``, which compiles when it is first called (:func:`~warmup.warm_up`).

    Raises:
        ValueError: no C++ compiler, on a CPU; what to do.
    """
    if model.device.type == "cpu" and not any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))):
        raise ValueError(
            "compiling the network needs a C++ compiler on a CPU, and there is none; install one (apt install g++), or "
            "set model.compile to false"
        )
    # Frozen weights go to oneDNN in its own layout. GPUs have nothing like it.
    on_cpu = model.device.type == "cpu"
    return torch.compile(model.encode_image, dynamic=False, options={"freezing": True} if on_cpu else None)


def _row(maps: ImageFeatures, row: int) -> ImageFeatures:
    """One frame's features, copied: a stored view would keep those of the other cameras in memory too."""
    return ImageFeatures(*(tensor[row : row + 1].clone() for tensor in maps.tensors))
