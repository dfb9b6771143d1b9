"""Mutated recordings, and what ``sam2_ros replay`` makes of them."""

from __future__ import annotations

import argparse
import itertools
import json
import random
import struct
import sys
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

from mutated import SIZES, altered, flipped, rearranged

from sam2_ros.cli import replay

sys.path.append(str(Path(__file__).parents[1] / "ros"))  # recordings.py, when fuzz_files.py is run as a program

MAGIC = b"\x89MCAP0\r\n"
CHUNK, DATA_END, MESSAGE, METADATA = 0x06, 0x0F, 0x05, 0x0C
CHUNK_HEAD = struct.Struct("<QQQII")  # begin, end, unpacked bytes, their checksum, length of the compression's name
MESSAGE_HEAD = 22  # bytes before a message's data
Records = list[tuple[int, bytes]]  # opcode, content
WHOLE, DATA, RECORD, ORDER, CONTAINER, SETTINGS = range(6)  # what is mutated


def records_of(data: bytes) -> Records:
    """Those of an uncompressed file, chunks unpacked, up to the end of its data."""
    found, place = [], 0
    while place < len(data):
        opcode, length = struct.unpack_from("<BQ", data, place)
        content = data[place + 9 : place + 9 + length]
        place += 9 + length
        if opcode == CHUNK:
            found += records_of(content[CHUNK_HEAD.size + 8 :])
        else:
            found.append((opcode, content))
        if opcode == DATA_END:
            break
    return found


def joined(records: Records) -> bytes:
    return b"".join(struct.pack("<BQ", opcode, len(content)) + content for opcode, content in records)


def metadata(**about: str) -> bytes:
    """The record that names the tracker."""

    def text(value: str) -> bytes:
        return struct.pack("<I", len(value.encode())) + value.encode()

    pairs = b"".join(text(key) + text(value) for key, value in about.items())
    return text("sam2_ros") + struct.pack("<I", len(pairs)) + pairs


