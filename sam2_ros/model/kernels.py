"""Linear maps, convolutions and attention by the kernels that are fastest where they run.

All of it is arithmetic that the plain modules do too; with gradients they are used as they are.

On processors with AVX-512, PyTorch's float32 matrix products go to a library that leaves half of the units idle on
processors other than Intel's, and so does its attention kernel, in both formats. oneDNN, which comes with PyTorch, does
not. On Intel's, the attention kernel is the fastest wherever keys are as wide as values. And autocast rounds every
weight anew each time it is used; here the rounded weights are kept.
"""

from __future__ import annotations

import importlib.util
import inspect
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import sdpa_kernel

BLOCK_ELEMENTS = 2**21  # attention weights at a time: as many as stay in the cache of the processor
ONEDNN_ROWS = 64  # from so many rows on a product is worth the way to oneDNN
ONEDNN_QUERIES = 128  # ... and so many queries an attention in float32, a head at a time


def _has_onednn() -> bool:
    """Whether oneDNN's own kernels are the fast ones, and the operator that reaches them is there."""
    capability = torch.backends.cpu.get_cpu_capability() if hasattr(torch.backends, "cpu") else ""
    available = torch.backends.mkldnn.is_available() and all(
        hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_convolution_pointwise")
    )
    return bool(available and capability == "AVX512")


def _is_from_intel() -> bool:
    """Whether this is an Intel processor; False where nobody says so."""
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False


HAS_ONEDNN = _has_onednn()
IS_FROM_INTEL = _is_from_intel()
TRITON_DTYPE = torch.bfloat16  # what the Triton kernels give to matrix products
# What follows a product or convolution in the same pass, by oneDNN's names.
_AFTER: dict[str, tuple[str, list[Any], str]] = {
    "": ("none", [], ""), "gelu": ("gelu", [], "none"), "relu": ("relu", [], "")
}  # fmt: skip


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The dtype that autocast computes in on ``device``; None where it is off."""
    if hasattr(torch, "get_autocast_dtype"):  # PyTorch 2.4 and newer
        enabled = torch.is_autocast_enabled(device.type)
        return torch.get_autocast_dtype(device.type) if enabled else None
    if device.type == "cpu":
        return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None
    return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None


class Kept:
    """What is worked out once of weights and kept in a module's ``__dict__``, alone, in tuples or in dicts."""

    @property
    def nbytes(self) -> int:
        """Bytes that are held now."""
        raise NotImplementedError


class Derived(Kept):
    """A tensor worked out from parameters, and again only when one of them has changed."""

    def __init__(self) -> None:
        self._found: tuple[tuple[Any, ...], Tensor] | None = None  # as one, so that other threads see both or none

    def of(self, parameters: tuple[Tensor, ...], make: Callable[..., Tensor], what: object = None) -> Tensor:
        """``make(*parameters)``, which depends on nothing else but ``what``."""
        key = (*((p.data_ptr(), None if p.is_inference() else p._version, p.device) for p in parameters), what)
        found = self._found
        if found is None or found[0] != key:
            found = self._found = key, make(*(p.detach() for p in parameters))
        return found[1]

    @property
    def nbytes(self) -> int:
        return 0 if self._found is None else self._found[1].numel() * self._found[1].element_size()

    def __deepcopy__(self, memo: object) -> Derived:
        return Derived()


class Linear(nn.Linear):
    """``nn.Linear``."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(*_as_computed(self, x))

    def gelu(self, x: Tensor) -> Tensor:
        """``F.gelu(self(x))``, in one pass over memory where it can be."""
        return linear(*_as_computed(self, x), after="gelu")

    def relu(self, x: Tensor) -> Tensor:
        """``F.relu(self(x))``, in one pass over memory where it can be."""
        if self.bias is None or not is_for_triton(x):
            return linear(*_as_computed(self, x), after="relu")
        x, weight, bias = _as_computed(self, x)
        assert bias is not None
        return torch._addmm_activation(bias, x.flatten(0, -2), weight.T).unflatten(0, x.shape[:-1])


class Conv2d(nn.Conv2d):
    """``nn.Conv2d``."""

    def forward(self, x: Tensor) -> Tensor:
        return self._run(x)

    def gelu(self, x: Tensor) -> Tensor:
        """``F.gelu(self(x))``, in one pass over memory where it can be."""
        return self._run(x, after="gelu")

    def without_bias(self, x: Tensor) -> Tensor:
        """What :meth:`forward` gives before the bias is added."""
        x, weight, _ = _as_computed(self, x)
        return self._conv_forward(x, weight, None)

    def _run(self, x: Tensor, after: str = "") -> Tensor:
        x, weight, bias = _as_computed(self, x)
        padding = self.padding
        if _is_fast(x) and not isinstance(padding, str):
            # PyTorch itself decides by the number of threads, and with one takes a kernel that is slower.
            geometry = list(padding), list(self.stride), list(self.dilation), self.groups
            return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *geometry, *_AFTER[after])
        return _then(after, self._conv_forward(x, weight, bias))


def _as_computed(module: nn.Linear | nn.Conv2d, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Input, weight and bias in the dtype that is computed in."""
    dtype = autocast_dtype(x.device)
    if dtype is None or torch.is_grad_enabled():
        return x, module.weight, module.bias
    weight, bias = module.__dict__.setdefault("_rounded", (Derived(), Derived()))

    def shorten(exact: Tensor) -> Tensor:
        return exact.to(dtype)

    return (
        x.to(dtype),
        weight.of((module.weight,), shorten, dtype),
        None if module.bias is None else bias.of((module.bias,), shorten, dtype),
    )


