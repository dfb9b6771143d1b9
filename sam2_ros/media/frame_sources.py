"""Opens what a user names as SOURCE: a video, a folder or pattern of images, a camera, or an address."""

from __future__ import annotations

import stat
from pathlib import Path

from sam2_ros.media.errors import UserError
from sam2_ros.media.image_folder import ImageFolder
from sam2_ros.media.live_source import ADDRESSES, Camera, open_address
from sam2_ros.media.source_frame import DEFAULT_FPS, Frame, Rgb, Source
from sam2_ros.media.video_file import VideoFile
from sam2_ros.text import printable

__all__ = ["Camera", "Frame", "ImageFolder", "Rgb", "Source", "VideoFile", "open_source"]


def open_source(source: str, fps: float | None = None) -> Source:
    """Opens a video file, a folder or pattern (``img_%05d.jpg``) of images, a camera (``0``, ``/dev/video0``), or the
    address of a video or live stream (``rtsp://``, ``http://``, …).

    ``fps`` replaces the frame rate of a file, from which stamps are then made.

    Raises:
        UserError: the source can't be read; also while iterating, if the frames change their size, a video is damaged
            so that frames are missing at its end or at an unknown place, or a live source stops.
    """
    if source.startswith(ADDRESSES):
        return open_address(source, fps)
    path = Path(source)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        mode = 0
    except (OSError, ValueError) as error:
        raise UserError(f"{printable(source)} can't be read: {getattr(error, 'strerror', None) or error}") from None
    if stat.S_ISDIR(mode):
        return ImageFolder(path, fps or DEFAULT_FPS)
    if stat.S_ISREG(mode):
        return VideoFile(source, fps)
    if stat.S_ISCHR(mode):
        return Camera(source)
    if source.isascii() and source.isdecimal():
        return Camera(source)
    if not mode and "%" in path.name and path.parent.is_dir():
        return ImageFolder(path.parent, fps or DEFAULT_FPS, path.name)
    accepted = (
        "a video file, a folder of images, a pattern of them (img_%05d.jpg), a camera (0 or /dev/video0), or an "
        f"address ({', '.join(ADDRESSES)})"
    )
    reason = "neither file, folder nor camera" if mode else "no such file or folder"
    raise UserError(f"{printable(source)}: {reason}; accepted: {accepted}")
