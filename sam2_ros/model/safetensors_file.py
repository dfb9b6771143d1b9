"""Reads files in the format of safetensors: the length of a JSON header, the header, then the tensors' bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

MOST_HEADER = 100_000_000  # bytes, as the format has it
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


def is_safetensors(path: Path) -> bool:
    """Whether the file begins as that format does."""
    with path.open("rb") as file:
        head = file.read(9)
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size


def read_safetensors(path: Path, needed: Callable[[Iterable[str]], Iterable[str]], most: int) -> dict[str, Tensor]:
    """The tensors by name, in memory of their own: a mapping of a file that is cut meanwhile would end the process.

    Args:
        path: the file.
        needed: gets all names, and gives those of the tensors to read.
        most: how many numbers these may have together.

    Raises:
        ValueError: the file is damaged, tensors overlap, or they have more numbers.
        OSError: the file can't be read.
    """
    with path.open("rb") as file:
        size = path.stat().st_size
        begin = 8 + int.from_bytes(file.read(8), "little")
        if begin > min(size, MOST_HEADER):
            raise ValueError("its header is cut off or too long")
        header = json.loads(file.read(begin - 8))
        header.pop("__metadata__", None)
        places = {name: _place(entry, size - begin) for name, entry in header.items()}
        end = 0
        for first, last, *_ in sorted(places.values(), key=lambda place: place[:2]):
            if first < end:
                raise ValueError("tensors overlap")
            end = last
        places = {name: places[name] for name in needed(places)}
        if sum(math.prod(shape) for *_, shape in places.values()) > most:
            raise ValueError(f"it holds more than {most} numbers")
        tensors = {}
        for name, (first, last, dtype, shape) in places.items():
            file.seek(begin + first)
            if file.readinto(data := bytearray(last - first)) != len(data):
                raise ValueError("it became shorter while it was read")
            # torch makes no tensor of an empty buffer.
            tensors[name] = (torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)).view(shape)
        return tensors


def _place(entry: Any, size: int) -> tuple[int, int, torch.dtype, list[int]]:
    """Where the tensor that the header's ``entry`` describes begins and ends in the ``size`` bytes of all tensors, and
    what it is.

    Raises:
        ValueError, KeyError, TypeError: no such tensor can be in the file.
    """
    dtype, shape = _DTYPES[entry["dtype"]], [int(each) for each in entry["shape"]]
    first, last = (int(offset) for offset in entry["data_offsets"])
    if min(shape, default=0) < 0 or first < 0 or last > size or last - first != math.prod(shape) * dtype.itemsize:
        raise ValueError("a tensor has another size than its shape, or lies outside of the file")
    return first, last, dtype, shape
