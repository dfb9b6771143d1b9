"""The folder of a data set belongs to one program at a time, and nothing in it leads out of it."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sam2_ros.media.errors import UserError
from sam2_ros.media.whole_files import write_error
from sam2_ros.text import printable

LOCK = ".in_use"  # the file that is locked meanwhile; it says by whom
_READ_ONLY = {errno.EACCES, errno.EPERM, errno.EROFS}
_SHOWN = 300  # characters of a path


@contextmanager
def in_use(out: Path, verb: str) -> Iterator[None]:
    """Within, no other ``sam2_ros annotate`` or ``review`` works on the folder. A process that dies lets go.

    Raises:
        UserError: another one works on it, and the message says which; or it is no folder.
    """
    path = out / LOCK
    try:
        file = _locked(path)
    except BlockingIOError:
        who = printable(path.read_text(errors="replace"), _SHOWN) or "another program"
        raise UserError(f"{printable(out, _SHOWN)} is in use by {who}; end that, then run this again") from None
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{printable(out, _SHOWN)}: no such folder") from None
    except OSError as error:
        if error.errno not in _READ_ONLY:
            raise write_error(path, error) from error
        file = -1  # who can't make the file can't spoil what another one writes
    try:
        if file >= 0:
            with suppress(OSError):  # on a full disk
                os.write(file, f"sam2_ros {verb}, process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        if file >= 0:
            with suppress(OSError):
                path.unlink()
            os.close(file)


def _locked(path: Path) -> int:
    """The locked file's descriptor.

    Raises:
        BlockingIOError: another process has it.
    """
    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except PermissionError:
            if not path.exists():
                raise
            file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)  # another user's
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
                with suppress(OSError):  # another user's
                    os.ftruncate(file, 0)
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # of one that ended meanwhile and removed it


def check_links(out: Path) -> None:
    """
    Raises:
        UserError: something in the folder is a link: files elsewhere would be shown, overwritten or removed.
    """
    for folder, folders, files in os.walk(out):
        for name in (*folders, *files):
            if os.path.islink(path := os.path.join(folder, name)):
                raise UserError(
                    f"{printable(path, _SHOWN)} is a link, which may lead out of the data set; replace it by what it "
                    "leads to"
                )
