"""Reads the frames of a video file with the numbers and times that the file gives them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import cv2
from numpy.typing import NDArray

from sam2_ros.media.errors import UserError
from sam2_ros.media.source_frame import DEFAULT_FPS, Frame, note, same_size, to_rgb
from sam2_ros.text import counted, without_password

_NAMED = 10  # missing frames that a message names


class VideoFile:
    """The frames of a video, named by their six-digit number.

    A frame's number is its place among all frames that the file holds, also if some can't be decoded. Its stamp is
    the file's timestamp, or made from ``fps`` where that is given or the timestamps make no sense.

    Iterating says on stderr which frames could not be decoded. It ends with a UserError if frames are missing at the
    end, or at a place that nobody can tell.
    """

    def __init__(self, path: Path | str, fps: float | None = None, parameters: tuple[int, ...] = ()) -> None:
        """``parameters`` are for OpenCV: properties and their values in turn."""
        self._path = str(path)
        self._name = without_password(self._path)
        self._parameters = parameters
        with self._open() as capture:
            announced = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
            self.fps = fps or frame_rate(capture)
        self._announced = max(announced, 0)
        self._stamps = self._timestamps()
        self.length: int | None = len(self._stamps) or self._announced or None
        self._own_times = not fps and self._rate_makes_sense()

    def __iter__(self) -> Iterator[Frame]:
        numbers = {stamp: number for number, stamp in enumerate(self._stamps)}
        shape: tuple[int, ...] | None = None
        missing: list[int] = []
        number = time = -1
        with self._open() as capture:
            for bgr, stamp in _images(capture, len(self._stamps)):
                last, number = number, numbers.get(stamp, number + 1)
                if number <= last:
                    number = last + 1
                missing += range(last + 1, number)
                shape = same_size(bgr, shape, f"{self._name}, frame {number}")
                time = max(self._stamp(number), time + 1)
                yield Frame(number, f"{number:06d}", time, to_rgb(bgr))
        if shape is None:
            raise UserError(f"{self._name}: no frame could be decoded")
        if missing:
            note(f"{self._name}: damaged; frames that could not be decoded: {_listed(missing)}")
        self._check_end(number + 1)

    def _check_end(self, end: int) -> None:
        """
        Raises:
            UserError: ``end``, the number after the last frame, is not where the video ends.
        """
        cut, announced = _is_cut(self._path), max(self._announced, len(self._stamps))
        if end < len(self._stamps) or (cut and end < announced):
            raise UserError(
                f"{self._name}: damaged or cut; it announces {counted(announced, 'frame')}, and only those up to "
                f"{end - 1} could be read (the first one is frame 0)"
            )
        if self._is_avi() and self._frames_in_time() < announced:
            raise UserError(
                f"{self._name}: damaged; it announces {counted(announced, 'frame')} and holds {end}. Which ones are "
                "missing can't be told, so the numbers and times of the frames may be too low"
            )

    def _frames_in_time(self) -> int:
        """Frames by the timestamps: also those that an AVI file leaves out because nothing changed."""
        return round((self._stamps[-1] - self._stamps[0]) * self.fps / 1000) + 1 if self._stamps else self._announced

    def _is_avi(self) -> bool:
        """Other formats may announce frames on purpose that are not shown, or only estimate their number."""
        return _begin(self._path)[:4] == b"RIFF"

    def _stamp(self, number: int) -> int:
        if self._own_times and number < len(self._stamps):
            return round((self._stamps[number] - self._stamps[0]) * 1e6)
        return round(number * 1e9 / self.fps)

    def _timestamps(self) -> list[float]:
        """Of all frames in the file, in milliseconds and in order; empty if they can't be told. Decodes nothing."""
        stamps = []
        with self._open() as capture:
            if capture.set(cv2.CAP_PROP_FORMAT, -1):
                while capture.grab():
                    stamps.append(float(capture.get(cv2.CAP_PROP_POS_MSEC)))
        stamps.sort()
        if not all(before < after for before, after in pairwise(stamps)):
            note(f"{self._name}: its timestamps make no sense; frames are taken as {self.fps:g} a second")
            return []
        hidden = 0 < self._announced < len(stamps) - 1  # VP8 has packets that only prepare others
        return [] if hidden else stamps

    def _rate_makes_sense(self) -> bool:
        if len(self._stamps) < 2:
            return False
        rate = 1000 * (len(self._stamps) - 1) / (self._stamps[-1] - self._stamps[0])
        if not 0.1 < rate < 1000:
            note(f"{self._name}: {rate:g} frames a second by its timestamps; they are taken as {self.fps:g} a second")
        return 0.1 < rate < 1000

    @contextmanager
    def _open(self) -> Iterator[cv2.VideoCapture]:
        with capturing(self._path, f"{self._name}: not a video that OpenCV can read", self._parameters) as capture:
            yield capture


@contextmanager
def capturing(
    source: str | int, problem: str, parameters: tuple[int, ...] = (), backend: int = cv2.CAP_ANY
) -> Iterator[cv2.VideoCapture]:
    """Opens a video file or a live source, and releases it at the end; a UserError says ``problem`` if it can't."""
    if parameters:
        capture = cv2.VideoCapture(source, cv2.CAP_FFMPEG, parameters)  # others know no parameters
    else:
        capture = cv2.VideoCapture(source, backend)
    if not capture.isOpened():
        raise UserError(problem)
    try:
        yield capture
    finally:
        capture.release()


def frame_rate(capture: cv2.VideoCapture) -> float:
    """The announced frames a second, or a default if they make no sense."""
    announced = float(capture.get(cv2.CAP_PROP_FPS))
    return announced if 0.1 < announced < 1000 else DEFAULT_FPS


def _images(capture: cv2.VideoCapture, held: int) -> Iterator[tuple[NDArray[Any], float]]:
    """Decoded images with their timestamps in milliseconds; goes on after one of ``held`` that can't be decoded."""
    for _ in range(held) if held else count():
        read, bgr = capture.read()
        if read:
            yield bgr, float(capture.get(cv2.CAP_PROP_POS_MSEC))
        elif not held:
            return


def _is_cut(path: str) -> bool:
    """Whether an MP4, MOV or AVI file ends before the place that its own structure names."""
    begin = _begin(path)
    if not begin:
        return False
    size = os.path.getsize(path)
    if begin[:4] == b"RIFF":
        return 8 + int.from_bytes(begin[4:8], "little") > size
    if begin[4:8] != b"ftyp":
        return False
    place = 0
    with Path(path).open("rb") as file:
        for _ in range(1000):  # boxes; a fragmented file has more
            file.seek(place)
            header = file.read(16)
            length = int.from_bytes(header[:4], "big")
            if length == 1:
                length = int.from_bytes(header[8:], "big")
            if len(header) < 8 or length < 8:  # the end, or a last box of any length
                return False
            place += length
            if place > size:
                return True
    return False


def _begin(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(16)
    except OSError:  # an address
        return b""


def _listed(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:_NAMED]))
    return f"{shown} and {len(numbers) - _NAMED} more" if len(numbers) > _NAMED else shown
