"""Masks as PNG files, and several masks as one label image (pixel = object id, 0 = background)."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sam2_ros.media.errors import UserError
from sam2_ros.media.input_files import read_file
from sam2_ros.media.picture_decoder import MAX_PIXELS, PictureError, read_header
from sam2_ros.media.whole_files import write_whole
from sam2_ros.tracking.types import BoolMask, ObjectResult

LabelImage = NDArray[np.uint8 | np.uint16]
MAX_ID = 65535  # what 16 bits hold
MAX_BYTES = 1 << 26  # of a file
_MAKER = "Software"  # a keyword of the PNG standard


def palette() -> NDArray[np.uint8]:
    """The 256 colours ``[256, 3]`` of PASCAL VOC and DAVIS.

    Bit 3k of an index goes to red, 3k + 1 to green, 3k + 2 to blue, the lowest to the most significant bit.
    """
    index = np.arange(256)
    colors = np.zeros((256, 3), np.uint8)
    for k in range(3):
        for channel in range(3):
            colors[:, channel] |= (((index >> (3 * k + channel)) & 1) << (7 - k)).astype(np.uint8)
    return colors


def compose_labels(
    objects: Iterable[tuple[int, ObjectResult]], height: int, width: int, wide: bool = False
) -> LabelImage:
    """One image of several masks, ``uint8`` or, if ``wide``, ``uint16 [height, width]``.

    ``objects`` are pairs: the id to write, and the object. Where masks overlap, the object with the higher predicted
    IoU gets the pixel; between equals, the lower id.

    Raises:
        ValueError: an id that the image cannot hold.
    """
    labels: LabelImage = np.zeros((height, width), np.uint16 if wide else np.uint8)
    limit = MAX_ID if wide else 255
    for object_id, result in sorted(objects, key=lambda pair: (pair[1].predicted_iou, -pair[0])):
        if not 1 <= object_id <= limit:
            raise ValueError(f"object id {object_id} does not fit a label image; accepted: 1 to {limit}")
        mask = result.mask
        rows, columns = mask.crop.shape
        labels[mask.y : mask.y + rows, mask.x : mask.x + columns][mask.crop] = object_id
    return labels


def contours(crop: BoolMask, x: int = 0, y: int = 0) -> list[tuple[NDArray[np.int16], bool]]:
    """The borders of a mask and of its holes: ``int16 [n, 2]``, x and y in pixels, and whether it is a hole's.

    The borders run through the centres of the mask's outermost pixels. A pixel belongs to the mask if its centre lies
    on a border or, by the even-odd rule, inside.

    Args:
        crop: ``bool [h, w]``.
        x, y: place of its top-left pixel in the image.
    """
    import cv2  # not needed to read prompts

    found, tree = cv2.findContours(crop.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=(x, y))
    if tree is None:
        return []
    parents = tree.reshape(-1, 4)[:, 3]
    return [
        (contour.reshape(-1, 2).astype(np.int16), bool(parent >= 0))
        for contour, parent in zip(found, parents, strict=True)
    ]


def write_labels(path: Path, labels: LabelImage, maker: str = "") -> None:
    """Writes a label image: ``uint8`` as palette PNG, ``uint16`` as 16-bit grayscale PNG.

    ``maker`` is stored in the file, for :func:`maker_of`.

    Raises:
        WriteError: it can't be written there.
    """
    image = Image.fromarray(labels)
    if labels.dtype == np.uint8:
        image.putpalette(palette().tobytes())
    about = PngInfo()
    if maker:
        about.add_text(_MAKER, maker)
    content = io.BytesIO()
    image.save(content, format="PNG", pnginfo=about)
    write_whole(path, content.getvalue())


def maker_of(path: Path) -> str:
    """What :func:`write_labels` stored as ``maker``; empty for another or unreadable file."""
    try:
        with Image.open(path) as image:
            return str(image.info.get(_MAKER, ""))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ""


def read_labels(path: Path) -> LabelImage:
    """Reads a label image: palette, grayscale (8 or 16 bits) or black-and-white PNG, ``[H, W]``.

    Raises:
        UserError: missing, unreadable, too large, or a colour image.
    """
    content = read_file(path, MAX_BYTES)
    try:
        header = read_header(content)
        if header.width * header.height > MAX_PIXELS:
            size = f"{header.width} x {header.height} pixels"
            raise PictureError(f"it has {size}; accepted: up to {MAX_PIXELS} in all")
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            mode = image.mode
            pixels = np.asarray(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = error if content.startswith(b"\x89PNG") else "it is no PNG"
        raise UserError(f"{path}: not a readable image ({reason}); accepted: PNG") from None
    if pixels.ndim != 2:
        raise UserError(f"{path}: a colour image (mode {mode}); accepted: palette, grayscale or black-and-white PNG")
    return pixels.astype(np.uint8 if mode in ("P", "L", "1") else np.uint16)


def read_mask(path: Path) -> BoolMask:
    """Reads a mask, ``bool [H, W]``: every pixel above 0 is the object.

    Raises:
        UserError: as :func:`read_labels`.
    """
    return np.asarray(read_labels(path) > 0)
