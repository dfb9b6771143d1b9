"""Converts the engine's dataclasses to msgpack values and back: a map of fields, arrays as ``[dtype, shape, bytes]``.

Decoding checks every value against the declared type.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from enum import IntEnum
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sam2_ros.remote.protocol import ProtocolError

T = TypeVar("T")

_DTYPES = {"bool", "uint8", "int32", "int64", "float32", "float64"}
_MAX_DIMENSIONS = 4
_MAX_PIXELS = 1 << 28


def to_wire(value: Any) -> Any:
    """``value`` in types of msgpack. Boolean arrays are packed, eight pixels to a byte."""
    if value is None or isinstance(value, (bool, str, bytes, float)):
        return value
    if isinstance(value, int):  # IntEnum too
        return int(value)
    if isinstance(value, np.ndarray):
        flat = np.packbits(value) if value.dtype == np.bool_ else np.ascontiguousarray(value)
        return [value.dtype.name, list(value.shape), flat.tobytes()]
    if isinstance(value, np.generic):
        return value.item()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_wire(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, (list, tuple)):
        return [to_wire(element) for element in value]
    if isinstance(value, dict):
        return {str(key): to_wire(element) for key, element in value.items()}
    raise TypeError(f"{type(value).__name__} can't be sent")


class _Budget:
    """Elements that the arrays of one value may still have: a packed one has eight for each byte received."""

    def __init__(self, elements: int) -> None:
        self.left = elements


def from_wire(kind: type[T], value: Any, max_elements: int = _MAX_PIXELS) -> T:
    """The object of type ``kind`` that :func:`to_wire` made ``value`` of.

    Args:
        max_elements: of all its arrays together.

    Raises:
        ProtocolError: MALFORMED, with the field that has another type.
    """
    return _decode(kind, value, getattr(kind, "__name__", "value"), _Budget(max_elements))


def _decode(kind: Any, value: Any, where: str, budget: _Budget) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _decode(next(kind for kind in arguments if kind is not type(None)), value, where, budget)
    if origin is np.ndarray or NDArray in (origin, kind):  # the second from NumPy 2.5 on
        return _array_from_wire(value, where, budget)
    if origin in (tuple, list):
        return origin(_decode(arguments[0], element, where, budget) for element in _expect(value, list, where))
    if origin is dict:
        return {
            _expect(key, str, where): _decode(arguments[1], element, where, budget)
            for key, element in _expect(value, dict, where).items()
        }
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, where, budget)
    if isinstance(kind, type) and issubclass(kind, IntEnum):
        try:
            return kind(_expect(value, int, where))
        except ValueError as error:
            raise _wrong(where, f"{value}; accepted: {[int(member) for member in kind]}") from error
    if kind is float:
        if type(value) not in (int, float):
            raise _wrong(where, f"{type(value).__name__}; accepted: a number")
        try:
            return float(value)
        except OverflowError as error:
            raise _wrong(where, "a whole number that is too large") from error
    return _expect(value, kind, where)


def _dataclass(kind: Any, value: Any, where: str, budget: _Budget) -> Any:
    hints = _hints(kind)
    fields = _expect(value, dict, where)
    for key in fields:
        if key not in hints:
            raise _wrong(where, f"a map with the unknown field {str(key)[:40]!r}; accepted: {', '.join(hints)}")
    decoded = {key: _decode(hints[key], element, f"{where}.{key}", budget) for key, element in fields.items()}
    try:
        return kind(**decoded)
    except TypeError as error:
        raise _wrong(where, f"incomplete: {error}") from error


@lru_cache(maxsize=64)
def _hints(kind: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _expect(value: Any, kind: Any, where: str) -> Any:
    if type(value) is not kind:
        raise _wrong(where, f"{type(value).__name__}; accepted: {kind.__name__}")
    return value


def _array_from_wire(value: Any, where: str, budget: _Budget) -> NDArray[Any]:
    is_array = isinstance(value, list) and len(value) == 3 and isinstance(value[0], str) and isinstance(value[1], list)
    if not is_array or value[0] not in _DTYPES:
        raise _wrong(where, f"no array; accepted: [dtype, shape, bytes] with dtype {', '.join(sorted(_DTYPES))}")
    name, shape, data = value
    if not 1 <= len(shape) <= _MAX_DIMENSIONS or not all(type(n) is int and 0 <= n <= _MAX_PIXELS for n in shape):
        raise _wrong(where, "an array with a wrong shape")
    size, dtype = math.prod(shape), np.dtype(name)
    expected = -(-size // 8) if name == "bool" else size * dtype.itemsize
    if size > _MAX_PIXELS or not isinstance(data, bytes) or len(data) != expected:
        raise _wrong(where, f"an array of shape {shape} without its {expected} bytes")
    budget.left -= size
    if budget.left < 0:
        raise _wrong(where, "larger than what was asked for, with the arrays before it")
    if name == "bool":
        return np.unpackbits(np.frombuffer(data, np.uint8), count=size).view(np.bool_).reshape(shape)
    return np.frombuffer(data, dtype).reshape(shape).copy()


def _wrong(where: str, what: str) -> ProtocolError:
    return ProtocolError(f"{where} is {what}")
