"""Reads frames from a camera or an address as they come; a source that stalls ends with an error."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager

import cv2

from sam2_ros.media.errors import UserError
from sam2_ros.media.source_frame import Frame, Source, same_size, to_rgb
from sam2_ros.media.video_file import VideoFile, capturing, frame_rate
from sam2_ros.text import counted, without_password

ADDRESSES = ("rtsp://", "rtsps://", "http://", "https://", "rtmp://", "udp://")
STALL_S = 10  # seconds without an answer or a frame; OpenCV's own limit for cameras is the same
_LIMITS = (cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, STALL_S * 1000, cv2.CAP_PROP_READ_TIMEOUT_MSEC, STALL_S * 1000)


class Camera:
    """An endless camera, by its number (``0``) or device (``/dev/video0``); a frame's stamp is when it arrived."""

    def __init__(self, name: str) -> None:
        self._source: str | int = int(name) if name.isdecimal() else name
        self._name = f"camera {name}"
        with self._open() as capture:
            self.fps = frame_rate(capture)
        self.length: int | None = None

    def __iter__(self) -> Iterator[Frame]:
        count, shape = 0, None
        with self._open() as capture:
            while (read := capture.read())[0]:
                shape = same_size(read[1], shape, f"{self._name}, frame {count}")
                yield Frame(count, f"{count:06d}", time.time_ns(), to_rgb(read[1]))
                count += 1
        raise UserError(
            f"{self._name} stopped delivering after {counted(count, 'frame')}, or sent none for {STALL_S} s"
        )

    def _open(self) -> AbstractContextManager[cv2.VideoCapture]:
        accepted = "accepted: the number (0, 1, …) or device (/dev/video0) of a connected camera"
        backend = cv2.CAP_ANY if isinstance(self._source, int) else cv2.CAP_V4L2
        return capturing(self._source, f"{self._name} can't be opened; {accepted}", backend=backend)


class LiveStream(Camera):
    """An endless stream from a network address; a frame's stamp is when it arrived."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self._name = without_password(address)

    def _open(self) -> AbstractContextManager[cv2.VideoCapture]:
        return _open(str(self._source))


def open_address(address: str, fps: float | None) -> Source:
    """A video behind an address if it has an end, else a live stream.

    Raises:
        UserError: nothing there that can be read, or no answer within STALL_S.
    """
    with _open(address) as capture:
        has_end = capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0
    return VideoFile(address, fps, _LIMITS) if has_end else LiveStream(address)


def _open(address: str) -> AbstractContextManager[cv2.VideoCapture]:
    accepted = "accepted: the address of a video or of a camera's stream"
    problem = f"{without_password(address)} can't be opened, or did not answer within {STALL_S} s; {accepted}"
    return capturing(address, problem, _LIMITS)
