"""Pictures from outside: the right pixels, the same way up, and nothing small that costs much."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from sam2_ros.media.picture_decoder import (
    MAX_CHUNKS,
    MAX_SCANS,
    PictureError,
    decode_depth_png,
    decode_picture,
    read_header,
)

RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
ORIENTATION = 0x0112


def saved(kind: str, **options: object) -> bytes:
    data = io.BytesIO()
    Image.fromarray(RGB).save(data, kind, **options)
    return data.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, bits: int = 1, more: bytes = b"", rows: int | None = None) -> bytes:
    """A black PNG of one channel."""
    row = bytes(1 + (width * bits + 7) // 8)
    pixels = zlib.compress(row * (height if rows is None else rows))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + more + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def jpeg_of(width: int, height: int) -> bytes:
    """A JPEG whose header says another size."""
    data = bytearray(saved("JPEG"))
    place = data.index(b"\xff\xc0")
    data[place + 5 : place + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def test_the_pixels_are_right() -> None:
    np.testing.assert_array_equal(decode_picture(saved("PNG")), RGB)
    assert np.abs(decode_picture(saved("JPEG", quality=100, subsampling=0)).astype(int) - RGB).max() < 16
    for data, header in (
        (saved("JPEG", progressive=True, icc_profile=bytes(100_000), comment=b"\xff\xc0" * 9), ("JPEG", 8, 6)),
        (png(40000, 30000, rows=1), ("PNG", 40000, 30000)),
    ):
        assert read_header(data) == header


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_an_orientation_tag_is_not_obeyed(kind: str) -> None:
    """A turned picture would no longer fit its camera_info."""
    tags = Image.Exif()
    tags[ORIENTATION] = 6
    data = saved(kind, exif=tags)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), decode_picture(data))
    turned = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert turned is not None and turned.shape == (8, 6, 3), "others obey it"


def test_depth_keeps_its_bits() -> None:
    depth = np.arange(48, dtype=np.uint16).reshape(6, 8) * 1300
    np.testing.assert_array_equal(decode_depth_png(cv2.imencode(".png", depth)[1].tobytes()), depth)
    with pytest.raises(PictureError, match="a PNG of one channel with 16 bits"):
        decode_depth_png(saved("PNG"))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "0 bytes that are neither JPEG nor PNG; accepted: JPEG or PNG"),
        (saved("GIF"), "neither JPEG nor PNG"),
        (saved("WEBP"), "neither JPEG nor PNG"),
        (saved("TIFF"), "neither JPEG nor PNG"),
        (saved("BMP"), "neither JPEG nor PNG"),
        (png(32000, 32000, rows=1), "a PNG of 32000 x 32000 pixels; accepted: up to 67108864 pixels"),
        (jpeg_of(65535, 65535), "a JPEG of 65535 x 65535 pixels; accepted: up to"),
        (saved("JPEG") + b"\xff\xda" * MAX_SCANS, f"a JPEG of {MAX_SCANS + 1} scans; accepted: up to {MAX_SCANS}"),
        (png(8, 6, more=chunk(b"teST", b"") * MAX_CHUNKS), f"more than {MAX_CHUNKS} chunks"),
        (saved("PNG")[:-20], "the PNG ends too early"),
        (saved("PNG")[:20], "the PNG's header is damaged"),
        (saved("JPEG")[:20], "the JPEG's header is damaged"),
        (b"\xff\xd8" + b"\xff" * 10_000_000, "the JPEG's header is damaged"),
        (png(8, 6, bits=3), "the PNG is damaged"),
    ],
)
def test_what_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(PictureError, match=reason):
        decode_picture(data)


def test_texts_in_a_png_are_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of a thousand may unpack to megabytes."""
    text = chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(7_000_000)))
    seen: list[int] = []

    def note(data: np.ndarray, flags: int) -> Any:
        seen.append(data.size)
        return decode(data, flags)

    decode = cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", note)
    plain = png(8, 6)
    assert decode_picture(png(8, 6, more=text * 20)).shape == (6, 8, 3)
    assert seen == [len(plain)]
