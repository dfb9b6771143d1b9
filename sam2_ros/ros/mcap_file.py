"""Reads an MCAP file from its begin to its end, or to where it is damaged or cut. Needs the library mcap.

The library's own readers need an intact end, and take from the file how much memory they use.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from sam2_ros.media.errors import UserError
from sam2_ros.text import printable

MAX_BYTES = 1 << 28  # of a record or an unpacked chunk; an image of 67 megapixels has 192 MiB
_MAGIC = b"\x89MCAP0\r\n"
_RECORD = struct.Struct("<BQ")  # opcode, length
_T = TypeVar("_T")


class RecordedMessage(NamedTuple):
    """A serialised message."""

    topic: str
    type: str  # sensor_msgs/msg/Image
    definition: str  # of the type
    log_time: int  # ns, Unix
    data: bytes


class McapFile:
    """An MCAP file, which may be damaged."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            UserError: the file can't be read, or is no MCAP file.
        """
        self.path = path
        self.damage = ""  # what the last reading found, and where; empty = it came to the end
        self._place = 0  # bytes that were read, to the last record
        try:
            with path.open("rb") as file:
                magic = file.read(len(_MAGIC))
        except OSError as error:
            raise UserError(f"{path} can't be read ({error.strerror})") from None
        if magic != _MAGIC:
            raise UserError(f"{path} can't be read as MCAP: it begins with {magic!r}")

    def metadata(self, name: str) -> dict[str, str] | None:
        """The record of this name before the first message; None if there is none."""
        return next(self._to_damage(self._metadata(name)), None)

    def messages(self) -> Iterator[RecordedMessage]:
        """The messages in the order in which they were written."""
        return self._to_damage(self._messages())

    def _to_damage(self, content: Iterator[_T]) -> Iterator[_T]:
        self.damage = ""
        try:
            yield from content
        except Exception as error:  # of many kinds, from several libraries
            at = f"{self._place / 2**20:.1f} of {os.path.getsize(self.path) / 2**20:.1f} MiB"
            self.damage = f"damaged or cut after {at} ({printable(error, 200) or type(error).__name__})"

    def _metadata(self, name: str) -> Iterator[dict[str, str]]:
        from mcap.opcode import Opcode
        from mcap.records import Metadata

        for opcode, record in self._all():
            if opcode == Opcode.METADATA and (found := Metadata.read(_stream(record))).name == name:
                yield dict(found.metadata)
            if opcode == Opcode.MESSAGE:
                return

    def _messages(self) -> Iterator[RecordedMessage]:
        from mcap.opcode import Opcode
        from mcap.records import Channel, Message, Schema

        schemas: dict[int, tuple[str, str]] = {}
        channels: dict[int, tuple[str, str, str]] = {}
        for opcode, record in self._all():
            if opcode == Opcode.SCHEMA:
                schema = Schema.read(_stream(record))
                schemas[schema.id] = schema.name, schema.data.decode(errors="replace")
            elif opcode == Opcode.CHANNEL:
                channel = Channel.read(_stream(record))
                channels[channel.id] = channel.topic, *schemas.get(channel.schema_id, ("", ""))
            elif opcode == Opcode.MESSAGE:
                message = Message.read(_stream(record), len(record))
                if message.channel_id not in channels:
                    raise ValueError(f"a message of channel {message.channel_id}, which was not announced")
                yield RecordedMessage(*channels[message.channel_id], message.log_time, message.data)

    def _all(self) -> Iterator[tuple[int, bytes]]:
        """Opcode and content of every record, those in chunks included; an unpacked chunk is checked as a whole.

        Raises:
            ValueError, and what the libraries raise: the file is damaged after ``self._place`` bytes.
        """
        from mcap.opcode import Opcode

        size, self._place = os.path.getsize(self.path), len(_MAGIC)
        with self.path.open("rb") as file:
            while True:
                file.seek(self._place)
                head = file.read(_RECORD.size)
                if len(head) < _RECORD.size:
                    raise ValueError("the end is missing")
                opcode, length = _RECORD.unpack(head)
                if length > MAX_BYTES:
                    raise ValueError(f"a record of {length} bytes; accepted: up to {MAX_BYTES}")
                if self._place + _RECORD.size + length > size:
                    raise ValueError("a record is cut")
                record = file.read(length)
                if opcode == Opcode.CHUNK:
                    yield from _records(_unpacked(record))
                else:
                    yield opcode, record
                if opcode == Opcode.DATA_END:
                    return
                self._place += _RECORD.size + length


def _records(data: bytes) -> Iterator[tuple[int, bytes]]:
    place = 0
    while place < len(data):
        opcode, length = _RECORD.unpack_from(data, place)
        place += _RECORD.size
        yield opcode, data[place : place + length]
        place += length


def _unpacked(record: bytes) -> bytes:
    """The records in a chunk."""
    from mcap.records import Chunk

    chunk = Chunk.read(_stream(record))
    if chunk.uncompressed_size > MAX_BYTES:
        raise ValueError(f"a chunk of {chunk.uncompressed_size} bytes; accepted: up to {MAX_BYTES}")
    data = _decompress(chunk.compression, chunk.data, chunk.uncompressed_size)
    if len(data) != chunk.uncompressed_size or chunk.uncompressed_crc not in (0, zlib.crc32(data)):
        raise ValueError("a chunk does not match its checksum")
    return data


def _decompress(compression: str, data: bytes, size: int) -> bytes:
    """At most ``size`` bytes, whatever the compressed data announce."""
    if compression == "zstd":
        import zstandard

        return zstandard.ZstdDecompressor().stream_reader(data).read(size)
    if compression == "lz4":
        import lz4.frame

        return bytes(lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=size))
    if compression:
        raise ValueError(f"unknown compression '{printable(compression)}'")
    return data


def _stream(record: bytes) -> Any:
    from mcap.data_stream import ReadDataStream

    return ReadDataStream(BytesIO(record))
