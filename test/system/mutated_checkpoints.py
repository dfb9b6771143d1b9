"""Mutated checkpoints, and whether they are read safely."""

from __future__ import annotations

import io
import pickletools
import random
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

from mutated import SIZES, altered, flipped, rearranged

LOCAL, CENTRAL, END = struct.Struct("<IHHHHHIIIHH"), struct.Struct("<IHHHHHHIIIHHHHHII"), struct.Struct("<IHHHHIIH")
NUMBERS = (-(2**63), -(2**31), -1, 0, 1, 2, 95, 96, 97, 2**20, 2**29, 2**31, 2**40, 2**62, 2**63 - 1, 2**100)
# What weights_only knows, and what it must refuse
GLOBALS = (
    "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor", "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_sparse_tensor", "torch._utils _rebuild_qtensor", "torch._utils _rebuild_nested_tensor",
    "torch._utils _rebuild_meta_tensor_no_storage", "torch._utils _rebuild_device_tensor_from_numpy",
    "torch._tensor _rebuild_from_type_v2", "torch FloatStorage", "torch ComplexDoubleStorage", "torch BoolStorage",
    "torch.storage UntypedStorage", "torch Tensor", "torch.nn.parameter Parameter", "torch.serialization _get_layout",
    "torch Size", "torch device", "torch float16", "collections OrderedDict", "collections Counter",
    "__builtin__ bytearray", "builtins set", "builtins getattr", "_codecs encode", "os system", "posix system",
    "numpy.core.multiarray _reconstruct", "torch._dynamo x", "sam2_ros.model.sam2 Sam2Model",
)  # fmt: skip
TEXTS = (
    "", "model", "ema", "state_dict", "config", "storage", "0", "1", "../0", "cpu", "cuda:0", "meta",
    "no_obj_embed_spatial", "a\0b", "x" * 999,
)  # fmt: skip
WHOLE, CONTAINER, OPCODES, PICKLE, ENTRY = range(5)  # what is mutated


class Checkpoints:
    """Reads a small checkpoint that is mutated as a whole, in its archive, in the opcodes or bytes of its pickle, in
    another entry, in its tensors, or in its settings. Checksums are right, unless the archive is what is mutated."""

    def __init__(self, folder: Path) -> None:
        import torch

        from sam2_ros.model.config import HieraConfig, ModelConfig

        self._torch, self._path = torch, folder / "weights.pt"
        small = HieraConfig(96, 1, (1, 1, 1, 1), (2,))
        self._config = ModelConfig("ours", hiera=small, memory_layers=1, memory_ffn=64, image_size=64).to_dict()
        numbers = torch.arange(96.0)
        tensors = {f"image_encoder.trunk.blocks.{block}.": numbers for block in range(12)}  # one, so that it is short
        self._official = {"image_encoder.trunk.patch_embed.proj.weight": numbers.view(96, 1, 1, 1), **tensors}
        self._official["no_obj_embed_spatial"] = torch.ones(2, 3, dtype=torch.float16)
        content = {"model": self._official}
        self._stream = self._bytes(content, zipped=False)
        with zipfile.ZipFile(io.BytesIO(self._bytes(content, zipped=True))) as archive:
            self._entries = [(entry, archive.read(entry)) for entry in archive.namelist()]
        parts = _opcodes(self._entries[0][1])
        self._parts = {True: parts, False: _opcodes(self._stream)}

    def run(self, source: random.Random) -> str:
        from sam2_ros.model.checkpoint import CheckpointError, read_checkpoint

        self._path.write_bytes(self._mutated(source))
        try:
            state, _ = read_checkpoint(self._path)
        except CheckpointError as error:
            return "refused" if len(str(error)) < 2000 else "wrong"
        for tensor in state.values():  # every number, wherever it is said to be
            tensor.sum()
        return "used"

    def _bytes(self, content: Any, zipped: bool) -> bytes:
        data = io.BytesIO()
        self._torch.save(content, data, _use_new_zipfile_serialization=zipped)
        return data.getvalue()

    def _mutated(self, source: random.Random) -> bytes:
        chance, zipped = source.random(), source.random() < 0.6
        if chance < 0.0005:  # takes much longer: the network is made
            weights, config = {"memory.mask": self._torch.ones(2)}, altered(self._config, source)
            return self._bytes({"model": weights, "config": config}, zipped)
        if chance < 0.02:
            return self._bytes(self._odd_content(source), zipped)
        layers = source.choices(range(5), (2, 3, 6, 3, 1), k=source.choice((1, 1, 1, 2)))
        if not zipped:
            data = self._stream
            if OPCODES in layers:
                data = _other_opcodes(self._parts[False], source)
            return flipped(data, source) if layers != [OPCODES] else data
        entries = list(self._entries)
        for layer in layers:
            name, content = entries[0]
            if layer == OPCODES:
                entries[0] = name, _other_opcodes(self._parts[True], source)
            elif layer == PICKLE:
                entries[0] = name, flipped(content, source)
            elif layer == ENTRY:
                place = source.randrange(1, len(entries))
                entries[place] = entries[place][0], flipped(entries[place][1], source)
        data = _archive(entries, source, CONTAINER in layers)
        return flipped(data, source) if WHOLE in layers else data

    def _odd_content(self, source: random.Random) -> Any:
        """Tensors of other kinds, shapes and names, in an entry of another name."""
        torch = self._torch
        state: dict[Any, Any] = dict(self._official)
        for _ in range(source.randint(1, 3)):
            tensor = torch.arange(96.0)
            kind = source.randrange(9)
            if kind == 0:
                tensor = tensor.to(source.choice((torch.int64, torch.complex64, torch.float8_e4m3fn, torch.bool)))
            elif kind == 1:
                tensor = tensor.to_sparse() if source.random() < 0.5 else tensor.view(8, 12).to_sparse_csr()
            elif kind == 2:
                tensor = torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)
            elif kind == 3:
                tensor = tensor.to("meta")
            elif kind == 4:
                tensor = tensor[:1].expand(source.choice((0, 2, 2**20, 2**31, 2**40)))
            elif kind == 5:
                tensor = torch.nn.Parameter(tensor)
            elif kind == 6:
                tensor = tensor * float("nan")
            elif kind == 7:
                tensor = tensor.as_strided((0, 2**30), (1, 1))
            else:
                tensor = source.choice((None, [], {}, "text", 1, tensor.view(96, 1, 1)))
            name = source.choice((*list(self._official)[:3], *TEXTS, 5, None, b"bytes"))
            state[name] = tensor
        entry = source.choice(("model", "ema", "state_dict", "other"))
        content: Any = state if source.random() < 0.2 else {entry: state}
        if source.random() < 0.3:
            content = {**content, "config": altered(altered({**self._config, "name": 1}, source), source)}
        return content