class Merged(Kept):
    """One linear map over the last axis in place of two, ``second(first(x))``: linear layers or 1×1 convolutions."""

    def __init__(self) -> None:
        # By dtype, none of them let go: recordings read them where they are.
        self._kept: dict[torch.dtype, tuple[Derived, Derived]] = {}

    def __call__(self, x: Tensor, first: nn.Linear | nn.Conv2d, second: nn.Linear | nn.Conv2d) -> Tensor:
        assert first.bias is not None and second.bias is not None, "every map that is merged has a bias"
        dtype = autocast_dtype(x.device) or x.dtype
        kept = self._kept.setdefault(dtype, (Derived(), Derived()))
        weight = kept[0].of((second.weight, first.weight), lambda b, a: (b.flatten(1) @ a.flatten(1)).to(dtype), dtype)
        bias = kept[1].of(
            (second.weight, first.bias, second.bias),
            lambda b, before, after: (b.flatten(1) @ before + after).to(dtype),
            dtype,
        )
        return linear(x.to(dtype), weight, bias)

    @property
    def nbytes(self) -> int:
        return sum(one.nbytes for kept in self._kept.values() for one in kept)

    def __deepcopy__(self, memo: object) -> Merged:
        return Merged()


def cache_bytes(model: nn.Module) -> int:
    """Bytes of what is worked out once and kept: rounded and merged weights, and rotary tables as they are used."""
    kept = (value for module in model.modules() for value in module.__dict__.values())
    several = (tuple(value.values()) if isinstance(value, dict) else value for value in kept)
    flat = (one for value in several for one in (value if isinstance(value, tuple) else (value,)))
    return sum(one.nbytes for one in flat if isinstance(one, Kept))


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, after: str = "") -> Tensor:
    """``x @ weightᵀ + bias``, and ``after`` it "gelu" or "relu"."""
    rows = x.numel() // x.shape[-1]
    known = x.dtype in (torch.float32, torch.bfloat16) and x.dtype == weight.dtype
    if _is_fast(x) and known and rows >= ONEDNN_ROWS:
        return _product(x, weight, bias, after)
    return _then(after, F.linear(x, weight, bias))


def _then(after: str, x: Tensor) -> Tensor:
    return F.gelu(x) if after == "gelu" else F.relu(x) if after == "relu" else x


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax attention.

    Args:
        q: ``[B, H, N, C]``.
        k: ``[B, H, K, C]``.
        v: ``[B, H, K, D]``.
        mask: broadcastable to ``[B, H, N, K]``; bool, False = ignore, or added to the logits.

    Returns:
        ``[B, H, N, D]``.
    """
    if not _is_fast(q):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill_(~mask, -torch.inf)
    narrow = q.shape[3] != v.shape[3]
    if narrow and q.shape[1] == 1 and (IS_FROM_INTEL or q.dtype == torch.bfloat16):
        return _attention_by_blocks(q, k, v, mask)
    if IS_FROM_INTEL and not narrow:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    if q.dtype == torch.bfloat16:
        return _attention_by_matmul(q, k, v, mask)
    if q.dtype == torch.float32 and q.shape[2] >= ONEDNN_QUERIES:
        return _attention_by_products(q, k, v, mask)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


@cache
def has_triton() -> bool:
    """Whether there are Triton and what PyTorch 2.6 brought for it."""
    found = importlib.util.find_spec("triton") is not None
    return found and "set_priority" in inspect.signature(sdpa_kernel).parameters


@cache
def triton_works(device: torch.device) -> bool:
    """Whether a kernel of Triton runs on this GPU; for that it needs a C compiler and Python's headers, too. Says so
    where it does not. The first call must not be part of a recording."""
    if not has_triton():
        return False
    from sam2_ros.model.gpu.norm_kernels import add_norm

    try:
        with torch.cuda.device(device):
            add_norm(torch.zeros(1, 16, device=device), None, nn.LayerNorm(16, device=device), torch.bfloat16)
            torch.cuda.synchronize(device)
    except Exception as error:  # Triton has its own, subprocess and the compiler others
        warnings.warn(
            f"Triton does not run on {device}, so that frames take longer; it needs a C compiler and Python's headers "
            f"(apt install gcc python3-dev): {reason_of(error)}",
            stacklevel=2,
        )
        return False
    return True


def reason_of(error: Exception) -> str:
    """An error in a line, for a warning."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def is_on_triton(x: Tensor) -> bool:
    """Whether our Triton kernels can work on ``x``: on a GPU, without gradients."""
    return (
        x.device.type == "cuda"
        and not torch.is_grad_enabled()
        and x.device.index in (None, torch.cuda.current_device())  # Triton launches its kernels there
        and triton_works(x.device)
    )


