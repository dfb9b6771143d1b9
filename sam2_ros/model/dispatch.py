"""Which implementation runs where: PyTorch's own, ours for CPUs (:mod:`.cpu_kernels`), or ours for GPUs (:mod:`.gpu`).

All of them do the same arithmetic. With gradients, PyTorch's own run.
"""

from __future__ import annotations

import importlib.util
import inspect
import warnings
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import sdpa_kernel

from sam2_ros.model import cpu_kernels

TRITON_DTYPE = torch.bfloat16  # of what the Triton kernels give to matrix products
ONEDNN_ROWS = 64  # matrices with fewer rows are not worth the call of oneDNN


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The dtype that autocast computes in on ``device``; None where autocast is off."""
    if hasattr(torch, "get_autocast_dtype"):  # PyTorch 2.4 and newer
        enabled = torch.is_autocast_enabled(device.type)
        return torch.get_autocast_dtype(device.type) if enabled else None
    if device.type == "cpu":
        return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None
    return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None


def infers_on_cpu(device: torch.device) -> bool:
    """Whether ``device`` is a CPU, no gradients are wanted, and the network is not being exported."""
    return device.type == "cpu" and not torch.is_grad_enabled() and not torch.jit.is_tracing()


def uses_onednn(x: Tensor) -> bool:
    """Whether :mod:`.cpu_kernels` work on ``x``."""
    return cpu_kernels.HAS_ONEDNN and infers_on_cpu(x.device)


def can_use_triton(x: Tensor) -> bool:
    """Whether our Triton kernels can work on ``x``: on the current GPU, without gradients."""
    return (
        x.device.type == "cuda"
        and not torch.is_grad_enabled()
        and x.device.index in (None, torch.cuda.current_device())  # Triton launches its kernels there
        and triton_works(x.device)
    )


def uses_triton(x: Tensor) -> bool:
    """Whether the network's Triton kernels work on ``x``: :func:`can_use_triton`, under autocast to bfloat16."""
    return x.device.type == "cuda" and autocast_dtype(x.device) == TRITON_DTYPE and can_use_triton(x)


@cache
def has_triton() -> bool:
    """Whether Triton is installed and PyTorch is 2.6 or newer. Does not import Triton."""
    found = importlib.util.find_spec("triton") is not None
    return found and "set_priority" in inspect.signature(sdpa_kernel).parameters


@cache
def triton_works(device: torch.device) -> bool:
    """Whether a Triton kernel runs on the GPU ``device``; warns where it does not.

    Triton also needs a C compiler and Python's headers. The first call must not be part of a CUDA graph.
    """
    if not has_triton():
        return False
    from sam2_ros.model.gpu.norm_kernels import add_norm

    try:
        with torch.cuda.device(device):
            add_norm(torch.zeros(1, 16, device=device), None, nn.LayerNorm(16, device=device), torch.bfloat16)
            torch.cuda.synchronize(device)
    except Exception as error:  # Triton, subprocess and the compiler raise errors of their own
        warnings.warn(
            f"Triton does not run on {device}, so that frames take longer; it needs a C compiler and Python's headers "
            f"(apt install gcc python3-dev): {reason_of(error)}",
            stacklevel=2,
        )
        return False
    return True


def reason_of(error: Exception) -> str:
    """An error in one line, for a warning."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "") -> Tensor:
    """``x @ weightᵀ + bias``, then the ``activation`` ("gelu", "relu" or none)."""
    same_dtype = x.dtype in (torch.float32, torch.bfloat16) and x.dtype == weight.dtype
    if uses_onednn(x) and same_dtype and x.numel() // x.shape[-1] >= ONEDNN_ROWS:
        return cpu_kernels.linear(x, weight, bias, activation)
    return activate(F.linear(x, weight, bias), activation)


def activate(x: Tensor, activation: str) -> Tensor:
    """``x`` after "gelu", "relu" or none."""
    return F.gelu(x) if activation == "gelu" else F.relu(x) if activation == "relu" else x


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax attention of ``[B, H, N, C]``, ``[B, H, K, C]`` and ``[B, H, K, D]``, ``[B, H, N, D]``.

    ``mask`` is broadcastable to ``[B, H, N, K]``; bool, False = ignore, or added to the logits.
    """
    if torch.jit.is_tracing():
        assert mask is None or mask.dtype != torch.bool, "graphs add their masks"
        # Keys are scaled before they are transposed: a runtime can then leave them as they lie in memory.
        logits = q @ (k * q.shape[-1] ** -0.5).transpose(2, 3)
        return (logits if mask is None else logits + mask).softmax(dim=-1) @ v
    if uses_onednn(q):
        return cpu_kernels.attention(q, k, v, mask)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
