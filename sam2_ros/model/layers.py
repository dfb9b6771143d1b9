"""Small building blocks shared by the parts of the network."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2_ros.model import kernels
from sam2_ros.model.kernels import Linear, Merged, attention, autocast_dtype, is_for_triton


class LayerNorm(nn.LayerNorm):
    """``nn.LayerNorm`` over the last axis."""

    def after(self, x: Tensor, delta: Tensor | None) -> tuple[Tensor, Tensor]:
        """``x + delta`` (``x`` without ``delta``), and its norm for a matrix product to take."""
        if is_for_triton(x):
            from sam2_ros.model.gpu.norm_kernels import add_norm

            delta = None if delta is None else delta.contiguous()
            return add_norm(x.contiguous(), delta, self, kernels.TRITON_DTYPE)
        x = x if delta is None else x + delta
        normed: Tensor = self(x)
        if torch.is_grad_enabled():
            return x, normed
        return x, normed.to(autocast_dtype(x.device) or normed.dtype)  # once for all who take it

    def of_sum(self, x: Tensor, delta: Tensor) -> Tensor:
        """``self(x + delta)``."""
        if is_for_triton(x):
            from sam2_ros.model.gpu.norm_kernels import add_norm

            return add_norm(x.contiguous(), delta.contiguous(), self, torch.float32, keep=False)[1]
        out: Tensor = self(x + delta)
        return out


class LayerNorm2d(nn.Module):
    """Layer norm over the channels of ``[B, C, H, W]``, computed in float32 as autocast does for ``nn.LayerNorm``."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if len(self.weight) < 8 and x.device.type == "cpu":
            # The kernel takes longer over a handful of channels than these few passes, its backward pass five times.
            wide = x.float()
            centred = wide - wide.mean(dim=1, keepdim=True)
            scaled = centred * torch.rsqrt(centred.square().mean(dim=1, keepdim=True) + self.eps)
            return (scaled * self.weight[:, None, None] + self.bias[:, None, None]).to(x.dtype)
        normed = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, self.eps)
        return normed.permute(0, 3, 1, 2)

    def gelu(self, x: Tensor) -> Tensor:
        """``F.gelu(self(x))`` for a matrix product or convolution to take, in one pass over memory where it can be."""
        if is_for_triton(x):
            from sam2_ros.model.gpu.norm_kernels import add_norm

            rows = x.permute(0, 2, 3, 1).contiguous()
            return add_norm(rows, None, self, kernels.TRITON_DTYPE, gelu=True)[1].permute(0, 3, 1, 2)
        return F.gelu(self(x))


def with_position(x: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
    """``x`` and ``x + position`` for matrix products to take (``[B, N, C]``, ``position`` of batch 1)."""
    if is_for_triton(x):
        from sam2_ros.model.gpu.norm_kernels import with_code

        return with_code(x.contiguous(), position.contiguous(), kernels.TRITON_DTYPE)
    return x, x + position


class Mlp(nn.Module):
    """Linear layers with an activation between them."""

    def __init__(self, *widths: int, activation: type[nn.Module] = nn.ReLU, sigmoid: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Linear(a, b) for a, b in pairwise(widths))
        self.activation = activation()
        self.is_gelu = activation is nn.GELU
        self.sigmoid = sigmoid

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            assert isinstance(layer, Linear)
            x = layer.gelu(x) if self.is_gelu else self.activation(layer(x))
        x = self.layers[-1](x)
        return x.sigmoid() if self.sigmoid else x


def weighted_mean(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention, ``[B, heads, tokens, C]`` each."""
    if q.dtype == torch.bfloat16 and q.requires_grad and q.device.type == "cpu":
        # Training on a CPU: the fused kernel's backward pass takes three times as long as these two products.
        logits = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5
        if mask is not None:
            logits = logits.masked_fill(~mask, -torch.inf)
        return logits.softmax(dim=-1) @ v
    return attention(q, k, v, mask)


class Attention(nn.Module):
    """Multi-head attention with separate projections; queries, keys and values are ``[B, N, C]``.

    A batch of 1 on any side is broadcast to the others.
    """

    def __init__(self, dim: int, num_heads: int, inner_dim: int | None = None, kv_dim: int | None = None) -> None:
        super().__init__()
        inner_dim = inner_dim or dim
        kv_dim = kv_dim or dim
        self.num_heads = num_heads
        self.q_proj = Linear(dim, inner_dim)
        self.k_proj = Linear(kv_dim, inner_dim)
        self.v_proj = Linear(kv_dim, inner_dim)
        self.out_proj = Linear(inner_dim, dim)
        self.out_of_values = Merged()

    def split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def attend_narrow(self, q_bhnc: Tensor, k_bhnc: Tensor, kv: Tensor, mask: Tensor | None = None) -> Tensor:
        """:meth:`attend` with the values' projection of ``kv`` (``[B, K, kv_dim]``).

        Where the keys' side is narrower than the attention, has one head and runs on a CPU, ``kv`` itself is attended
        and the mean projected, by both projections merged to one: the same, since the weights of a mean sum to one,
        for a fraction of the products.
        """
        narrow = self.num_heads == 1 and self.v_proj.in_features < self.v_proj.out_features
        if not narrow or kv.device.type != "cpu":
            # A GPU's attention kernels want values as wide as keys.
            return self.attend(q_bhnc, k_bhnc, self.split_heads(self.v_proj(kv)), mask)
        batch = max(len(q_bhnc), len(k_bhnc), len(kv))
        q, k = (x.expand(batch, -1, -1, -1) for x in (q_bhnc, k_bhnc))
        mean = weighted_mean(q, k, kv[:, None].to(q.dtype).expand(batch, -1, -1, -1), mask)[:, 0]
        if torch.is_grad_enabled():
            return self.out_proj(self.v_proj(mean))
        return self.out_of_values(mean, self.v_proj, self.out_proj)

    def attend(self, q_bhnc: Tensor, k_bhnc: Tensor, v_bhnc: Tensor, mask: Tensor | None = None) -> Tensor:
        batch = max(q_bhnc.shape[0], k_bhnc.shape[0], v_bhnc.shape[0])
        q, k, v = (x.expand(batch, -1, -1, -1) for x in (q_bhnc, k_bhnc, v_bhnc))
        out = weighted_mean(q, k, v, mask)
        return self.out_proj(out.transpose(1, 2).flatten(2))

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.attend(
            self.split_heads(self.q_proj(q)), self.split_heads(self.k_proj(k)), self.split_heads(self.v_proj(v))
        )
