"""One network for several trackers, each in a thread of its own.

The network does one thing at a time; its users take turns, first come first served. Frames that wait for the image
encoder at the same time are encoded together, by the first of them whose turn comes.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sam2_ros.model.arrays import autocast, inference, module_of, zeros
from sam2_ros.model.network import HOST, Array, ImageFeatures, Network
from sam2_ros.model.runtimes import TORCH, Choice
from sam2_ros.tracking.bank import POINTER_FRAMES, MemoryBank, Plan
from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.history import rows_of
from sam2_ros.tracking.raw_frame import RawFrame
from sam2_ros.tracking.recognition import recognises
from sam2_ros.tracking.transfer import on_device, upload
from sam2_ros.tracking.turns import Turns

if TYPE_CHECKING:
    from sam2_ros.model.sam2 import Sam2Model
    from sam2_ros.tracking.cuda_graphs import Capacity, TrackingGraphs

_Encoder: TypeAlias = Callable[[Any], ImageFeatures]
MAX_GRAPHS = 32  # of all capacities; beyond it the least recently used is dropped


@dataclass(eq=False)
class _Waiting:
    """A frame that waits for the image encoder."""

    frame: Array | RawFrame
    size: int  # of the square that is encoded, pixels
    model: Network  # the network in the size of the features
    features: Future[ImageFeatures] = field(default_factory=Future)

    @property
    def count(self) -> int:
        return 1 if isinstance(self.frame, RawFrame) else len(self.frame)


class _Threads:
    """CPU threads of this process. ``torch.set_num_threads`` counts for the thread that calls it, and for all that have
    not used PyTorch yet."""

    whole = 0  # threads of the process before the first of its threads used half; 0: none did

    @classmethod
    def given(cls, threads: int) -> None:
        """The user's choice for the process."""
        import torch

        torch.set_num_threads(threads)
        cls.whole = threads if cls.whole else 0

    @classmethod
    def half(cls) -> int:
        import torch

        cls.whole = cls.whole or torch.get_num_threads()
        return max(1, cls.whole // 2)


give_threads = _Threads.given


class SharedModel:
    """A network with loaded weights whose users take turns. Thread-safe.

    Args:
        model: the network, on its device.
        dtype: as for :class:`~sam2_ros.tracking.Tracker`.
        together: encode waiting frames as one batch. Which frames meet is chance, and batches of different sizes differ
            in the last bits of their numbers. False makes every run of the same frames the same.
        use_graphs: launch the work as CUDA graphs (:mod:`.cuda_graphs`); None: on an NVIDIA or AMD GPU.
        ahead: on a CPU, the image encoder has turns of its own, so that it can encode a frame while the one before it
            is tracked; each of the two has half of the threads. No effect on a GPU.
        runtime: what runs the network, for logs.
        window_side: of the input for what is seen through windows, pixels; 0 = as without.
    """

    def __init__(
        self,
        model: Network,
        dtype: str = "float32",
        together: bool = True,
        use_graphs: bool | None = None,
        ahead: bool = False,
        runtime: Choice | None = None,
        window_side: int = 0,
    ) -> None:
        self.model = model
        self.window_side = window_side or model.config.image_size
        self._runtime = runtime or Choice(TORCH, "as given")
        self.dtype = dtype
        self.use_graphs = model.device.type == "cuda" if use_graphs is None else use_graphs
        if self.use_graphs:
            lay_out(self.torch_model)
        self._pool: Any = None
        if self.use_graphs and model.device.type == "cuda":
            import torch

            self._pool = torch.cuda.graph_pool_handle()
        self._encoders: dict[str, _Encoder | None] = {}  # by class; None: the capture failed
        self._resizes = _resizes(model.device)
        self._graphs: dict[Capacity, TrackingGraphs | None] = {}
        self.together = together
        self.batches: dict[int, int] = {}  # how many batches of each size were encoded
        self.ahead = ahead and model.device.type == "cpu"
        self._threads = 0 if model.device == HOST else _Threads.half() if self.ahead else _Threads.whole
        self._turns = Turns()
        self._encoder_turns = Turns() if self.ahead else self._turns
        self._lock = threading.Lock()  # guards what follows
        self._waiting: list[_Waiting] = []

    @property
    def torch_model(self) -> Sam2Model:
        """The network, for what needs PyTorch.

        Raises:
            TypeError: PyTorch does not run it.
        """
        from sam2_ros.model.sam2 import Sam2Model

        if not isinstance(self.model, Sam2Model):
            raise TypeError(f"{self.model.config.name} is run by {self.model.graphs}; accepted: a network of PyTorch")
        return self.model

    @property
    def cache_bytes(self) -> int:
        """Bytes computed once from the weights, by PyTorch."""
        if self.model.device == HOST:
            return 0
        from sam2_ros.model.weight_cache import cache_bytes

        return cache_bytes(self.torch_model)

    @property
    def runtime(self) -> str:
        """What runs the network, why, and how long its graphs took."""
        graphs = self.model.graphs
        return f"{self._runtime.runtime if graphs is None else graphs.report()} ({self._runtime.reason})"

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Reserves the network, but not an image encoder that works ``ahead``."""
        with self._turns.turn(), self._placed():
            yield

    @contextmanager
    def _placed(self) -> Iterator[None]:
        if self._threads:  # 0: as they are; networks in NumPy got theirs when they were loaded
            import torch

            if torch.get_num_threads() != self._threads:
                torch.set_num_threads(self._threads)
        with on_device(self.model.device):
            yield

    def takes_raw(self, image: NDArray[np.uint8], scale: float) -> bool:
        """Whether :meth:`encode` takes ``image`` as a RawFrame; ``scale`` as in :meth:`Sam2Model.preprocess`."""
        grows = scale == 1 and max(image.shape[:2]) <= self.model.config.image_size
        works = self._encoders.get("RawFrameEncoder", True) is not None
        return grows and self.use_graphs and self._resizes and works

    def prepared(self, image: NDArray[np.uint8], scale: float) -> Array | RawFrame:
        """A whole image (RGB ``uint8 [H, W, 3]``) for :meth:`encode`; ``scale`` as in :meth:`Sam2Model.preprocess`."""
        if self.takes_raw(image, scale):
            return RawFrame(image, self.model.device)
        return self.model.preprocess(upload(np.require(image, requirements="W"), self.model.device), scale)

    def encode(self, frame: Array | RawFrame) -> ImageFeatures:
        """Features of one frame, encoded together with others that wait: of a preprocessed one (``float32
        [1, 3, S, S]``), or of an image that the GPU resizes."""
        size = self.model.config.image_size if isinstance(frame, RawFrame) else frame.shape[-1]
        return self._encoded(_Waiting(frame, size, self.model))

    def encode_several(self, pixels: Array, model: Network) -> list[ImageFeatures]:
        """Features of several windows of a frame (``float32 [N, 3, S, S]``, preprocessed), one by one. ``model`` is the
        network in their size (:meth:`Sam2Model.at`)."""
        maps = self._encoded(_Waiting(pixels, pixels.shape[-1], model))
        return [maps] if len(pixels) == 1 else [rows_of(maps, row) for row in range(len(pixels))]

    def _encoded(self, mine: _Waiting) -> ImageFeatures:
        with self._lock:
            self._waiting.append(mine)
        with self._encoder_turns.turn(), self._placed():
            if not mine.features.done():
                self._encode(mine)
        return mine.features.result()

    def _encode(self, first: _Waiting) -> None:
        """Encodes ``first`` and the waiting frames of its size; others wait for their own turn."""
        with self._lock:
            kind = first.size, first.model
            batch = [
                each for each in self._waiting if each is first or (self.together and (each.size, each.model) == kind)
            ]
            self._waiting = [each for each in self._waiting if each not in batch]
        try:
            with inference(self.model.device), autocast(self.model.device, self.dtype):
                maps = self._encode_batch([each.frame for each in batch], first.model)
        except Exception as error:
            for each in batch:
                each.features.set_exception(error)
            return
        count = sum(each.count for each in batch)
        self.batches[count] = self.batches.get(count, 0) + 1
        row = 0
        for each in batch:
            each.features.set_result(maps if len(batch) == 1 else rows_of(maps, row, each.count))
            row += each.count

    def _encode_batch(self, frames: list[Array | RawFrame], model: Network) -> ImageFeatures:
        if not self.use_graphs:
            return model.encode_image(frames[0] if len(frames) == 1 else module_of(frames[0]).concatenate(frames))
        if len(frames) == 1 and isinstance(frames[0], RawFrame):
            encoder = self._graph_encoder("RawFrameEncoder")
            if encoder is not None:
                return encoder(frames[0])
        parts = [self.model.preprocess(each.image()) if isinstance(each, RawFrame) else each for each in frames]
        pixels = parts[0] if len(parts) == 1 else module_of(parts[0]).concatenate(parts)
        usual = pixels.shape[0] == 1 and pixels.shape[-1] == self.model.config.image_size
        encoder = self._graph_encoder("GraphEncoder") if usual else None
        return model.encode_image(pixels) if encoder is None else encoder(pixels)

    def _graph_encoder(self, name: str) -> _Encoder | None:
        """The class ``name`` of :mod:`.cuda_encoder`: the image encoder as a CUDA graph, captured at first use; None
        where that failed."""
        if name not in self._encoders:
            from sam2_ros.tracking import cuda_encoder

            kind, context = getattr(cuda_encoder, name), partial(autocast, self.model.device, self.dtype)
            try:
                self._encoders[name] = kind(self.model, context, self._pool)
            except Exception as error:
                self._encoders[name] = None
                _warn("the image encoder", error)
        return self._encoders[name]

    def graphs_for(self, bank: MemoryBank, plan: Plan, like: ImageFeatures) -> tuple[TrackingGraphs, Plan] | None:
        """The graphs for the objects of ``plan``, captured at first use, and the plan in their shape; None where no
        capture succeeded."""
        from sam2_ros.tracking.cuda_graphs import bucket_of

        for capacity in _capacities(bucket_of(len(plan.codes), bank.config.max_objects), bank.config):
            cut = plan.cut(capacity.frames, capacity.pointers) if capacity.full else plan
            graphs = None if cut is None else self._graphs_of(capacity, like)
            if graphs is not None and cut is not None:
                return graphs, cut
        return None

    def capture_graphs(self, config: TrackerConfig) -> None:
        """Captures all graphs that a tracker with ``config`` may need, in turns of their own."""
        if not self.use_graphs:
            return
        size, blank = self.model.config.image_size, np.zeros((64, 64, 3), np.uint8)
        if self.takes_raw(blank, 1.0):
            self.encode(RawFrame(blank, self.model.device))
        features = self.encode(zeros((1, 3, size, size), self.model.device))
        if not self.tracks_by_graphs(config):
            return
        from sam2_ros.tracking.cuda_graphs import buckets

        for objects in buckets(config.max_objects):
            for capacity in _capacities(objects, config):
                with self.turn(), inference(self.model.device):
                    self._graphs_of(capacity, features)

    def tracks_by_graphs(self, config: TrackerConfig) -> bool:
        """Whether a tracker with ``config`` tracks by CUDA graphs: not where it looks for hidden objects."""
        return self.use_graphs and not recognises(self.model, config)

    def _graphs_of(self, capacity: Capacity, like: ImageFeatures) -> TrackingGraphs | None:
        from sam2_ros.tracking.cuda_graphs import TrackingGraphs

        if capacity not in self._graphs:
            context = partial(autocast, self.model.device, self.dtype)
            try:
                self._graphs[capacity] = TrackingGraphs(self.torch_model, capacity, like, context, self._pool)
            except Exception as error:  # out of memory; Triton has exceptions of its own
                self._graphs[capacity] = None
                _warn(str(capacity), error)
        self._graphs[capacity] = self._graphs.pop(capacity)  # the most recently used one comes last
        while len(self._graphs) > MAX_GRAPHS:
            del self._graphs[next(iter(self._graphs))]
        return self._graphs[capacity]


def lay_out(model: Sam2Model) -> None:
    """Lays convolution weights out channels last, as their inputs are. Only once: graphs use their addresses."""
    import torch

    maps = [each for each in model.parameters() if each.ndim == 4]
    if not all(each.is_contiguous(memory_format=torch.channels_last) for each in maps):
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _capacities(objects: int, config: TrackerConfig) -> list[Capacity]:
    """Capacities of the graphs for so many objects. The most frequent case comes first: one prompted frame each, and
    all recent ones."""
    from sam2_ros.tracking.cuda_graphs import Capacity

    prompted = config.prompted_slots
    return [
        Capacity(objects, 1 + config.recent_slots, 1 + POINTER_FRAMES, full=True),
        Capacity(objects, prompted + config.recent_slots, prompted + POINTER_FRAMES),
    ]


def _resizes(device: Any) -> bool:
    """Whether the GPU ``device`` resizes images."""
    if device.type != "cuda":
        return False
    from sam2_ros.model.dispatch import triton_works

    return triton_works(device)


def _warn(what: str, error: Exception) -> None:
    from sam2_ros.model.dispatch import reason_of

    warnings.warn(f"no CUDA graph for {what}, so that frames take longer: {reason_of(error)}", stacklevel=3)
