"""Writes a video file."""

from __future__ import annotations

from pathlib import Path

import cv2

from sam2_ros.media.errors import UserError
from sam2_ros.media.overlay import Rgb


class VideoWriter:
    """An mp4 file (MPEG-4 Part 2, which every OpenCV build with FFmpeg writes).

    Raises:
        UserError: at the first frame, when OpenCV can't write there.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self._path = path
        self._fps = fps
        self._writer: cv2.VideoWriter | None = None

    def write(self, rgb: Rgb) -> None:
        """Appends ``uint8 [H, W, 3]``; every frame has the size of the first."""
        if self._writer is None:
            fourcc = cv2.VideoWriter.fourcc(*"mp4v")
            size = (rgb.shape[1], rgb.shape[0])
            self._writer = cv2.VideoWriter(str(self._path), fourcc, self._fps, size)
            if not self._writer.isOpened():
                raise UserError(f"{self._path}: OpenCV can't write a video there; accepted: a path that ends in .mp4")
        self._writer.write(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """Completes the file; without it, it can't be played."""
        if self._writer is not None:
            self._writer.release()
