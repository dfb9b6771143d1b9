"""A network of PyTorch behind NumPy's arrays, so that tracking in NumPy can be compared with PyTorch's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from sam2_ros.model import Sam2Model
from sam2_ros.model.network import HOST, Network


def in_numpy(model: Sam2Model) -> Network:
    """``model``, in float32."""
    return cast(Network, _InNumpy(model))


class _InNumpy:
    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __getattr__(self, name: str) -> Any:
        return HOST if name == "device" else _given(getattr(self.module, name))

    def __call__(self, *values: Any) -> Any:
        return _called(self.module)(*values)


def _called(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*values: Any) -> Any:
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            return _given(function(*map(_taken, values)))

    return call


def _given(value: Any) -> Any:
    """What PyTorch's side gives, as the other side takes it."""
    if isinstance(value, torch.Tensor):
        assert value.dtype is not torch.bfloat16
        return value.numpy().copy()
    if isinstance(value, nn.Module):
        return _InNumpy(value)
    if isinstance(value, tuple):
        return tuple(map(_given, value))
    if is_dataclass(value) and any(isinstance(getattr(value, each.name), torch.Tensor) for each in fields(value)):
        return _remade(value, _given)
    return _called(value) if callable(value) else value


def _taken(value: Any) -> Any:
    """The other way."""
    assert not isinstance(value, torch.Tensor), "this side is NumPy's"
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        assert array.dtype in (np.float32, np.bool_, np.uint8, np.int32, np.int64), array.dtype
        return torch.from_numpy(array.copy())
    return _remade(value, _taken) if is_dataclass(value) else value


def _remade(value: Any, convert: Callable[[Any], Any]) -> Any:
    return type(value)(*(convert(getattr(value, each.name)) for each in fields(value)))
