"""Files that are whole or not there: written under another name, then renamed."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sam2_ros.media.errors import UserError

RESERVE_BYTES = 1 << 20  # that must stay free while a long file grows, so that it can be completed
UNFINISHED = ".*.part.*"  # glob pattern of the other names; a killed process leaves one behind
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class WriteError(UserError):
    """A file that can't be written; the message names it and says why and what to do. Nothing was changed."""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Within, the path of a new file beside ``path``. At the end it replaces ``path``; after an error it is removed.

    A device or a pipe is never replaced, but written as it is.

    Raises:
        WriteError: in place of any OSError, also for a full disk.
    """
    try:
        if path.exists() and not path.is_file():
            yield path
            return
        target = path.resolve()
        # The suffix stays, because it chooses the format. The stem is cut, because a name has 255 bytes at most.
        new = target.with_name(f".{target.stem[:40]}.{os.getpid()}.part{target.suffix}")
        try:
            yield new
            if target.exists():
                shutil.copymode(target, new)
            new.replace(target)
        except BaseException:
            with suppress(OSError):
                new.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise write_error(path, error) from error


def write_whole(path: Path, content: bytes | str) -> None:
    """Writes a file, text as UTF-8; raises as :func:`whole_file`."""
    with whole_file(path) as new:
        new.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, content: object, allow_nan: bool = False) -> None:
    """Writes JSON, and makes the folder if it does not exist; raises as :func:`whole_file`.

    Raises:
        ValueError: a number is not finite, without ``allow_nan``.
    """
    check_writable(path)
    write_whole(path, json.dumps(content, indent=1, allow_nan=allow_nan) + "\n")


def check_writable(path: Path) -> None:
    """Makes the folder of ``path`` if it does not exist, and refuses what can't be written, before any work is done.

    Raises:
        WriteError: with the reason.
    """
    try:
        if path.is_dir():
            raise WriteError(f"{path} is a folder; give the path of a file")
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY))
        if not path.exists() or path.is_file():
            tempfile.TemporaryFile(dir=path.resolve().parent).close()
    except OSError as error:
        raise write_error(path, error) from error


def make_folder(out: Path) -> None:
    """Makes the folder ``out`` for outputs if it does not exist. Call it before any work is done.

    Raises:
        UserError: it is a file, or can't be made.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; give a folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(out, error) from error


def check_space(path: Path) -> None:
    """Refuses to let the file at ``path`` grow when its disk is nearly full.

    Raises:
        WriteError: fewer than :data:`RESERVE_BYTES` are free.
    """
    with suppress(FileNotFoundError):
        if shutil.disk_usage(path.parent).free < RESERVE_BYTES:
            raise write_error(path, OSError(errno.ENOSPC, "full"))


def write_error(path: Path, error: OSError) -> WriteError:
    """The error that says why ``path`` could not be written."""
    if error.errno in _FULL:
        return WriteError(f"{path} can't be written: the disk is full; free space, or choose another disk")
    return WriteError(f"{path} can't be written ({error.strerror or error}); choose another path")
