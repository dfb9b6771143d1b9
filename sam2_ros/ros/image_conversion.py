"""ROS images as RGB arrays: NumPy where a view serves, OpenCV for other common encodings, cv_bridge for the rest.

Any ``step`` and both byte orders are accepted. ``sensor_msgs/image_encodings.hpp`` defines the encodings. To add a
packed one, add its row to ``_READERS``. Two channels mean 4:2:2, and 16-bit values keep their high byte. Encodings
without colours, such as ``8UC3``, are gray, BGR or BGRA: OpenCV's channel order.
"""

from __future__ import annotations

import struct
from array import array
from typing import Protocol, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from sam2_ros.media.picture_decoder import PictureError, decode_depth_png, decode_picture
from sam2_ros.media.rvl_decoder import decode_rvl
from sam2_ros.text import printable

Rgb = NDArray[np.uint8]
Buffer: TypeAlias = "bytes | bytearray | array[int]"


class ImageLike(Protocol):
    """The fields of ``sensor_msgs/Image`` that matter here."""

    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int  # bytes from one row to the next
    data: Buffer


class UnsupportedEncoding(ValueError):
    """An encoding that is not accepted; ``encoding`` is its name."""

    def __init__(self, encoding: str, reason: str) -> None:
        self.encoding = printable(encoding)
        accepted = ", ".join(ENCODINGS)
        super().__init__(f"image encoding '{self.encoding}' is not supported; accepted: {accepted}; {reason}")


def to_rgb(image: ImageLike) -> Rgb:
    """The image as RGB, ``uint8 [H, W, 3]``; for ``rgb8`` a view of the message's own memory.

    ``mono16`` keeps its high byte (value >> 8), so that 65535 is white whatever the camera's true depth. ``mono8`` and
    ``mono16`` give three equal channels, alpha is dropped, Bayer patterns are interpolated bilinearly. Encodings that
    are not in :data:`ENCODINGS` go through cv_bridge where it is installed.

    Raises:
        UnsupportedEncoding: cv_bridge is needed and missing, or can't convert the encoding either.
        ValueError: size, step and data do not fit together; the message says how.
    """
    if image.encoding in _PLANAR:
        return _planar(image)
    if image.encoding not in _READERS:
        return _by_cv_bridge(image)
    channels, item, code = _READERS[image.encoding]
    pixels = _rows(image, channels, item)
    if channels == 2 and image.width % 2:
        raise ValueError(f"a 4:2:2 image has two pixels to a colour; its width {image.width} is odd")
    return _convert(pixels, code)


def mono8_mask(image: ImageLike) -> NDArray[np.bool_]:
    """A mask from a ``mono8`` (or ``8UC1``) image: ``bool [H, W]``, > 0 = object.

    Raises:
        ValueError: another encoding, or size, step and data that do not fit together.
    """
    if image.encoding not in ("mono8", "8UC1"):
        raise ValueError(f"mask encoding '{printable(image.encoding)}' is not supported; accepted: mono8")
    return np.asarray(_rows(image, 1, "u1") > 0)


def decode_compressed(data: Buffer, encoding: str = "") -> Rgb:
    """A JPEG or PNG (``sensor_msgs/CompressedImage.data``) as RGB, ``uint8 [H, W, 3]``; see :mod:`picture_decoder`.

    Raises:
        ValueError: the data can't be decoded. ``encoding`` (the message's ``format``) is named in the error.
    """
    try:
        return decode_picture(data)
    except PictureError as error:
        raise ValueError(f"compressed image (format '{printable(encoding)}') can't be decoded: {error}") from None


def depth_rows(image: ImageLike) -> tuple[NDArray, float]:
    """A view of a depth image's values, ``[H, W]``, and the metres to a unit (REP-118: 16UC1 in mm, 32FC1 in m).

    Raises:
        ValueError: another encoding, or size, step and data that do not fit together.
    """
    try:
        item, unit = _DEPTH[image.encoding]
    except KeyError:
        accepted = ", ".join(_DEPTH)
        raise ValueError(
            f"depth encoding '{printable(image.encoding)}' is not supported; accepted: {accepted}"
        ) from None
    return _rows(image, 1, item), unit


def compressed_depth_rows(data: Buffer, encoding: str) -> tuple[NDArray, float]:
    """As :func:`depth_rows`, of what image_transport's ``compressedDepth`` publishes with its format png or rvl.

    Args:
        data: the message's data: twelve bytes of settings, and a PNG of 16 bits; or width, height and RVL.
        encoding: the message's format, ``16UC1; compressedDepth png``.

    Raises:
        ValueError: another format, or damaged data.
    """
    kind, _, transport = encoding.partition(";")
    words = transport.split()
    if kind not in _DEPTH or words[:1] != ["compressedDepth"] or words[1:] not in ([], ["png"], ["rvl"]):
        raise ValueError(
            f"depth format '{printable(encoding)}' is not supported; accepted: '16UC1; compressedDepth png' or rvl, "
            "and the same of 32FC1"
        )
    settings, coded = bytes(data[:12]), bytes(data[12:])
    try:
        values = decode_rvl(coded[8:], *_rvl_size(coded)) if words[1:] == ["rvl"] else decode_depth_png(coded)
    except PictureError as error:
        raise ValueError(f"a depth image can't be decoded: {error}") from None
    if kind == "16UC1":
        return values, _DEPTH[kind][1]
    _, scale, offset = struct.unpack("<iff", settings)  # the PNG holds scale / metres + offset; 0 = no depth
    with np.errstate(all="ignore"):
        metres = np.float32(scale) / (values.astype(np.float32) - np.float32(offset))
    metres[values == 0] = np.nan
    return metres, _DEPTH[kind][1]


