"""Layers that several parts of the network share; each runs the fastest implementation for its device."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2_ros.model import cpu_kernels, dispatch
from sam2_ros.model.dispatch import attention, autocast_dtype, linear, uses_triton
from sam2_ros.model.weight_cache import cache_of

M = TypeVar("M", bound=nn.Module)


def shallow_copy(module: M) -> M:
    """A module with the same submodules, parameters and buffers, which may get other ones; its cache is its own."""
    other = copy.copy(module)
    for name in ("_modules", "_parameters", "_buffers"):
        other.__dict__[name] = dict(module.__dict__[name])
    other.__dict__.pop("_weight_cache", None)
    return other


class Linear(nn.Linear):
    """``nn.Linear``, which also applies the activation that follows, in one pass over memory where possible."""

    def forward(self, x: Tensor, activation: str = "") -> Tensor:
        return linear(*_in_autocast_dtype(self, x), activation)

    def gelu(self, x: Tensor) -> Tensor:
        """``F.gelu(self(x))``."""
        return self.forward(x, "gelu")

    def relu(self, x: Tensor) -> Tensor:
        """``F.relu(self(x))``."""
        x, weight, bias = _in_autocast_dtype(self, x)
        if bias is None or not uses_triton(x):
            return linear(x, weight, bias, activation="relu")
        return torch._addmm_activation(bias, x.flatten(0, -2), weight.T).unflatten(0, x.shape[:-1])


class Conv2d(nn.Conv2d):
    """``nn.Conv2d``, which also applies the activation that follows, in one pass over memory where possible."""

    def forward(self, x: Tensor, activation: str = "") -> Tensor:
        x, weight, bias = _in_autocast_dtype(self, x)
        if dispatch.uses_onednn(x) and not isinstance(self.padding, str):
            geometry = list(self.padding), list(self.stride), list(self.dilation), self.groups
            return cpu_kernels.convolution(x, weight, bias, geometry, activation)
        return dispatch.activate(self._conv_forward(x, weight, bias), activation)

    def gelu(self, x: Tensor) -> Tensor:
        """``F.gelu(self(x))``."""
        return self.forward(x, "gelu")

    def without_bias(self, x: Tensor) -> Tensor:
        """What :meth:`forward` gives before the bias is added."""
        x, weight, _ = _in_autocast_dtype(self, x)
        return self._conv_forward(x, weight, None)


def _in_autocast_dtype(module: nn.Linear | nn.Conv2d, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Input, weight and bias in the dtype of autocast, which would round the weights again at each use."""
    dtype = autocast_dtype(x.device)
    if dtype is None or torch.is_grad_enabled():
        return x, module.weight, module.bias
    cache = cache_of(module)
    weight = cache.get(("weight", dtype), (module.weight,), lambda exact: exact.to(dtype))
    if module.bias is None:
        return x.to(dtype), weight, None
    return x.to(dtype), weight, cache.get(("bias", dtype), (module.bias,), lambda exact: exact.to(dtype))


def merged_linear(x: Tensor, first: nn.Linear | nn.Conv2d, second: nn.Linear | nn.Conv2d) -> Tensor:
    """``second(first(x))`` over the last axis as one linear map: linear layers or 1×1 convolutions, with biases.

    ``second`` always follows the same ``first``.
    """
    assert first.bias is not None and second.bias is not None, "both maps need a bias"
    dtype, cache = autocast_dtype(x.device) or x.dtype, cache_of(second)
    weights, biases = (second.weight, first.weight), (second.weight, first.bias, second.bias)
    return linear(
        x.to(dtype),
        cache.get(("merged weight", dtype), weights, lambda b, a: (b.flatten(1) @ a.flatten(1)).to(dtype)),
        cache.get(("merged bias", dtype), biases, lambda b, of_a, of_b: (b.flatten(1) @ of_a + of_b).to(dtype)),
    )


class LayerNorm(nn.LayerNorm):
    """``nn.LayerNorm`` over the last axis."""

    def after(self, x: Tensor, delta: Tensor | None) -> tuple[Tensor, Tensor]:
        """``x + delta`` (or ``x`` alone), and its norm in the dtype of the matrix products that follow."""
        if uses_triton(x):
            from sam2_ros.model.gpu.norm_kernels import add_norm

            delta = None if delta is None else delta.contiguous()
            return add_norm(x.contiguous(), delta, self, dispatch.TRITON_DTYPE)
        x = x if delta is None else x + delta
        normed = self.forward(x)
        dtype = None if torch.is_grad_enabled() else autocast_dtype(x.device)
        return x, normed.to(dtype or normed.dtype)  # once for all products

    def of_sum(self, x: Tensor, delta: Tensor) -> Tensor:
        """``self(x + delta)``."""
        if uses_triton(x):
            from sam2_ros.model.gpu.norm_kernels import add_norm

            return add_norm(x.contiguous(), delta.contiguous(), self, torch.float32, keep=False)[1]
        return self.forward(x + delta)


