"""Writes a video file, or a moving picture for a web page."""

from __future__ import annotations

import io
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from sam2_ros.media.errors import UserError
from sam2_ros.media.overlay import Rgb
from sam2_ros.media.signals import signals_wait
from sam2_ros.media.whole_files import WriteError, check_space, whole_file, write_whole

MOVING_PICTURES = (".gif", ".webp")
VIDEO_SUFFIXES = (".mp4", *MOVING_PICTURES)
LEAST_SIDE = 16  # pixels of a video; the encoder ends the process on some smaller frames
PICTURE_WIDTH = 640  # pixels at most, of a moving picture
PICTURE_FPS = 12.5  # at most; 80 ms a frame, in whole hundredths of a second as GIF has them


class VideoWriter:
    """An mp4 file (MPEG-4 Part 2, which every OpenCV build with FFmpeg writes), or an endless GIF or WebP.

    The file's name decides. A moving picture is scaled down and leaves frames out; it stays in memory until it is
    closed, so it is for short clips. The file appears under its name when it is closed.

    Raises:
        UserError: at the first frame, when it is too small or OpenCV can't write there.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self._path = path
        self._fps = fps
        self._file = ExitStack()  # the file under its other name
        self._writer: cv2.VideoWriter | None = None
        self._pictures: list[Image.Image] = []
        self._frames = 0

    def write(self, rgb: Rgb) -> None:
        """Appends ``uint8 [H, W, 3]``; every frame has the size of the first.

        Raises:
            WriteError: the disk is nearly full. The file can still be closed, with the frames before this one.
        """
        if self._path.suffix.lower() in MOVING_PICTURES:
            self._add_picture(rgb)
            self._frames += 1
        else:
            check_space(self._path)  # OpenCV does not say that it could not write
            if self._writer is None:
                self._writer = self._open(rgb)
            with signals_wait():  # a frame that is written and not counted would spoil the file
                self._writer.write(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
                self._frames += 1

    @property
    def frames(self) -> int:
        """Frames so far; a file without any is not written."""
        return self._frames

    def close(self) -> None:
        """Completes the file; without it, there is none.

        Raises:
            WriteError: not every frame is in the file; what was there before is there again.
        """
        writer, self._writer = self._writer, None
        pictures, self._pictures = self._pictures, []
        if writer is not None:
            with self._file:
                writer.release()
                self._verify()
        if pictures:
            content = io.BytesIO()
            milliseconds = 1000 / min(self._fps, PICTURE_FPS)
            pictures[0].save(
                content, format=self._path.suffix[1:].upper(), save_all=True, append_images=pictures[1:],
                duration=milliseconds, loop=0, quality=60,
            )  # fmt: skip
            write_whole(self._path, content.getvalue())

    def _open(self, rgb: Rgb) -> cv2.VideoWriter:
        height, width = rgb.shape[:2]
        if min(height, width) < LEAST_SIDE:
            raise UserError(
                f"{self._path}: a video can't have frames of {width} x {height} pixels; accepted: at least "
                f"{LEAST_SIDE} x {LEAST_SIDE}"
            )
        self._name = self._file.enter_context(whole_file(self._path))
        fourcc = cv2.VideoWriter.fourcc(*"mp4v")
        writer = cv2.VideoWriter(str(self._name), fourcc, self._fps, (width, height))
        if not writer.isOpened():
            self._name.unlink(missing_ok=True)
            raise UserError(
                f"{self._path}: OpenCV can't write a video there; accepted: a path that ends in "
                f"{', '.join(VIDEO_SUFFIXES)}"
            )
        return writer

    def _verify(self) -> None:
        """Refuses a file that does not open, or does not hold every frame."""
        video = cv2.VideoCapture(str(self._name))
        count = int(video.get(cv2.CAP_PROP_FRAME_COUNT)) if video.isOpened() else 0
        video.set(cv2.CAP_PROP_POS_FRAMES, self._frames - 1)
        last = video.read()[0]
        video.release()
        if count != self._frames or not last:
            raise WriteError(
                f"{self._path} is not written: only {count} of {self._frames} frames could be read back; the disk may "
                "be full, or a limit on the size of files may be reached"
            )

    def _add_picture(self, rgb: Rgb) -> None:
        if len(self._pictures) <= self._frames * PICTURE_FPS / self._fps:
            height, width = rgb.shape[:2]
            scale = min(1.0, PICTURE_WIDTH / width)
            size = (max(1, round(scale * width)), max(1, round(scale * height)))
            self._pictures.append(Image.fromarray(np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA))))
