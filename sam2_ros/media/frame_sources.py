"""Reads frames from a video file, a folder of images or a camera."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from sam2_ros.media.errors import UserError

Rgb = NDArray[np.uint8]
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
DEFAULT_FPS = 30.0  # if the source gives no rate


@dataclass(frozen=True)
class Frame:
    """One frame: ``rgb`` is ``uint8 [H, W, 3]``, ``stamp`` in nanoseconds (files: from 0 on; camera: Unix time)."""

    index: int
    name: str  # "000012", or the image's file name without suffix
    stamp: int
    rgb: Rgb


class Source(Protocol):
    """A sequence of frames. ``length`` is None if it is unknown; for a video it is what the header says."""

    fps: float
    length: int | None

    def __iter__(self) -> Iterator[Frame]: ...


def open_source(source: str, fps: float | None = None) -> Source:
    """Opens a video file, a folder of numbered images, or a camera (``source`` is its index).

    ``fps`` replaces the frame rate of a file, from which stamps are made.

    Raises:
        UserError: the source can't be read; also while iterating, if the frames change their size.
    """
    path = Path(source)
    if path.is_dir():
        return ImageFolder(path, fps or DEFAULT_FPS)
    if path.is_file():
        return VideoFile(path, fps)
    if source.isdecimal():
        return Camera(int(source))
    raise UserError(f"{source}: no such file or folder; accepted: a video file, a folder of images, or a camera index")


class ImageFolder:
    """The JPEG and PNG images of a folder in numeric order: ``9.jpg`` before ``10.jpg``."""

    def __init__(self, path: Path, fps: float = DEFAULT_FPS) -> None:
        self.fps = fps
        self._files = sorted((f for f in path.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES), key=_numeric_order)
        self.length: int | None = len(self._files)
        if not self._files:
            raise UserError(f"{path}: no images in this folder; accepted: {', '.join(IMAGE_SUFFIXES)}")
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
            bgr = cv2.imread(str(file), cv2.IMREAD_COLOR)
            if bgr is None:
                raise UserError(f"{file}: not a readable image")
            shape = _same_size(bgr, shape, str(file))
            yield Frame(index, file.stem, round(index * 1e9 / self.fps), _to_rgb(bgr))


class VideoFile:
    """The frames of a video file, named by their six-digit number."""

    def __init__(self, path: Path, fps: float | None = None) -> None:
        self._path = path
        with self._open() as capture:
            count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
            self.fps = fps or _frame_rate(capture)
        self.length: int | None = count if count > 0 else None

    def _open(self) -> AbstractContextManager[cv2.VideoCapture]:
        return _capture(str(self._path), f"{self._path}: not a video that OpenCV can read")

    def __iter__(self) -> Iterator[Frame]:
        shape: tuple[int, ...] | None = None
        with self._open() as capture:
            for index, bgr in enumerate(_images(capture)):
                shape = _same_size(bgr, shape, f"{self._path}, frame {index}")
                yield Frame(index, f"{index:06d}", round(index * 1e9 / self.fps), _to_rgb(bgr))
        if shape is None:
            raise UserError(f"{self._path}: no frame could be decoded")


class Camera:
    """An endless camera; a frame's stamp is the time of its arrival."""

    def __init__(self, index: int) -> None:
        self._index = index
        with self._open() as capture:
            self.fps = _frame_rate(capture)
        self.length: int | None = None

    def _open(self) -> AbstractContextManager[cv2.VideoCapture]:
        problem = f"camera {self._index} can't be opened; accepted: the index of a connected camera (0, 1, …)"
        return _capture(self._index, problem)

    def __iter__(self) -> Iterator[Frame]:
        count = 0
        with self._open() as capture:
            for count, bgr in enumerate(_images(capture), start=1):
                yield Frame(count - 1, f"{count - 1:06d}", time.time_ns(), _to_rgb(bgr))
        raise UserError(f"camera {self._index} stopped delivering after {count} frames")


@contextmanager
def _capture(source: str | int, problem: str) -> Iterator[cv2.VideoCapture]:
    """Opens a video file or a camera, and releases it at the end; a UserError says ``problem`` if it can't."""
    capture = cv2.VideoCapture(source)
    if not capture.isOpened():
        raise UserError(problem)
    try:
        yield capture
    finally:
        capture.release()


def _images(capture: cv2.VideoCapture) -> Iterator[NDArray[Any]]:
    while (read := capture.read())[0]:
        yield read[1]


def _frame_rate(capture: cv2.VideoCapture) -> float:
    announced = float(capture.get(cv2.CAP_PROP_FPS))
    return announced if 0.1 < announced < 1000 else DEFAULT_FPS


def _numeric_order(path: Path) -> list[tuple[int, int, str]]:
    """A sort key that compares numbers in a name as numbers."""
    parts = re.split(r"(\d+)", path.stem)
    return [(0, int(part), part) if part.isdigit() else (1, 0, part) for part in parts if part]


def _same_size(bgr: NDArray[Any], shape: tuple[int, ...] | None, where: str) -> tuple[int, ...]:
    if shape is not None and bgr.shape != shape:
        raise UserError(
            f"{where}: {bgr.shape[1]}x{bgr.shape[0]} pixels, but the frames before have {shape[1]}x{shape[0]}; "
            "accepted: frames of one size"
        )
    return bgr.shape


def _to_rgb(bgr: NDArray[Any]) -> Rgb:
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