def _opcodes(data: bytes) -> list[tuple[str, bytes]]:
    """Name and bytes of each opcode of the pickles that follow each other, and the rest as one."""
    parts, begin = [], 0
    while data[begin : begin + 1] == b"\x80":
        found = [(opcode.name, begin + (place or 0)) for opcode, _, place in pickletools.genops(data[begin:])]
        ends = [place for _, place in found[1:]] + [found[-1][1] + 1]
        parts += [(name, data[place:end]) for (name, place), end in zip(found, ends, strict=True)]
        begin = ends[-1]
    return [*parts, ("", data[begin:])]


def _other_opcodes(parts: list[tuple[str, bytes]], source: random.Random) -> bytes:
    """The pickle with one to three opcodes that are others, or elsewhere."""
    for _ in range(source.randint(1, 3)):
        if source.random() < 0.25:
            parts = rearranged(parts, source)
            continue
        kinds = sorted({name for name, _ in parts})
        kind = source.choice(kinds)  # first the kind: there are few strings, and very many numbers
        place = source.choice([place for place, (name, _) in enumerate(parts) if name == kind])
        parts = [*parts[:place], (kind, _other_argument(kind, parts[place][1], source)), *parts[place + 1 :]]
    return b"".join(data for _, data in parts)


def _other_argument(kind: str, data: bytes, source: random.Random) -> bytes:
    """One opcode, or a short piece of a pickle, in place of it."""
    if source.random() < 0.2:
        return source.choice((b"N", b"\x88", b"]", b"}", b")", b"(", b"0", b"2", b"R", b"b", b"Q", b"t", b"\x81", b"."))
    if kind == "GLOBAL":
        return f"c{source.choice(GLOBALS)}\n".replace(" ", "\n").encode()
    if "INT" in kind or kind == "LONG1":
        number = source.choice(NUMBERS)
        raw = number.to_bytes(16, "little", signed=True)
        return b"\x8a\x10" + raw
    if "UNICODE" in kind:
        text = source.choice(TEXTS).encode()
        length = source.choice(SIZES) if source.random() < 0.1 else len(text)
        return b"X" + struct.pack("<I", length) + text
    if kind in ("BINGET", "BINPUT", "LONG_BINGET", "LONG_BINPUT"):
        return data[:1] + source.randbytes(len(data) - 1)
    return flipped(data, source)


def _archive(entries: list[tuple[str, bytes]], source: random.Random, odd: bool) -> bytes:
    """A zip archive; ``odd``: an entry is missing, repeated or elsewhere, or a field says what is not so."""
    kind = source.randrange(4) if odd else -1
    if kind == 0:
        entries = rearranged(entries, source)
    if kind == 1:
        place = source.randrange(len(entries))
        name = source.choice(
            (entries[source.randrange(len(entries))][0], "archive/data/1", "../x", "data.pkl", "", "\0")
        )
        entries = [*entries[:place], (name, entries[place][1]), *entries[place + 1 :]]
    made, index = bytearray(), []
    deflated = source.randrange(len(entries)) if kind == 2 else -1
    for number, (name, content) in enumerate(entries):
        if number == deflated:
            content = content + bytes(1 << 16)
        checksum, text = zlib.crc32(content), name.encode()
        packed = _deflated(content) if number == deflated else content
        method = 8 if number == deflated else 0
        sizes = checksum, len(packed), len(content), len(text)
        index.append(CENTRAL.pack(0x02014B50, 20, 20, 0, method, 0, 33, *sizes, 0, 0, 0, 0, 0, len(made)) + text)
        made += LOCAL.pack(0x04034B50, 20, 0, method, 0, 33, *sizes, 0) + text + packed
    begin, listed = len(made), b"".join(index)
    made += listed + END.pack(0x06054B50, 0, 0, len(index), len(index), len(listed), begin, 0)
    if kind == 3:  # in the list of entries, which readers trust, or before it
        place = source.randrange(begin, len(made) - 4) if source.random() < 0.7 else source.randrange(begin - 4)
        value = source.choice(SIZES)
        struct.pack_into(
            *(("<I", made, place, value) if source.random() < 0.5 else ("<H", made, place, value & 0xFFFF))
        )
    return bytes(made)


def _deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()
