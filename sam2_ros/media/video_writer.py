"""Writes a video file, or a moving picture for a web page."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from sam2_ros.media.errors import UserError
from sam2_ros.media.overlay import Rgb

MOVING_PICTURES = (".gif", ".webp")
PICTURE_WIDTH = 640  # pixels at most, of a moving picture
PICTURE_FPS = 12.5  # at most; 80 ms a frame, in whole hundredths of a second as GIF has them


class VideoWriter:
    """An mp4 file (MPEG-4 Part 2, which every OpenCV build with FFmpeg writes), or an endless GIF or WebP.

    The file's name decides. A moving picture is scaled down and leaves frames out; it stays in memory until it is
    closed, so it is for short clips.

    Raises:
        UserError: at the first frame, when OpenCV can't write there.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self._path = path
        self._fps = fps
        self._writer: cv2.VideoWriter | None = None
        self._pictures: list[Image.Image] = []
        self._frames = 0

    def write(self, rgb: Rgb) -> None:
        """Appends ``uint8 [H, W, 3]``; every frame has the size of the first."""
        if self._path.suffix.lower() in MOVING_PICTURES:
            self._add_picture(rgb)
            return
        if self._writer is None:
            fourcc = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._path), fourcc, self._fps, rgb.shape[1::-1])
            if not self._writer.isOpened():
                raise UserError(
                    f"{self._path}: OpenCV can't write a video there; accepted: a path that ends in .mp4, .gif or .webp"
                )
        self._writer.write(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """Completes the file; without it, it can't be played."""
        if self._writer is not None:
            self._writer.release()
        if self._pictures:
            first, *others = self._pictures
            milliseconds = 1000 / min(self._fps, PICTURE_FPS)
            first.save(self._path, save_all=True, append_images=others, duration=milliseconds, loop=0, quality=60)

    def _add_picture(self, rgb: Rgb) -> None:
        if len(self._pictures) <= self._frames * PICTURE_FPS / self._fps:
            height, width = rgb.shape[:2]
            scale = min(1.0, PICTURE_WIDTH / width)
            size = (round(scale * width), round(scale * height))
            self._pictures.append(Image.fromarray(np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA))))
        self._frames += 1
