"""Position codes: sine maps, the prompt encoder's random Fourier features, and axial rotary embedding."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sam2_ros.model.dispatch import infers_on_cpu


def sine_code_2d(channels: int, side: int) -> Tensor:
    """Sine position map ``[channels, side, side]``, half of the channels for y, then half for x.

    Coordinates run from ``1/side`` to 1 and are scaled by 2π (Carion et al., DETR, 2020, section A.4).
    """
    half = channels // 2
    coordinate = torch.arange(1, side + 1, dtype=torch.float32) / (side + 1e-6) * (2 * math.pi)
    index = torch.arange(half, dtype=torch.float32)
    angle = coordinate[:, None] / 10000 ** (2 * (index // 2) / half)
    code = torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=2).flatten(1).T  # [half, side]
    return torch.cat(torch.broadcast_tensors(code[:, :, None], code[:, None, :]))


def sine_code_1d(positions: Tensor, channels: int) -> Tensor:
    """Sine code of scalar ``positions`` (``[...]`` → ``[..., channels]``), all sines, then all cosines."""
    half = channels // 2
    index = torch.arange(half, dtype=torch.float32, device=positions.device)
    angle = positions.float().unsqueeze(-1) / 10000 ** (2 * (index // 2) / half)
    return torch.cat((angle.sin(), angle.cos()), dim=-1)


class RandomFourierCode(nn.Module):
    """Position code of points: a fixed random projection, then sine and cosine (Tancik et al., 2020)."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, channels // 2))

    def forward(self, xy: Tensor) -> Tensor:
        """``xy`` in [0, 1] (``[..., 2]``) → ``[..., channels]``."""
        projected = 2 * math.pi * ((2 * xy - 1) @ self.positional_encoding_gaussian_matrix)
        return torch.cat((projected.sin(), projected.cos()), dim=-1)

    def grid(self, side: int) -> Tensor:
        """Code of the cell centres of a ``side`` × ``side`` grid, ``[1, channels, side, side]``."""
        matrix = self.positional_encoding_gaussian_matrix
        centre = (torch.arange(side, dtype=torch.float32, device=matrix.device) + 0.5) / side
        y, x = torch.meshgrid(centre, centre, indexing="ij")
        return self(torch.stack((x, y), dim=-1)).permute(2, 0, 1)[None]


def rotary_table(channels: int, side: int, pool: int = 1, theta: float = 10000.0, scale: float = 1.0) -> Tensor:
    """Cosines and sines of axial 2-D rotary embedding (Su et al., RoFormer, 2021; Heo et al., 2024), float32.

    ``[2, (side / pool)², channels / 2]``: pairs of adjacent channels are rotated, the first half of them by x, the
    second half by y, counted in cells of a ``side`` × ``side`` grid and multiplied by ``scale``. Rows stand for the
    centres of ``pool``² cells.
    """
    frequency = theta ** -(torch.arange(0, channels, 4, dtype=torch.float32) / channels)
    centre = scale * (torch.arange(0, side, pool, dtype=torch.float32) + (pool - 1) / 2)
    y, x = torch.meshgrid(centre, centre, indexing="ij")
    angle = torch.cat((x.reshape(-1, 1) * frequency, y.reshape(-1, 1) * frequency), dim=1)
    return torch.stack((angle.cos(), angle.sin()))


def frame_code(channels: int, grid: int, perceiver_side: int) -> Tensor:
    """Sine code of the tokens of a stored memory, ``[tokens, channels]``.

    They are the cells of a ``grid`` × ``grid`` map, or those of :class:`~sam2_ros.model.perceiver.SpatialPerceiver`,
    of which the first half has no position.
    """
    if not perceiver_side:
        return sine_code_2d(channels, grid).flatten(1).T
    code = sine_code_2d(channels, perceiver_side).flatten(1).T
    return torch.cat((torch.zeros_like(code), code))


def frame_table(channels: int, grid: int, pool: int, perceiver_side: int) -> Tensor:
    """The :func:`rotary_table` of the tokens of a stored memory; tokens without a position are not rotated."""
    if not perceiver_side:
        return rotary_table(channels, grid, pool)
    table = rotary_table(channels, perceiver_side)
    unrotated = torch.stack((torch.ones_like(table[0]), torch.zeros_like(table[1])))
    return torch.cat((unrotated, table), dim=1)


def as_complex(table: Tensor) -> Tensor:
    """A :func:`rotary_table` as complex numbers, ``[N, C / 2]``."""
    return torch.complex(table[0], table[1])


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Applies a :func:`rotary_table` to ``x`` (``[..., N, C]``) in float32; the result has the dtype of ``x``.

    On a CPU the table may also be :func:`as_complex`.
    """
    if x.device.type == "cpu" and not torch.jit.is_tracing():
        # A product of complex numbers takes one pass over memory in place of seven. Exported graphs have none.
        factors = table if table.is_complex() else as_complex(table)
        return torch.view_as_real(_pairs(x) * factors).flatten(-2).type_as(x)
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = table
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).type_as(x)


def rotate_(x: Tensor, table: Tensor) -> None:
    """:func:`rotate` in place; on a CPU without gradients it takes fewer passes over memory."""
    if not infers_on_cpu(x.device):
        x.copy_(rotate(x, table))
        return
    pairs = _pairs(x)
    pairs *= table if table.is_complex() else as_complex(table)
    if pairs.data_ptr() != x.data_ptr():
        x.copy_(torch.view_as_real(pairs).flatten(-2))


def _pairs(x: Tensor) -> Tensor:
    return torch.view_as_complex(x.float().contiguous().unflatten(-1, (-1, 2)))
