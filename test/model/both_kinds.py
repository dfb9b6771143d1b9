"""Compares what a function gives for PyTorch's tensors and for NumPy's arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch


def check(function: Callable[[Any], Any], *shape: int, tolerance: float = 2e-6) -> None:
    """``function`` gives the same for drawn numbers of both kinds, within rounding."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
    wanted, found = function(values), function(values.numpy())
    assert isinstance(found, np.ndarray) and found.dtype == np.float32
    assert found.shape == wanted.shape
    assert np.abs(found - wanted.numpy()).max() <= tolerance
