"""Which device a user means."""

from __future__ import annotations

import re

import torch

ACCEPTED = "accepted: auto, cpu, cuda, cuda:N"


def find_device(name: str) -> torch.device:
    """The device called ``name``: "auto" is the first GPU, or the CPU where there is none.

    Raises:
        ValueError: no such device here; the message says which ones there are.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d{1,3})?", name, re.ASCII):
        raise ValueError(f"device is '{name[:40]}'; {ACCEPTED}")
    device = torch.device(name)
    if device.type == "cuda":
        if torch.version.cuda is None and torch.version.hip is None:
            raise ValueError(f"device is '{name}', but this PyTorch knows no GPUs; use cpu, or install one with CUDA")
        count = torch.cuda.device_count()
        if count == 0:
            raise ValueError(f"device is '{name}', but PyTorch finds no GPU; use cpu, or look at nvidia-smi")
        if (device.index or 0) >= count:
            raise ValueError(f"device is '{name}', but there are {count} GPUs; accepted: cuda:0 to cuda:{count - 1}")
    return device