class LayerNorm2d(nn.Module):
    """Layer norm over the channels of ``[B, C, H, W]``, computed in float32 as autocast does for ``nn.LayerNorm``."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if len(self.weight) < 8 and x.device.type == "cpu":
            # With few channels PyTorch's kernel takes longer than these passes, its backward pass five times as long.
            wide = x.float()
            centred = wide - wide.mean(dim=1, keepdim=True)
            scaled = centred * torch.rsqrt(centred.square().mean(dim=1, keepdim=True) + self.eps)
            return (scaled * self.weight[:, None, None] + self.bias[:, None, None]).to(x.dtype)
        rows = x.permute(0, 2, 3, 1)
        if not torch.jit.is_tracing():
            return F.layer_norm(rows, self.weight.shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)
        # Flat, since OpenVINO copies maps to and fro between two layouts.
        flat = F.layer_norm(rows.flatten(0, 2), self.weight.shape, self.weight, self.bias, self.eps)
        return flat.unflatten(0, [int(size) for size in rows.shape[:3]]).permute(0, 3, 1, 2)

    def gelu(self, x: Tensor) -> Tensor:
        """``F.gelu(self(x))``; on a GPU in one pass over memory, and in the dtype of the products that follow."""
        if uses_triton(x):
            from sam2_ros.model.gpu.norm_kernels import add_norm

            rows = x.permute(0, 2, 3, 1).contiguous()
            return add_norm(rows, None, self, dispatch.TRITON_DTYPE, gelu=True)[1].permute(0, 3, 1, 2)
        return F.gelu(self(x))


def with_position(x: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
    """``x`` and ``x + position`` for the matrix products that follow (``[B, N, C]``, ``position`` of batch 1)."""
    if uses_triton(x):
        from sam2_ros.model.gpu.norm_kernels import with_code

        return with_code(x.contiguous(), position.contiguous(), dispatch.TRITON_DTYPE)
    return x, x + position


class Mlp(nn.Module):
    """Linear layers with ReLU or GELU between them; ``sigmoid`` ends them with one."""

    def __init__(self, *widths: int, gelu: bool = False, sigmoid: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Linear(a, b) for a, b in pairwise(widths))
        self.gelu, self.sigmoid = gelu, sigmoid

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            assert isinstance(layer, Linear)
            x = layer.gelu(x) if self.gelu else F.relu(layer(x))
        x = self.layers[-1](x)
        return x.sigmoid() if self.sigmoid else x


def weighted_mean(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Scaled dot-product attention, ``[B, heads, tokens, C]`` each; a batch of 1 is broadcast."""
    batch = max(len(q), len(k), len(v))
    q, k, v = (x.expand(batch, -1, -1, -1) for x in (q, k, v))
    if q.dtype == torch.bfloat16 and q.requires_grad and q.device.type == "cpu":
        # Training on a CPU: the backward pass of PyTorch's attention takes three times as long as these two products.
        logits = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5
        if mask is not None:
            logits = logits.masked_fill(~mask, -torch.inf)
        return logits.softmax(dim=-1) @ v
    return attention(q, k, v, mask)


class Attention(nn.Module):
    """Multi-head attention with separate projections of ``[B, N, C]``; a batch of 1 is broadcast."""

    def __init__(self, dim: int, num_heads: int, inner_dim: int | None = None, kv_dim: int | None = None) -> None:
        super().__init__()
        inner_dim, kv_dim = inner_dim or dim, kv_dim or dim
        self.num_heads = num_heads
        self.q_proj = Linear(dim, inner_dim)
        self.k_proj = Linear(kv_dim, inner_dim)
        self.v_proj = Linear(kv_dim, inner_dim)
        self.out_proj = Linear(inner_dim, dim)

    def split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def attend_narrow(self, q_bhnc: Tensor, k_bhnc: Tensor, kv: Tensor, mask: Tensor | None = None) -> Tensor:
        """:meth:`attend` with values projected from ``kv`` (``[B, K, kv_dim]``).

        On a CPU, one head with narrow values attends ``kv`` itself and projects the mean. The result is the same, since
        attention weights sum to one, and takes a fraction of the multiplications.
        """
        narrow = self.num_heads == 1 and self.v_proj.in_features < self.v_proj.out_features
        if not narrow or kv.device.type != "cpu":
            # Attention kernels for GPUs need values as wide as keys.
            return self.attend(q_bhnc, k_bhnc, self.split_heads(self.v_proj(kv)), mask)
        mean = weighted_mean(q_bhnc, k_bhnc, kv[:, None].to(q_bhnc.dtype), mask)[:, 0]
        if torch.is_grad_enabled():
            return self.out_proj(self.v_proj(mean))
        return merged_linear(mean, self.v_proj, self.out_proj)

    def attend(self, q_bhnc: Tensor, k_bhnc: Tensor, v_bhnc: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.out_proj(weighted_mean(q_bhnc, k_bhnc, v_bhnc, mask).transpose(1, 2).flatten(2))

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.attend(*map(self.split_heads, (self.q_proj(q), self.k_proj(k), self.v_proj(v))))
