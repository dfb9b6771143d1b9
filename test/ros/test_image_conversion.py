"""Every encoding gives the expected pixels, whatever step and byte order; malformed images say what is wrong."""

from __future__ import annotations

import struct
import sys
import types
from dataclasses import dataclass, replace

import cv2
import numpy as np
import pytest
from rvl_encoder import rvl

from sam2_ros.ros.image_conversion import (
    ENCODINGS,
    Buffer,
    UnsupportedEncoding,
    compressed_depth_rows,
    decode_compressed,
    depth_rows,
    mono8_mask,
    to_rgb,
)

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 8, 3), np.uint8)
ALPHA = RNG.integers(0, 256, (6, 8, 1), np.uint8)
GRAY16 = RNG.integers(0, 65536, (6, 8), np.uint16)
COLOUR = np.array([200, 100, 40], np.uint8)  # one colour, where neighbours are mixed
BAYER = {
    f"bayer_{pattern.lower()}{bits}": (pattern, bits)
    for pattern in ("RGGB", "BGGR", "GBRG", "GRBG")
    for bits in (8, 16)
}


@dataclass
class FakeImage:
    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: Buffer


def image(encoding: str, pixels: np.ndarray, padding: int = 0, big_endian: bool = False) -> FakeImage:
    """An image message of ``pixels``, every row followed by ``padding`` bytes of junk."""
    if pixels.dtype == np.uint16:
        pixels = pixels.astype(">u2" if big_endian else "<u2")
    rows = pixels.reshape(pixels.shape[0], -1).view(np.uint8)
    junk = np.full((rows.shape[0], padding), 0xAB, np.uint8)
    padded = np.hstack([rows, junk])
    height, width = pixels.shape[:2]
    return FakeImage(height, width, encoding, int(big_endian), padded.shape[1], padded.tobytes())


def mosaic(pattern: str) -> np.ndarray:
    """What a sensor with this Bayer pattern sees of an even surface of COLOUR."""
    cell = [COLOUR["RGB".index(channel)] for channel in pattern]
    return np.tile(np.array(cell, np.uint8).reshape(2, 2), (3, 4))


def yuv_of(colour: np.ndarray) -> tuple[int, int, int]:
    """ITU-R BT.601, video range: the matrix of 4:2:2 cameras."""
    r, g, b = (float(channel) for channel in colour)
    y = 16 + 0.257 * r + 0.504 * g + 0.098 * b
    u = 128 - 0.148 * r - 0.291 * g + 0.439 * b
    v = 128 + 0.439 * r - 0.368 * g - 0.071 * b
    return round(y), round(u), round(v)


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize(
    ("encoding", "pixels"),
    [
        ("rgb8", RGB),
        ("bgr8", RGB[..., ::-1]),
        ("rgba8", np.concatenate([RGB, ALPHA], axis=2)),
        ("bgra8", np.concatenate([RGB[..., ::-1], ALPHA], axis=2)),
        ("8UC3", RGB[..., ::-1]),  # OpenCV's order: blue first
        ("8UC4", np.concatenate([RGB[..., ::-1], ALPHA], axis=2)),
    ],
)
def test_colour(encoding: str, pixels: np.ndarray, padding: int) -> None:
    np.testing.assert_array_equal(to_rgb(image(encoding, np.ascontiguousarray(pixels), padding)), RGB)


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize(
    ("encoding", "pixels"),
    [
        ("rgb16", RGB),
        ("bgr16", RGB[..., ::-1]),
        ("rgba16", np.concatenate([RGB, ALPHA], axis=2)),
        ("bgra16", np.concatenate([RGB[..., ::-1], ALPHA], axis=2)),
        ("16UC3", RGB[..., ::-1]),
        ("16UC4", np.concatenate([RGB[..., ::-1], ALPHA], axis=2)),
    ],
)
def test_colours_of_16_bits_keep_their_high_byte(encoding: str, pixels: np.ndarray, big_endian: bool) -> None:
    wide = pixels.astype(np.uint16) * 256 + 99
    np.testing.assert_array_equal(to_rgb(image(encoding, wide, padding=3, big_endian=big_endian)), RGB)


