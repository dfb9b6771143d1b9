"""Several training processes with equal weights (``torchrun``): gloo on CPUs, NCCL on GPUs.

Each process runs clips of its own. Gradients are averaged before every update, so that all processes make the same
update. ``DistributedDataParallel`` can't do it: a roll-out calls some parts of the network many times and others not
at all.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from sam2_ros.model.device import find_device

# The others wait for the next gradient of rank 0 while it validates.
PATIENCE = timedelta(hours=4)


@dataclass(frozen=True)
class World:
    """This process among all: number ``rank`` of ``size``."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replaces each tensor by its mean over all processes, in place; all must pass the same shapes."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.reshape(-1).float() for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.size
        for tensor, mean in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))

    def share(self, tensors: Sequence[Tensor]) -> None:
        """Copies the tensors of the first process to all."""
        for tensor in tensors if self.size > 1 else ():
            dist.broadcast(tensor, 0)

    def mean(self, values: Mapping[str, float]) -> dict[str, float]:
        """Means over the processes; all must pass the same names."""
        if self.size == 1:
            return dict(values)
        names, device = sorted(values), "cuda" if dist.get_backend() == "nccl" else "cpu"
        stacked = torch.tensor([values[name] for name in names], dtype=torch.float64, device=device)
        dist.all_reduce(stacked)
        return dict(zip(names, (stacked / self.size).tolist(), strict=True))

    def close(self) -> None:
        """Leaves the group."""
        if self.size > 1:
            dist.destroy_process_group()


SINGLE = World()  # one process alone


def connect(device: str) -> tuple[World, torch.device]:
    """Joins the processes that ``torchrun`` started, if it did.

    Args:
        device: "auto" (CUDA if there is one), or a torch device; each process of a machine takes a GPU of its own.

    Raises:
        ValueError: more processes than GPUs, or no such device.
    """
    size, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    chosen = find_device(device)
    if chosen.type == "cuda":
        count = torch.cuda.device_count()
        index = local if size > 1 else chosen.index or 0
        if index >= count:
            raise ValueError(f"GPU {index} is missing, there are {count}; start fewer processes, or use --device cpu")
        chosen = torch.device("cuda", index)
        torch.cuda.set_device(chosen)
    if size == 1:
        return SINGLE, chosen
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=PATIENCE)
    return World(dist.get_rank(), dist.get_world_size()), chosen
