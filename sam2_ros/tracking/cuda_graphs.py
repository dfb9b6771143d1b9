"""Tracks one frame by CUDA graphs, on tensors with fixed addresses.

A frame takes about a thousand kernels. Launching them one by one takes the CPU longer than a data-centre GPU needs to
run them. A CUDA graph launches them together. Objects are padded to a power of two, so that a few graphs serve any
number of objects.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from sam2_ros.model.choice import choose
from sam2_ros.model.network import ABSENT_LOGIT, ImageFeatures
from sam2_ros.model.padded import PaddedMemory
from sam2_ros.model.sam2 import Sam2Model
from sam2_ros.tracking.bank import MemoryBank, Plan
from sam2_ros.tracking.cuda_masks import pack_masks
from sam2_ros.tracking.propagation import summary_of
from sam2_ros.tracking.transfer import upload

T = TypeVar("T")
WARM_UP_RUNS = 2  # before the capture, so that libraries have their handles and workspaces


class CudaGraph(Generic[T]):
    """``function()`` as a CUDA graph, captured in the constructor; without a GPU, a plain call. The next call
    overwrites the result of the last one."""

    def __init__(self, function: Callable[[], T], device: torch.device, pool: Any = None) -> None:
        self._function: Callable[[], T] | None = function
        self._graph: torch.cuda.CUDAGraph | None = None
        if device.type != "cuda":
            function()
            return
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_RUNS):
                function()
        torch.cuda.current_stream(device).wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        # cuBLAS' workspaces then come from the graph's own memory. Other users of the process, torch.compile for one,
        # may free the workspaces that all streams share, and the graph would go on writing there.
        torch._C._cuda_clearCublasWorkspaces()
        # Other cameras' threads may use the GPU meanwhile.
        graph = torch.cuda.graph(self._graph, pool=pool, stream=stream, capture_error_mode="thread_local")
        try:
            with torch.cuda.stream(stream), graph:  # the stream also if the capture fails at its end
                self._result = function()
        finally:
            torch._C._cuda_clearCublasWorkspaces()
        self._function = None  # it refers to the owner of this object

    def __call__(self) -> T:
        if self._function is not None:
            return self._function()
        assert self._graph is not None
        self._graph.replay()
        return self._result


@dataclass(frozen=True)
class DecodedObjects:
    """The decoder's output for ``B`` objects."""

    table: Tensor  # float32 [4, B] see summary_of
    masks: Tensor  # uint8 [B, h, ceil(w / 8)] masks of `drawn`, a bit a pixel
    drawn: Tensor  # float32 [B, 1, h, w] the chosen mask's logits
    logits: Tensor  # float32 [B, 1, h, w] the same, of absent objects ABSENT_LOGIT
    present: Tensor  # [B] bool
    pointers: Tensor  # [B, C]


@dataclass(frozen=True)
class Capacity:
    """What a graph has room for."""

    objects: int
    frames: int  # of each object
    pointers: int  # of each object
    full: bool = False  # every object has exactly as many, so that nothing is masked


