"""Tensors computed once from weights and then cached: rounded, merged, or in the order that a kernel reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn


class WeightCache:
    """A cache that belongs to a module: an attribute of it, alone or within a tuple or a dict."""

    @property
    def nbytes(self) -> int:
        """Bytes that it holds now."""
        raise NotImplementedError


class DerivedTensor(WeightCache):
    """A tensor computed from parameters, and computed again only when one of them has changed."""

    def __init__(self) -> None:
        self._cached: tuple[tuple[Any, ...], Tensor] | None = None  # one tuple, so that other threads see both or none

    def get(self, parameters: tuple[Tensor, ...], compute: Callable[..., Tensor], variant: object = None) -> Tensor:
        """``compute(*parameters)``, which may depend on ``variant`` too and on nothing else."""
        key = (*((p.data_ptr(), None if p.is_inference() else p._version, p.device) for p in parameters), variant)
        cached = self._cached
        if cached is None or cached[0] != key:
            cached = self._cached = key, compute(*(p.detach() for p in parameters))
        return cached[1]

    @property
    def nbytes(self) -> int:
        return 0 if self._cached is None else self._cached[1].numel() * self._cached[1].element_size()

    def __deepcopy__(self, memo: object) -> DerivedTensor:
        return DerivedTensor()


def cache_bytes(model: nn.Module) -> int:
    """Bytes of all :class:`WeightCache` of ``model``."""
    attributes = (value for module in model.modules() for value in module.__dict__.values())
    groups = (value.values() if isinstance(value, dict) else value for value in attributes)
    entries = (entry for group in groups for entry in (group if isinstance(group, Iterable) else (group,)))
    return sum(entry.nbytes for entry in entries if isinstance(entry, WeightCache))
