"""Reads files that a user or another file names, within limits."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from sam2_ros.media.errors import UserError
from sam2_ros.text import printable

_SHOWN = 300  # characters of a path


def read_file(path: Path, limit: int) -> bytes:
    """The content of a file of at most ``limit`` bytes. Never waits for a pipe or a device.

    Raises:
        UserError: no such file, no file (but a folder, a pipe, a device), too large, or unreadable.
    """
    where = printable(path, _SHOWN)
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            kind = "folder" if stat.S_ISDIR(mode) else "pipe, socket or device"
            raise UserError(f"{where} is a {kind}; accepted: a file")
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            content = file.read(limit + 1)
    except FileNotFoundError:
        raise UserError(f"{where}: no such file") from None
    except (OSError, ValueError) as error:  # ValueError: NUL or half a surrogate pair in the path
        raise UserError(f"{where} can't be read ({getattr(error, 'strerror', None) or error})") from None
    if len(content) > limit:
        raise UserError(f"{where} is larger than {limit >> 20} MiB; accepted: up to that")
    return content
