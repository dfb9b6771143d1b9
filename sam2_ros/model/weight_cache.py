"""Tensors computed once from weights and then cached: rounded, merged, or in the order that a kernel reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class WeightCache:
    """Tensors by name, each computed from parameters, and computed again only when one of these has changed.

    No entry is ever removed, since CUDA graphs read the tensors where they are.
    """

    def __init__(self) -> None:
        self._entries: dict[object, tuple[tuple[Any, ...], Tensor]] = {}

    def get(self, name: object, parameters: tuple[Tensor, ...], compute: Callable[..., Tensor]) -> Tensor:
        """``compute(*parameters)``, which may depend on ``name`` too and on nothing else."""
        version = tuple((p.data_ptr(), None if p.is_inference() else p._version, p.device) for p in parameters)
        entry = self._entries.get(name)
        if entry is None or entry[0] != version:
            entry = self._entries[name] = version, compute(*(p.detach() for p in parameters))
        return entry[1]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.numel() * tensor.element_size() for _, tensor in self._entries.values())

    def __deepcopy__(self, memo: object) -> WeightCache:
        return WeightCache()


def cache_of(module: nn.Module) -> WeightCache:
    """The cache of ``module``, which its first use creates."""
    cache: WeightCache | None = module.__dict__.get("_weight_cache")
    return cache or module.__dict__.setdefault("_weight_cache", WeightCache())


def cache_bytes(model: nn.Module) -> int:
    """Bytes in the caches of all modules of ``model``."""
    caches = (module.__dict__.get("_weight_cache") for module in model.modules())
    return sum(cache.nbytes for cache in caches if cache is not None)
