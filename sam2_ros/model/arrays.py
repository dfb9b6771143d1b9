"""What PyTorch's tensors and NumPy's arrays spell differently. Free of torch.

Most is spelled alike: operators, indexing, ``reshape``, ``swapaxes``, ``clip``, ``sum``, ``any`` and ``argmax`` with a
positional axis, and the functions of :func:`module_of`, such as ``where``, ``stack``, ``concatenate``, ``amax``,
``full_like``, ``argwhere`` and ``broadcast_to``. The rest is here. A result is of the kind of its first argument, or of
the kind that a ``device`` has (:class:`~sam2_ros.model.network.Network`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam2_ros.model.network import HOST, Array


def is_numpy(array: Array) -> bool:
    return isinstance(array, np.ndarray | np.generic)


def module_of(array: Array) -> Any:
    """The module ``numpy`` or ``torch``."""
    return np if is_numpy(array) else sys.modules["torch"]


def device_of(array: Array) -> Any:
    return HOST if is_numpy(array) else array.device


def on_host(array: Array) -> bool:
    """Whether the CPU reads it without a copy."""
    return is_numpy(array) or array.device.type == "cpu"


def to_numpy(array: Array) -> NDArray[Any]:
    """Waits for the device. The memory may be the array's own."""
    values: NDArray[Any] = array if is_numpy(array) else array.cpu().numpy()
    return values


def float32(array: Array) -> Array:
    return array.astype(np.float32, copy=False) if is_numpy(array) else array.float()


def copied(array: Array) -> Array:
    return array.copy() if is_numpy(array) else array.clone()


def as_dtype_of(array: Array, other: Array) -> Array:
    return array.astype(other.dtype, copy=False) if is_numpy(array) else array.to(other.dtype)


def strides(array: Array) -> tuple[int, ...]:
    """In the unit of its kind; to be compared with those of another array of the same dtype."""
    return tuple(array.strides if is_numpy(array) else array.stride())


# -- new arrays ----------------------------------------------------------------------------------------------------


def on_cpu(values: NDArray[Any], device: Any) -> Array:
    """``values`` as an array of the kind that ``device`` has, but on the CPU and in the same memory."""
    if device == HOST:
        return values
    import torch

    return torch.from_numpy(values)


def zeros(shape: Sequence[int], device: Any) -> Array:
    """float32."""
    if device == HOST:
        return np.zeros(shape, np.float32)
    import torch

    return torch.zeros(*shape, device=device)


def trues(count: int, device: Any) -> Array:
    """bool ``[count]``."""
    if device == HOST:
        return np.ones(count, np.bool_)
    import torch

    return torch.ones(count, dtype=torch.bool, device=device)


def arange(count: int, like: Array) -> Array:
    """int64 ``[count]``, where ``like`` is."""
    module = module_of(like)
    return np.arange(count) if module is np else module.arange(count, device=like.device)


# -- bfloat16: NumPy has none, and stores the upper halves of float32 numbers as uint16 --------------------------------


def zeros_in_bfloat16(shape: Sequence[int], device: Any) -> Array:
    """To be filled with :func:`rounded` and read by :func:`unrounded`."""
    if device == HOST:
        return np.zeros(shape, np.uint16)
    import torch

    return torch.zeros(*shape, dtype=torch.bfloat16, device=device)


def rounded(array: Array, store: Array) -> Array:
    """As ``store`` holds it: rounded to the nearest, to even halfway. NumPy's float32 numbers must be finite."""
    if not is_numpy(array):
        return array.to(store.dtype)
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)


def unrounded(array: Array) -> Array:
    """float32."""
    return (array.astype(np.uint32) << 16).view(np.float32) if is_numpy(array) else array.float()


# -- arithmetic ----------------------------------------------------------------------------------------------------


def repeated(array: Array, count: int) -> Array:
    """``[1, ...]`` → ``[count, ...]``, in the same memory."""
    return module_of(array).broadcast_to(array, (count, *array.shape[1:]))


def standard_deviation(array: Array) -> Array:
    """Along axis 1, of a sample."""
    return array.std(1, ddof=1) if is_numpy(array) else array.std(dim=1)


def normalized(array: Array) -> Array:
    """Unit vectors along the last axis; vectors of length 0 stay."""
    if is_numpy(array):
        return array / np.maximum(np.linalg.norm(array, axis=-1, keepdims=True), 1e-12)
    return module_of(array).nn.functional.normalize(array, dim=-1)


def highest(array: Array, count: int) -> Array:
    """The ``count`` highest values along axis 1, in any order."""
    return np.partition(array, -count, axis=1)[:, -count:] if is_numpy(array) else array.topk(count, dim=1).values


# -- contexts ------------------------------------------------------------------------------------------------------


def inference(device: Any) -> AbstractContextManager[object]:
    """Without gradients."""
    if device == HOST:
        return nullcontext()
    import torch

    return torch.inference_mode()


def autocast(device: Any, dtype: str) -> AbstractContextManager[object]:
    """The precision of the network's layers: "bfloat16", or "float32". NumPy always has float32."""
    if device == HOST:
        return nullcontext()
    import torch

    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16")
