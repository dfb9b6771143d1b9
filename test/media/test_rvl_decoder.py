"""RVL against an encoder that is written as the paper tells it, one pixel after the other."""

from __future__ import annotations

import struct
from contextlib import suppress

import numpy as np
import pytest
from rvl_encoder import rvl

from sam2_ros.media.picture_decoder import PictureError
from sam2_ros.media.rvl_decoder import decode_rvl


def test_what_was_encoded_comes_back() -> None:
    source = np.random.default_rng(0)
    smooth = (1000 + 200 * np.sin(np.arange(48)[:, None] / 9) + np.arange(64)).astype(np.uint16)
    holes = np.where(source.random((48, 64)) < 0.3, 0, smooth).astype(np.uint16)
    noise = source.integers(0, 1 << 16, (48, 64)).astype(np.uint16)
    extremes = np.array([[0, 65535, 0, 1], [65535, 1, 0, 0]], np.uint16)
    for image in (smooth, holes, noise, extremes, np.zeros((3, 5), np.uint16), smooth[:1, :1]):
        np.testing.assert_array_equal(decode_rvl(rvl(image), image.shape[1], image.shape[0]), image)


def test_a_word_of_the_paper() -> None:
    """No zeros, two values: 1 and 3. So the differences 1 and 2, as 2 and 4: the nibbles 0, 2, 2, 4."""
    np.testing.assert_array_equal(decode_rvl(struct.pack("<I", 0x02240000), 2, 1), [[1, 3]])


def test_damaged_data_are_refused() -> None:
    image = np.arange(1, 3073, dtype=np.uint16).reshape(48, 64)
    whole = rvl(image)
    for data in (b"", whole[:3], whole[:-4], bytes(400), b"\xff" * 400, whole[4:], struct.pack("<I", 0x01300000)):
        with pytest.raises(PictureError, match="the RVL image is damaged"):
            decode_rvl(data, 64, 48)
    for data in (whole, rvl(image[:40])):
        with pytest.raises(PictureError):
            decode_rvl(data, 64, 44)
    for width, height in ((0, 1), (1, 0), (1 << 31, 1 << 31), (1 << 12, (1 << 10) + 1)):
        with pytest.raises(PictureError, match="accepted: up to"):
            decode_rvl(whole, width, height)


def test_any_bytes_are_an_image_or_refused() -> None:
    source = np.random.default_rng(1)
    whole = np.frombuffer(rvl(source.integers(0, 2000, (12, 16)).astype(np.uint16)), np.uint8)
    for _ in range(2000):
        data = whole.copy()
        data[source.integers(0, len(data), 3)] = source.integers(0, 256, 3)
        with suppress(PictureError):
            assert decode_rvl(data.tobytes(), 16, 12).shape == (12, 16)
