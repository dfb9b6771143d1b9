"""Decodes JPEG and PNG pictures that come from outside: node, viewer, server and replay use this one decoder.

The header is read first, so that a small file can't ask for much memory or time: pixels, scans of a JPEG and chunks of
a PNG are limited. An orientation tag is never obeyed, because camera_info, tracks and masks describe the image as it
was taken.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

MAX_PIXELS = 1 << 26  # 8192 x 8192; its RGB has 192 MiB
MAX_SCANS = 32  # of a JPEG; cameras write one, progressive pictures about ten
MAX_CHUNKS = 1 << 16  # of a PNG
KINDS = ("JPEG", "PNG")

Data: TypeAlias = "bytes | bytearray | memoryview | array[int]"

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
JPEG_OR_PNG = (_JPEG, _PNG)  # how they begin
_PNG_PIXELS = (b"IHDR", b"PLTE", b"IDAT", b"IEND")  # other chunks may unpack to megabytes each
_FRAME_HEADERS = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}  # TEM, RST0 to RST7, SOI


class PictureError(ValueError):
    """A picture that is not decoded; the message says why and what is accepted."""


class PictureHeader(NamedTuple):
    """What a picture says of itself."""

    kind: str  # of KINDS
    width: int  # pixels
    height: int


def read_header(data: bytes) -> PictureHeader:
    """Kind and size of a picture, without decoding it.

    Raises:
        PictureError: neither JPEG nor PNG, or damaged.
    """
    if data.startswith(_PNG):
        if len(data) < 33 or data[12:16] != b"IHDR":
            raise PictureError("the PNG's header is damaged")
        return PictureHeader("PNG", *struct.unpack(">II", data[16:24]))
    if data.startswith(_JPEG):
        return PictureHeader("JPEG", *_jpeg_size(data))
    raise PictureError(f"{len(data)} bytes that are neither JPEG nor PNG; accepted: JPEG or PNG")


def decode_picture(data: Data, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """A JPEG or PNG as RGB, ``uint8 [H, W, 3]``: gray in three equal channels, alpha dropped, 16 bits cut to 8.

    Raises:
        PictureError: another format, too large, or damaged.
    """
    import cv2  # a server for raw frames does without

    bgr = decode_pixels(bytes(data), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION, max_pixels)
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def decode_depth_png(data: Data, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint16]:
    """A PNG of one channel with 16 bits, ``uint16 [H, W]``.

    Raises:
        PictureError: another picture, too large, or damaged.
    """
    import cv2

    values = decode_pixels(bytes(data), cv2.IMREAD_UNCHANGED, max_pixels)
    if values.dtype != np.uint16 or values.ndim != 2:
        raise PictureError("accepted: a PNG of one channel with 16 bits")
    return values


def decode_pixels(data: bytes, flags: int, max_pixels: int = MAX_PIXELS) -> NDArray:
    """A JPEG or PNG as ``cv2.imdecode`` gives it with these flags.

    Raises:
        PictureError: another format, too large, or damaged.
    """
    import cv2

    header = read_header(data)
    check_size(header.kind, header.width, header.height, max_pixels)
    if header.kind == "PNG":
        data = _only_pixels(data)
    elif (scans := data.count(b"\xff\xda")) > MAX_SCANS:  # the marker can't occur within a scan
        raise PictureError(f"a JPEG of {scans} scans; accepted: up to {MAX_SCANS}")
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise PictureError(f"the {header.kind} is damaged: {error.err}") from None
    if pixels is None or sorted(pixels.shape[:2]) != sorted((header.height, header.width)):  # it may be turned
        raise PictureError(f"the {header.kind} is damaged")
    return np.asarray(pixels)


def check_size(kind: str, width: int, height: int, max_pixels: int = MAX_PIXELS) -> None:
    """
    Raises:
        PictureError: too many pixels.
    """
    if width * height > max_pixels:
        raise PictureError(f"a {kind} of {width} x {height} pixels; accepted: up to {max_pixels} pixels")


def _only_pixels(data: bytes) -> bytes:
    """A PNG without chunks that are not needed for its pixels: texts, colour profiles, animations."""
    kept = [data[place:end] for name, place, end in _chunks(data) if name in _PNG_PIXELS]
    return b"".join([_PNG, *kept])


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, begin and end of every chunk of a PNG."""
    place = len(_PNG)
    for _ in range(MAX_CHUNKS):
        if place + 12 > len(data):
            raise PictureError("the PNG ends too early")
        (length,) = struct.unpack_from(">I", data, place)
        name, end = data[place + 4 : place + 8], place + 12 + length
        if end > len(data):
            raise PictureError("the PNG ends too early")
        yield name, place, end
        if name == b"IEND":
            return
        place = end
    raise PictureError(f"a PNG of more than {MAX_CHUNKS} chunks; accepted: fewer")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Width and height from the frame header, which comes before the first scan."""
    place = 2
    for _ in range(1000):  # markers
        padded = data[place : place + 16]
        name = padded.lstrip(b"\xff")[:1]
        if not padded.startswith(b"\xff") or name in (b"", b"\xda", b"\xd9"):  # no marker, a scan, the end
            break
        place += padded.index(name) + 1
        if len(data) < place + 7:
            break
        if name[0] in _FRAME_HEADERS:
            height, width = struct.unpack_from(">HH", data, place + 3)
            return width, height
        place += 0 if name[0] in _WITHOUT_LENGTH else max(2, struct.unpack_from(">H", data, place)[0])
    raise PictureError("the JPEG's header is damaged")