class Recordings:
    """Replays a recording that is mutated in one or two layers: as a whole, in a message's data, in the fields or the
    order of its records, in its chunks, in its settings. Checksums are right, unless they are what is mutated."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "run.mcap"
        self._valid = [records_of(data[len(MAGIC) :]) for data in scenarios(self._path)]

    def run(self, source: random.Random) -> str:
        records = source.choice(self._valid)
        layers = source.choices(range(6), (2, 6, 2, 2, 2, 1), k=source.choice((1, 1, 1, 2)))
        for layer in layers:
            records = _mutated(records, layer, source)
        data = _chunked(records, source, CONTAINER in layers)
        self._path.write_bytes(MAGIC + (flipped(data, source) if WHOLE in layers else data))
        code = replay.run(argparse.Namespace(file=self._path, model="null", device="auto", quiet=True))
        return ("same", "different")[code]


def _mutated(records: Records, layer: int, source: random.Random) -> Records:
    if layer == ORDER:
        return rearranged(records, source)
    wanted = {DATA: MESSAGE, SETTINGS: METADATA}.get(layer)
    places = [place for place, (opcode, _) in enumerate(records) if opcode == wanted or layer == RECORD]
    if not places:
        return records
    place = source.choice(places)
    opcode, content = records[place]
    if layer == DATA:
        content = content[:MESSAGE_HEAD] + flipped(content[MESSAGE_HEAD:], source)
    elif layer == RECORD:
        content = flipped(content, source)
    else:
        from recordings import PARAMETERS_OF_NULL

        about = {"prefix": "/tracker", "image": "/image"}
        content = metadata(**about, parameters=json.dumps(altered(PARAMETERS_OF_NULL, source)))
    return [*records[:place], (opcode, content), *records[place + 1 :]]


def _chunked(records: Records, source: random.Random, odd: bool) -> bytes:
    """The records with one to three chunks of their messages; ``odd``: one says what is not so."""
    import lz4.frame
    import zstandard

    first = next((place for place, (opcode, _) in enumerate(records) if opcode == MESSAGE), len(records) - 1)
    cuts = sorted(source.randint(first, len(records) - 1) for _ in range(source.choice((0, 0, 1, 2))))
    made = joined(records[:first])
    bounds = list(itertools.pairwise((first, *cuts, len(records) - 1)))
    wrong = source.randrange(len(bounds)) if odd else -1
    for number, (begin, end) in enumerate(bounds):
        unpacked = joined(records[begin:end])
        name = source.choice(("zstd", "lz4", ""))
        packed = unpacked
        if name:
            packed = (zstandard.ZstdCompressor().compress if name == "zstd" else lz4.frame.compress)(unpacked)
        size, checksum, text = len(unpacked), zlib.crc32(unpacked), name.encode()
        length = len(packed)
        if number == wrong:
            kind = source.randrange(6)
            size = source.choice((*SIZES, max(0, size - 1), size + 1, 1 << 63)) if kind == 0 else size
            checksum = source.choice((0, 1, checksum ^ 1)) if kind == 1 else checksum
            text = source.choice((b"lz4", b"zstd", b"", b"bz2", b"\xff", b"x" * 999)) if kind == 2 else text
            length = source.choice((*SIZES, max(0, length - 1), length + 1)) if kind == 3 else length
            packed = flipped(packed, source) if kind >= 4 else packed
            length = len(packed) if kind == 4 else length
        head = CHUNK_HEAD.pack(0, 0, size, checksum, len(text)) + text + struct.pack("<Q", length)
        made += joined([(CHUNK, head + packed)])
    return made + joined(records[-1:])


def scenarios(path: Path) -> list[bytes]:
    """Valid recordings: each service, odd stamps and ages, several encodings; ``path`` is written and read."""
    import numpy as np
    from mcap.writer import CompressionType
    from PIL import Image as Picture
    from rclpy.serialization import serialize_message
    from recordings import BOX, HEIGHT, PARAMETERS_OF_NULL, WIDTH, Made, run_lengths, tracked
    from sensor_msgs.msg import CompressedImage, Image
    from std_msgs.msg import Header

    from sam2_ros import srv
    from sam2_ros.msg import ObjectPrompt, PromptResult
    from sam2_ros.ros.messages import bounding_box, byte_array, to_time

    pixels = np.zeros(HEIGHT * WIDTH * 4, np.uint8)
    images: list[Any] = [
        Image(
            width=WIDTH, height=HEIGHT, encoding=encoding, step=WIDTH * size,
            data=byte_array(pixels[: HEIGHT * WIDTH * size]),
        )
        for encoding, size in (("mono8", 1), ("bgra8", 4), ("mono16", 2), ("bayer_rggb8", 1), ("yuv422_yuy2", 2))
    ]  # fmt: skip
    for kind in ("JPEG", "PNG"):
        data = BytesIO()
        Picture.fromarray(pixels[: HEIGHT * WIDTH * 3].reshape(HEIGHT, WIDTH, 3)).save(data, kind)
        images.append(CompressedImage(format=kind.lower(), data=data.getvalue()))
    box, result = [bounding_box(BOX)], PromptResult(success=True, object_id=1, applied_stamp=to_time(10**9))
    calls: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("RefineObject", {"prompt": ObjectPrompt(object_id=1, box=box)}, {"result": result}),
        ("RemoveObject", {"object_id": "1"}, {}),
        ("RenameObject", {"object_id": "1", "name": "cup", "label": "thing"}, {}),
        ("Reset", {}, {"removed": 1}),
    ]
    made = []

    def begun() -> Made:
        return Made(path, PARAMETERS_OF_NULL, CompressionType.NONE)

    def ended(recording: Made) -> None:
        recording.close()
        made.append(path.read_bytes())

    for step, age in itertools.product((10**8, 0, -(10**8)), (0.0, 0.1, 1e30, float("nan"))):
        recording = begun()
        for number in range(2):
            recording.image(10**9 + number * step)
            recording.tracks(10**9 + number * step, *([tracked()] if number else []))
            if number == 0:
                recording.add(10**9, age)
        ended(recording)
    for service, asked, answered in calls:
        kind = getattr(srv, service)
        recording = begun()
        recording.image(10**9)
        recording.tracks(10**9)
        recording.add(10**9)
        recording.call(service, kind.Request(**asked), kind.Response(success=True, **answered), 2)
        recording.image(2 * 10**9)
        recording.tracks(2 * 10**9, run_lengths(WIDTH * 2, WIDTH * 2))
        ended(recording)
    for image in images:
        recording = begun()
        for number in range(2):
            image.header = Header(stamp=to_time(10**9 + number))
            recording.now += 10**9
            name = f"sensor_msgs/msg/{type(image).__name__}"
            recording.write("/image", name, serialize_message(image))
            recording.tracks(10**9 + number, *([tracked()] if number else []))
            if number == 0:
                recording.add(10**9)
        ended(recording)
    return made
