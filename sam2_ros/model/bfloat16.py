"""Which processors compute in bfloat16."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def cpu_flags() -> set[str]:
    """What Linux says that this processor has; nothing on other systems."""
    try:
        return set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return set()


def has_bfloat16(device: torch.device | str) -> bool:
    """Whether ``device`` multiplies bfloat16 in hardware; emulated, it would be slower than float32."""
    if not str(device).startswith("cpu"):
        import torch

        return torch.cuda.get_device_capability(device)[0] >= 8  # Ampere
    return bool(cpu_flags() & {"avx512_bf16", "amx_bf16", "bf16"})  # if unknown, float32 is right everywhere