class TrackingGraphs:
    """Three graphs for up to ``capacity.objects`` objects. For each frame, call in this order: :meth:`load`,
    :attr:`attend` (memory attention), :attr:`decode`, :attr:`encode_memory`.

    ``like``: features of any frame, for shapes and dtypes; ``context`` gives the autocast context; ``pool``: of memory
    for CUDA graphs.
    """

    def __init__(
        self, model: Sam2Model, capacity: Capacity, like: ImageFeatures, context: Callable[[], Any], pool: Any = None
    ) -> None:
        self.model, self.capacity, self._context = model, capacity, context
        config, device, objects = model.config, model.device, capacity.objects
        self.features = ImageFeatures(*(torch.zeros_like(each) for each in like.tensors[:3]))
        self.frames = torch.zeros(
            objects, capacity.frames, config.memory_tokens, config.memory_dim, dtype=torch.bfloat16, device=device
        )
        self.pointers = torch.zeros(objects, capacity.pointers, config.hidden_dim, device=device)
        # Columns: S rows of the temporal code, P ages, the numbers of valid frames and pointers.
        self.table = torch.zeros(objects, capacity.frames + capacity.pointers + 2, dtype=torch.int32, device=device)
        # Each graph leaves its result for the next. The capture runs this Python once; every replay fills the same
        # tensors.
        self._conditioned: Tensor
        self._decoded: DecodedObjects
        self.attend = CudaGraph(self._attend, device, pool)
        self.decode = CudaGraph(self._decode, device, pool)
        self.encode_memory = CudaGraph(self._encode_memory, device, pool)

    def load(self, features: ImageFeatures, bank: MemoryBank, plan: Plan) -> None:
        """Copies the frame's features and memories to where the graphs read them; further rows are padding."""
        room, count, device = self.capacity, len(plan.codes), self.table.device
        if plan.codes.shape[1] != room.frames or plan.pointers.shape[1] != room.pointers or count > room.objects:
            raise ValueError(f"a CUDA graph with room for {room} was given {plan.codes.shape}, {plan.pointers.shape}")
        for target, given in zip(self.features.tensors, features.tensors, strict=False):
            target.copy_(given)
        table = np.zeros((3, room.objects, self.table.shape[1]), np.int64)
        columns = (plan.codes, plan.ages, plan.num_frames[:, None], plan.num_pointers[:, None])
        if room.full:
            table[0, count:, -2:] = room.frames, room.pointers  # the padding takes part; nobody reads its result
        table[0, :count] = np.concatenate(columns, axis=1)
        table[1, :count, : room.frames] = plan.frames
        table[2, :count, : room.pointers] = plan.pointers
        sent = upload(table, device)
        self.table.copy_(sent[0])
        slots = sent[1, :, : room.frames].flatten()
        torch.index_select(bank.spatial.flatten(0, 1), 0, slots, out=self.frames.view(-1, *self.frames.shape[2:]))
        slots = sent[2, :, : room.pointers].flatten()
        torch.index_select(bank.pointers.flatten(0, 1), 0, slots, out=self.pointers.view(-1, self.pointers.shape[2]))

    def _attend(self) -> Tensor:
        model, room = self.model, self.capacity
        split = model.config.hidden_dim // model.config.memory_dim
        codes, ages, numbers = self.table.split((room.frames, room.pointers, 2), dim=1)
        pointer_codes = model.pointer_code(ages).float().repeat_interleave(split, dim=1)
        with self._context():
            memory = PaddedMemory(
                self.frames,
                model.maskmem_tpos_enc[codes.long(), 0, 0],
                numbers[:, 0] * model.config.memory_tokens,
                self.pointers.unflatten(2, (split, -1)).flatten(1, 2),
                pointer_codes,
                numbers[:, 1] * split,
                room.full,
            )
            self._conditioned = model.with_padded_memory(self.features, memory)
        return self._conditioned

    def _decode(self) -> DecodedObjects:
        model, conditioned = self.model, self._conditioned
        with self._context():
            decoded = model.decode(conditioned, self.features, *model.no_prompt(len(conditioned)))
            chosen = choose(decoded, multimask=True, stability_fallback=False)
            scores = decoded.object_score[:, 0].float()
            present = model.present(scores, chosen.iou)
            pointers = model.pointer(chosen.token, present)
            drawn = chosen.logits.float()
            self._decoded = DecodedObjects(
                summary_of(scores, chosen.iou, present, drawn),
                pack_masks(drawn, *drawn.shape[2:]),
                drawn,
                torch.where(present[:, None, None, None], drawn, ABSENT_LOGIT),
                present,
                pointers,
            )
        return self._decoded

    def _encode_memory(self) -> Tensor:
        """``[B, HW, memory_dim]``."""
        with self._context():
            return self.model.encode_low_memory(self.features, self._decoded.logits, self._decoded.present)


def first(decoded: DecodedObjects, count: int) -> DecodedObjects:
    cut = {each.name: getattr(decoded, each.name)[:count] for each in fields(DecodedObjects) if each.name != "table"}
    return DecodedObjects(table=decoded.table[:, :count], **cut)


def bucket_of(objects: int, most: int) -> int:
    """The number that ``objects`` are padded to: a power of two, ``most`` at most."""
    return int(min(most, 1 << (objects - 1).bit_length()))


def buckets(most: int) -> list[int]:
    """All numbers that :func:`bucket_of` gives."""
    return sorted({bucket_of(objects, most) for objects in range(1, most + 1)})