@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
@pytest.mark.parametrize("padding", [0, 4])
def test_mono8(padding: int, encoding: str) -> None:
    gray = RGB[..., 0].copy()
    np.testing.assert_array_equal(to_rgb(image(encoding, gray, padding)), np.repeat(gray[..., None], 3, axis=2))


@pytest.mark.parametrize("padding", [0, 3, 6])
@pytest.mark.parametrize("encoding", ["mono16", "16UC1"])
@pytest.mark.parametrize("big_endian", [False, True])
def test_mono16_is_the_high_byte(padding: int, big_endian: bool, encoding: str) -> None:
    expected = np.repeat((GRAY16 // 256).astype(np.uint8)[..., None], 3, axis=2)
    np.testing.assert_array_equal(to_rgb(image(encoding, GRAY16, padding, big_endian)), expected)


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("encoding", BAYER)
def test_bayer(encoding: str, padding: int) -> None:
    pattern, bits = BAYER[encoding]
    pixels = mosaic(pattern) if bits == 8 else mosaic(pattern).astype(np.uint16) * 256 + 99
    rgb = to_rgb(image(encoding, pixels, padding))
    np.testing.assert_array_equal(rgb, np.broadcast_to(COLOUR, (6, 8, 3)))


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize(
    ("encoding", "order"), [("yuv422", "UYVY"), ("uyvy", "UYVY"), ("yuv422_yuy2", "YUYV"), ("yuyv", "YUYV")]
)
def test_yuv422(encoding: str, order: str, padding: int) -> None:
    """Left half of one colour, right half of another, so that the pixels' order matters."""
    other = COLOUR[::-1].copy()
    halves = []
    for colour in (COLOUR, other):
        value = dict(zip("YUV", yuv_of(colour), strict=True))
        pair = np.array([value[channel] for channel in order], np.uint8).reshape(1, 2, 2)
        halves.append(np.tile(pair, (6, 2, 1)))
    rgb = to_rgb(image(encoding, np.concatenate(halves, axis=1), padding)).astype(int)
    assert np.abs(rgb[:, :4] - COLOUR.astype(int)).max() <= 3, "left half"
    assert np.abs(rgb[:, 4:] - other.astype(int)).max() <= 3, "right half"


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize(("encoding", "order"), [("nv12", "UV"), ("nv21", "VU")])
def test_yuv420(encoding: str, order: str, padding: int) -> None:
    """Upper half of one colour, lower half of another."""
    other = COLOUR[::-1].copy()
    values = [dict(zip("YUV", yuv_of(colour), strict=True)) for colour in (COLOUR, other)]
    luma = np.repeat([value["Y"] for value in values], 4 * 8).reshape(8, 8)
    chroma = np.array([[[value[channel] for channel in order]] * 4 for value in values for _ in range(2)]).reshape(4, 8)
    message = replace(image(encoding, np.vstack([luma, chroma]).astype(np.uint8), padding), height=8)
    rgb = to_rgb(message).astype(int)
    assert rgb.shape == (8, 8, 3)
    assert np.abs(rgb[:4] - COLOUR.astype(int)).max() <= 3 and np.abs(rgb[4:] - other.astype(int)).max() <= 3
    with pytest.raises(ValueError, match="size 8 x 7 is odd"):
        to_rgb(replace(message, height=7))
    with pytest.raises(ValueError, match=r"data has \d+ bytes; 12 rows of step"):
        to_rgb(replace(message, data=bytes(message.data)[: -1 - padding]))


def test_every_encoding_is_tested_or_an_alias() -> None:
    colours = {f"{order}{bits}" for order in ("rgb", "bgr", "rgba", "bgra", "mono") for bits in (8, 16)}
    plain = {f"{bits}UC{channels}" for bits in (8, 16) for channels in (1, 3, 4)}
    assert set(ENCODINGS) == colours | plain | {"yuv422", "uyvy", "yuv422_yuy2", "yuyv", "nv12", "nv21", *BAYER}


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8"])
def test_colour_images_may_have_an_odd_width(encoding: str) -> None:
    pixels = RNG.integers(0, 256, (3, 5, len(encoding) - 1), np.uint8)
    expected = pixels[..., ::-1] if encoding == "bgr8" else pixels[..., :3]
    assert np.array_equal(to_rgb(image(encoding, pixels)), expected)


def test_rgb8_is_a_view() -> None:
    message = image("rgb8", RGB, padding=4)
    memory = bytearray(message.data)
    rgb = to_rgb(replace(message, data=memory))
    memory[0] = 255 - memory[0]
    assert rgb[0, 0, 0] == memory[0]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            {"encoding": "\x1b[31mred" + "d" * 1_000_000},
            r"'\\x1b\[31mred{90,99}… \(1000008 characters\)' is not supported",
        ),
        ({"height": 0}, "empty: 8 x 0"),
        ({"width": 0}, "empty: 0 x 6"),
        ({"step": 23}, "step is 23 bytes; 8 pixels of rgb8 need at least 24"),
        ({"data": b"abc"}, "data has 3 bytes; 6 rows of step 24 need 144"),
        ({"encoding": "mono16", "width": 13}, "step is 24 bytes; 13 pixels of mono16 need at least 26"),
        ({"encoding": "yuv422", "width": 7}, "width 7 is odd"),
    ],
)
def test_malformed(change: dict, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        to_rgb(replace(image("rgb8", RGB), **change))


@pytest.mark.parametrize("encoding", ["32FC1", "nv24"])
def test_unsupported_encoding_names_itself_the_accepted_and_the_package(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv_bridge", None)  # as where it is not installed
    with pytest.raises(UnsupportedEncoding, match=f"'{encoding}' is not supported; accepted: rgb8, bgr8.*cv_bridge"):
        to_rgb(replace(image("rgb8", RGB), encoding=encoding))


class StandInError(TypeError):
    """As ``cv_bridge.CvBridgeError``."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands in for cv_bridge, to see what it is asked for; says nothing of how cv_bridge converts."""
    asked: list[str] = []

    class CvBridge:
        def imgmsg_to_cv2(self, message: FakeImage, desired_encoding: str) -> np.ndarray:
            asked.append(desired_encoding)
            if message.encoding == "32FC1":
                raise StandInError("[32FC1] is not a color format")
            return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)

    module = types.ModuleType("cv_bridge")
    module.CvBridge, module.CvBridgeError = CvBridge, StandInError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cv_bridge", module)
    return asked


def test_cv_bridge_converts_other_colours(asked: list[str]) -> None:
    np.testing.assert_array_equal(to_rgb(replace(image("rgb8", RGB), encoding="nv24")), RGB)
    assert asked == ["rgb8"]


def test_what_cv_bridge_refuses_is_unsupported(asked: list[str]) -> None:
    with pytest.raises(UnsupportedEncoding, match=r"'32FC1' .* can't convert it: \[32FC1\] is not a color format"):
        to_rgb(replace(image("rgb8", RGB), encoding="32FC1"))


@pytest.mark.parametrize("padding", [0, 3])
def test_mask(padding: int) -> None:
    gray = np.where(RGB[..., 1] > 128, RGB[..., 1], 0).astype(np.uint8)
    np.testing.assert_array_equal(mono8_mask(image("mono8", gray, padding)), gray > 0)
    with pytest.raises(ValueError, match="'rgb8' is not supported; accepted: mono8"):
        mono8_mask(image("rgb8", RGB))


def test_compressed() -> None:
    _, png = cv2.imencode(".png", RGB[..., ::-1])
    np.testing.assert_array_equal(decode_compressed(png.tobytes(), "png"), RGB)
    smooth = np.full((16, 16, 3), COLOUR, np.uint8)
    _, jpeg = cv2.imencode(".jpg", smooth[..., ::-1])
    assert np.abs(decode_compressed(jpeg.tobytes(), "jpeg").astype(int) - smooth).max() <= 3


@pytest.mark.parametrize("data", [b"", b"not an image"])
def test_compressed_rubbish(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"format '(\\n){14}'\) can't be decoded: \d+ bytes .* accepted: JPEG or PNG"):
        decode_compressed(data, "\n" * 14)


def test_the_padding_of_the_last_row_may_be_missing() -> None:
    message = image("rgb8", RGB, padding=5)
    np.testing.assert_array_equal(to_rgb(replace(message, data=bytes(message.data)[:-5])), RGB)
    with pytest.raises(ValueError, match="data has 168 bytes; 6 rows of step 29 need 169"):
        to_rgb(replace(message, data=bytes(message.data)[:-6]))


def compressed_depth(values: np.ndarray, scale: float = 0.0, offset: float = 0.0) -> bytes:
    """As image_transport's compressedDepth writes it."""
    return struct.pack("<iff", 0, scale, offset) + cv2.imencode(".png", values)[1].tobytes()


def test_compressed_depth_in_millimetres() -> None:
    for encoding in ("16UC1; compressedDepth png", "16UC1; compressedDepth"):
        values, unit = compressed_depth_rows(compressed_depth(GRAY16), encoding)
        np.testing.assert_array_equal(values, GRAY16)
        assert unit == 0.001


def test_compressed_depth_in_metres_is_quantised_by_its_inverse() -> None:
    metres = np.array([[0.3, 1.0], [4.5, np.nan]], np.float32)
    quantum, furthest = 100.0, 10.0  # image_transport's defaults
    scale = quantum * (quantum + 1)
    offset = 1 - scale / furthest
    inverse = np.nan_to_num(scale / metres + offset).astype(np.uint16)
    values, unit = compressed_depth_rows(compressed_depth(inverse, scale, offset), "32FC1; compressedDepth png")
    assert unit == 1.0 and np.isnan(values[1, 1])
    np.testing.assert_allclose(values.ravel()[:3], metres.ravel()[:3], rtol=3e-3)


def test_compressed_depth_as_rvl() -> None:
    coded = struct.pack("<iffII", 0, 0.0, 0.0, GRAY16.shape[1], GRAY16.shape[0]) + rvl(GRAY16)
    values, unit = compressed_depth_rows(coded, "16UC1; compressedDepth rvl")
    np.testing.assert_array_equal(values, GRAY16)
    assert unit == 0.001


@pytest.mark.parametrize(
    ("data", "encoding", "reason"),
    [
        (bytes(40), "16UC1; compressedDepth zip", "'16UC1; compressedDepth zip' is not supported; .*png' or rvl"),
        (bytes(40), "16UC1; compressedDepth rvl", "RVL image of 0 x 0"),
        (bytes(12) + b"x" * 7, "16UC1; compressedDepth rvl", "the RVL image is damaged"),
        (bytes(12) + struct.pack("<II", 1 << 16, 1 << 16), "16UC1; compressedDepth rvl", "65536 x 65536 pixels"),
        (bytes(40), "jpeg", "depth format 'jpeg' is not supported"),
        (b"", "16UC1; compressedDepth png", "neither JPEG nor PNG"),
        (compressed_depth(GRAY16)[:40], "32FC1; compressedDepth png", "can't be decoded: the PNG"),
        (compressed_depth(RGB), "16UC1; compressedDepth png", "one channel with 16 bits"),
    ],
)
def test_compressed_depth_that_is_none(data: bytes, encoding: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        compressed_depth_rows(data, encoding)


@pytest.mark.parametrize(("encoding", "dtype", "unit"), [("16UC1", np.uint16, 0.001), ("32FC1", np.float32, 1.0)])
@pytest.mark.parametrize("padding", [0, 6])
def test_depth_is_viewed_with_its_unit(encoding: str, dtype: type, unit: float, padding: int) -> None:
    depth: np.ndarray = np.arange(20).astype(dtype).reshape(4, 5)
    values, metres = depth_rows(image(encoding, depth, padding))
    np.testing.assert_array_equal(values, depth)
    assert metres == unit


def test_depth_in_colours_is_refused() -> None:
    with pytest.raises(ValueError, match=r"depth encoding 'rgb8' is not supported; accepted: .*16UC1"):
        depth_rows(image("rgb8", RGB))