def _rvl_size(coded: bytes) -> tuple[int, int]:
    if len(coded) < 8:
        raise PictureError("the RVL image is damaged")
    width, height = struct.unpack_from("<II", coded)
    return width, height


def _planar(image: ImageLike) -> Rgb:
    """4:2:0: a plane of luma and, below it, one of half as many rows in which U and V take turns."""
    if image.width % 2 or image.height % 2:
        raise ValueError(f"a 4:2:0 image has four pixels to a colour; its size {image.width} x {image.height} is odd")
    both = _rows(image, 1, "u1", image.height * 3 // 2)
    return np.asarray(cv2.cvtColor(both, _PLANAR[image.encoding]), np.uint8)


def _by_cv_bridge(image: ImageLike) -> Rgb:
    try:
        from cv_bridge import CvBridge
    except ImportError as error:
        raise UnsupportedEncoding(image.encoding, f"install cv_bridge for others ({error})") from None
    try:
        return np.asarray(CvBridge().imgmsg_to_cv2(image, "rgb8"))
    except TypeError as error:  # a CvBridgeError, or too few bytes
        raise UnsupportedEncoding(image.encoding, f"cv_bridge can't convert it: {printable(error, 300)}") from None


def _rows(image: ImageLike, channels: int, item: str, rows: int = 0) -> NDArray:
    """A view of the pixels, ``[H, W]`` or ``[H, W, channels]``, without the padding at the rows' ends.

    Args:
        rows: the height, if it is not the image's.
    """
    height, width, step = rows or image.height, image.width, image.step
    dtype = np.dtype(f"{'>' if image.is_bigendian else '<'}{item}")
    if height == 0 or width == 0:
        raise ValueError(f"image is empty: {width} x {height} pixels")
    row_bytes = width * channels * dtype.itemsize
    if step < row_bytes:
        raise ValueError(f"step is {step} bytes; {width} pixels of {image.encoding} need at least {row_bytes}")
    needed = step * (height - 1) + row_bytes  # some drivers leave out the padding of the last row
    if len(image.data) < needed:
        raise ValueError(f"data has {len(image.data)} bytes; {height} rows of step {step} need {needed}")
    pixels = np.ndarray((height, row_bytes), np.uint8, image.data, strides=(step, 1)).view(dtype)
    return pixels if channels == 1 else pixels.reshape(height, width, channels)


def _convert(pixels: NDArray, code: int | None) -> Rgb:
    """Keeps the high byte of 16-bit pixels and converts the colours by an OpenCV code; None leaves them as they are."""
    if pixels.dtype.itemsize == 2:
        pixels = (pixels >> 8).astype(np.uint8)
    return pixels if code is None else np.asarray(cv2.cvtColor(pixels, code), np.uint8)


# By encoding: channels, item, OpenCV's code. OpenCV names a Bayer pattern by the second and third pixel of the second
# row, ROS by the first two pixels of the first row and of the second: hence the crossed names.
_READERS: dict[str, tuple[int, str, int | None]] = {
    "rgb8": (3, "u1", None),
    "bgr8": (3, "u1", cv2.COLOR_BGR2RGB),
    "rgba8": (4, "u1", cv2.COLOR_RGBA2RGB),
    "bgra8": (4, "u1", cv2.COLOR_BGRA2RGB),
    "mono8": (1, "u1", cv2.COLOR_GRAY2RGB),
    "mono16": (1, "u2", cv2.COLOR_GRAY2RGB),
    "8UC1": (1, "u1", cv2.COLOR_GRAY2RGB),
    "8UC3": (3, "u1", cv2.COLOR_BGR2RGB),
    "8UC4": (4, "u1", cv2.COLOR_BGRA2RGB),
    "rgb16": (3, "u2", None),
    "bgr16": (3, "u2", cv2.COLOR_BGR2RGB),
    "rgba16": (4, "u2", cv2.COLOR_RGBA2RGB),
    "bgra16": (4, "u2", cv2.COLOR_BGRA2RGB),
    "16UC1": (1, "u2", cv2.COLOR_GRAY2RGB),
    "16UC3": (3, "u2", cv2.COLOR_BGR2RGB),
    "16UC4": (4, "u2", cv2.COLOR_BGRA2RGB),
    "bayer_rggb8": (1, "u1", cv2.COLOR_BayerBG2RGB),
    "bayer_bggr8": (1, "u1", cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg8": (1, "u1", cv2.COLOR_BayerGR2RGB),
    "bayer_grbg8": (1, "u1", cv2.COLOR_BayerGB2RGB),
    "bayer_rggb16": (1, "u2", cv2.COLOR_BayerBG2RGB),
    "bayer_bggr16": (1, "u2", cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg16": (1, "u2", cv2.COLOR_BayerGR2RGB),
    "bayer_grbg16": (1, "u2", cv2.COLOR_BayerGB2RGB),
    "yuv422": (2, "u1", cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": (2, "u1", cv2.COLOR_YUV2RGB_UYVY),  # its newer name
    "yuv422_yuy2": (2, "u1", cv2.COLOR_YUV2RGB_YUY2),
    "yuyv": (2, "u1", cv2.COLOR_YUV2RGB_YUY2),  # its newer name
}

_PLANAR = {"nv12": cv2.COLOR_YUV2RGB_NV12, "nv21": cv2.COLOR_YUV2RGB_NV21}

ENCODINGS = (*_READERS, *_PLANAR)

_DEPTH = {"16UC1": ("u2", 0.001), "32FC1": ("f4", 1.0)}