def is_for_triton(x: Tensor) -> bool:
    """Whether ``x`` is work for our Triton kernels in the network: where :func:`is_on_triton` says so, in bfloat16."""
    return x.device.type == "cuda" and autocast_dtype(x.device) == TRITON_DTYPE and is_on_triton(x)


def infers_on_cpu(device: torch.device) -> bool:
    """Whether ``device`` is a CPU and no gradients are wanted."""
    return device.type == "cpu" and not torch.is_grad_enabled()


def _is_fast(x: Tensor) -> bool:
    """Whether ``x`` is work for oneDNN."""
    return HAS_ONEDNN and infers_on_cpu(x.device)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, after: str = "") -> Tensor:
    # Given anything but rows side by side, oneDNN takes a kernel that is a thousand times slower. ``weight`` is a
    # contiguous matrix or the transpose of one.
    return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, *_AFTER[after])


def _attention_by_blocks(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """One head, a block of queries at a time, whose weights stay in the cache and in the same memory."""
    batch, _, queries, width = q.shape
    out = q.new_empty(batch, 1, queries, v.shape[3])
    blocks = max(1, round(queries * k.shape[2] / (2 * BLOCK_ELEMENTS if IS_FROM_INTEL else BLOCK_ELEMENTS)))
    rows = -(-queries // blocks)
    scratch = q.new_empty(rows, k.shape[2])
    for b in range(batch):
        # ``@`` would copy the transposed keys.
        scaled, keys, values = q[b, 0] * width**-0.5, k[b, 0].T, v[b, 0]
        bias = None if mask is None else mask.expand(batch, 1, -1, -1)[b, 0]
        for first in range(0, queries, rows):
            part = slice(first, min(first + rows, queries))
            weights = scratch[: part.stop - first]
            torch.mm(scaled[part], keys, out=weights)
            if bias is not None:
                weights += bias if bias.shape[0] == 1 else bias[part]
            torch.softmax(weights, dim=-1, out=weights)
            torch.mm(weights, values, out=out[b, 0, part])
    return out


def _attention_by_products(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """A head at a time, so that every product is one of two matrices."""
    batch, heads, queries, width = q.shape
    out = q.new_empty(batch, heads, queries, v.shape[3])
    rows = max(1, BLOCK_ELEMENTS // k.shape[2])
    for b in range(batch):
        for h in range(heads):
            keys, values = k[b, h].contiguous(), v[b, h].contiguous().T
            scaled = q[b, h] * width**-0.5
            bias = None if mask is None else mask.expand(batch, heads, -1, -1)[b, h]
            for first in range(0, queries, rows):
                part = slice(first, first + rows)
                logits = _product(scaled[part], keys, None)
                if bias is not None:
                    logits += bias if bias.shape[0] == 1 else bias[part]
                out[b, h, part] = _product(logits.softmax(dim=-1), values, None)
    return out


def _attention_by_matmul(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    batch, heads, queries, width = q.shape
    rows = max(1, BLOCK_ELEMENTS // k.shape[2])
    if batch * heads * queries * k.shape[2] <= 4 * BLOCK_ELEMENTS:
        return _softmax_rows(q * width**-0.5, k, v, mask)
    out = q.new_empty(batch, heads, queries, v.shape[3])
    for b in range(batch):
        for first in range(0, queries, rows):
            part = slice(first, first + rows)
            bias = mask if mask is None or mask.shape[0] == 1 else mask[b : b + 1]
            bias = bias if bias is None or bias.shape[2] == 1 else bias[:, :, part]
            out[b : b + 1, :, part] = _softmax_rows(
                q[b : b + 1, :, part] * width**-0.5, k[b : b + 1], v[b : b + 1], bias
            )
    return out


def _softmax_rows(scaled: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    logits = scaled @ k.transpose(2, 3)
    if mask is not None:
        logits += mask
    return logits.softmax(dim=-1) @ v
