"""Reads the images of a folder as frames."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from sam2_ros.media.errors import UserError
from sam2_ros.media.input_files import read_file
from sam2_ros.media.picture_decoder import JPEG_OR_PNG, check_size, decode_pixels
from sam2_ros.media.source_frame import DEFAULT_FPS, Frame, Rgb, note, same_size, to_rgb
from sam2_ros.text import printable

MAX_BYTES = 1 << 29  # of a file
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
_DEPTHS = (8, 10, 12, 14, 16)  # bits of cameras
_SAMPLES = 16  # images that say how many bits a folder of 16-bit images uses


class ImageFolder:
    """The images of a folder in numeric order (``9.jpg`` before ``10.jpg``); hidden files are no frames.

    16-bit images keep the eight highest of the bits that are used, the same for all frames: 12-bit values are divided
    by 16. An orientation tag is obeyed, as image viewers do.

    Args:
        pattern: takes only the files of this name, with ``%d`` or ``%05d`` for the number.
    """

    def __init__(self, path: Path, fps: float = DEFAULT_FPS, pattern: str = "") -> None:
        self.fps = fps
        self._where = path / pattern if pattern else path
        wanted = _pattern(pattern) if pattern else re.compile(r"[^.].*")
        try:
            files = [file for file in path.iterdir() if wanted.fullmatch(file.name)]
        except OSError as error:
            raise UserError(f"{path} can't be read: {error.strerror}") from None
        self._files = sorted((file for file in files if file.suffix.lower() in IMAGE_SUFFIXES), key=_numeric_order)
        self.length: int | None = len(self._files)
        self._depth = 0  # bits used by 16-bit images; 0 = not known yet
        if not self._files:
            folders = any(map(Path.is_dir, path.iterdir()))
            more = f"; its folders are not searched: give one, or several to 'annotate' ({path}/*)" if folders else ""
            raise UserError(f"{self._where}: no images there; accepted: {', '.join(IMAGE_SUFFIXES)}{more}")
        stems = {file.stem for file in self._files}
        if len(stems) < len(self._files):
            raise UserError(f"{path}: two images differ only in the suffix of their names; keep one of each")

    @property
    def names(self) -> list[str]:
        """The frames' names in order: file names without suffix."""
        return [file.stem for file in self._files]

    def __iter__(self) -> Iterator[Frame]:
        shape: tuple[int, ...] | None = None
        for index, file in enumerate(self._files):
            bgr = self._eight_bits(_read(file), file)
            shape = same_size(bgr, shape, str(file))
            yield Frame(index, file.stem, round(index * 1e9 / self.fps), to_rgb(bgr))

    def _eight_bits(self, image: NDArray[Any], file: Path) -> NDArray[Any]:
        if image.dtype == np.uint8:
            return image
        if image.dtype != np.uint16:
            raise UserError(f"{file}: pixels of type {image.dtype}; accepted: 8 or 16 bits a channel")
        if not self._depth:
            self._depth = self._used_bits(image)
        elif int(image.max()) >> self._depth:
            note(f"{file}: values up to {image.max()}, above the {self._depth} bits of the other images, become white")
        return np.minimum(image >> (self._depth - 8), 255).astype(np.uint8)

    def _used_bits(self, image: NDArray[Any]) -> int:
        """Bits of the brightest pixel in some images of the folder. One image alone may be dark."""
        places = sorted({round(place) for place in np.linspace(0, len(self._files) - 1, _SAMPLES)})
        samples = (_read(self._files[place]) for place in places)
        peak = max([int(image.max()), *(int(sample.max()) for sample in samples if sample.dtype == np.uint16)])
        depth = next(bits for bits in _DEPTHS if peak < 1 << bits)
        if depth < 16:
            note(f"{self._where}: 16-bit images with values up to {peak}, read as images of {depth} bits")
        return depth


def images_of(path: Path) -> list[Path]:
    """The images of a folder in numeric order, or the one that ``path`` names; they may differ in size.

    Raises:
        UserError: there is none.
    """
    return ImageFolder(path)._files if path.is_dir() else [path]


def read_image(file: Path) -> Rgb:
    """One image, RGB ``uint8 [H, W, 3]``; 16-bit values as in :class:`ImageFolder`.

    Raises:
        UserError: missing or not readable.
    """
    image = _read(file)
    if image.dtype == np.uint16:
        peak = int(image.max())
        image = (image >> (next(bits for bits in _DEPTHS if peak < 1 << bits) - 8)).astype(np.uint8)
    elif image.dtype != np.uint8:
        raise UserError(f"{file}: pixels of type {image.dtype}; accepted: 8 or 16 bits a channel")
    return to_rgb(image)


def _pattern(text: str) -> re.Pattern[str]:
    """
    Raises:
        UserError: not exactly one number in it.
    """
    parts = re.split(r"%(?:0?(\d{1,2}))?d", text)
    if len(parts) != 3 or "%" in parts[0] + parts[2]:
        raise UserError(f"{text}: accepted: a pattern with one number, such as img_%05d.jpg")
    before, digits, after = parts
    return re.compile(re.escape(before) + rf"\d{{{int(digits or 1)},}}" + re.escape(after))


def _read(file: Path) -> NDArray[Any]:
    """Three channels in OpenCV's order, with the file's own depth."""
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
    try:
        data = read_file(file, MAX_BYTES)
        if data.startswith(JPEG_OR_PNG):
            return decode_pixels(data, flags)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pixels and tags; what is too large is refused here
            with Image.open(io.BytesIO(data)) as header:
                check_size(str(header.format), header.width, header.height)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except UserError:
        raise
    except UnidentifiedImageError:  # its text is of an object in memory
        image = None
    except Exception as error:  # Pillow and OpenCV raise many kinds
        raise UserError(f"{file}: not a readable image ({printable(error, 200)})") from None
    if image is None:
        raise UserError(f"{file}: not a readable image; accepted: images of 8 or 16 bits a channel")
    return image


def _numeric_order(path: Path) -> list[tuple[int, int, str]]:
    """A sort key that compares numbers in a name as numbers."""
    parts = re.split(r"(\d+)", path.stem)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts if part]
