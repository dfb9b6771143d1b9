"""Fetches the official SAM 2 checkpoints: resumable, verified, without torch or ROS."""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import logging
import os
import shutil
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sam2_ros.model.config import CHECKPOINT_FILES
from sam2_ros.text import printable

BASE_URL = "https://dl.fbaipublicfiles.com/segment_anything_2"
CACHE_VARIABLE = "SAM2_ROS_CACHE"
BASE_URL_VARIABLE = "SAM2_ROS_BASE_URL"
TIMEOUT_S = 30.0  # without a byte
ANSWER_S = 60.0  # in which the headers must come
WINDOW_S = 60.0  # in which this many times SLOWEST bytes must come
SLOWEST = 2000  # bytes a second
CHUNK_BYTES = 1 << 20

_log = logging.getLogger(__name__)
Progress = Callable[[int, int], None]  # bytes so far, bytes in all


class DownloadError(RuntimeError):
    """A download that failed; ``str(error)`` says why and what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """An official checkpoint file."""

    file_name: str
    folder: str  # date in the official URL
    size: int  # bytes
    sha256: str


def _official(name: str, size: int, sha256: str) -> Checkpoint:
    hiera, old, _ = name.partition("-2.0")
    return Checkpoint(f"sam2{'' if old else '.1'}_hiera_{hiera}.pt", "072824" if old else "092824", size, sha256)


CHECKPOINTS = {name: _official(name, size, sha256) for name, size, sha256 in CHECKPOINT_FILES}


def find_checkpoint(name: str) -> Checkpoint:
    """The checkpoint called ``name``: a key of :data:`CHECKPOINTS`, ``SIZE-2.1``, or the official file's name.

    Raises:
        DownloadError: no such checkpoint.
    """
    by_file = {checkpoint.file_name.removesuffix(".pt"): checkpoint for checkpoint in CHECKPOINTS.values()}
    found = CHECKPOINTS.get(name.removesuffix("-2.1")) or by_file.get(name.removesuffix(".pt"))
    if found is None:
        known = ", ".join(CHECKPOINTS)
        raise DownloadError(f"no file and no official checkpoint is called '{name}'; official ones: {known}")
    return found


def cache_dir() -> Path:
    """The cache folder: ``$SAM2_ROS_CACHE``, else ``$XDG_CACHE_HOME/sam2_ros``, else ``~/.cache/sam2_ros``."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sam2_ros"


def checkpoint_path(name: str, directory: Path | None = None) -> Path:
    """The path of the checkpoint ``name`` after its download; the file need not exist. Raises DownloadError."""
    return (directory or cache_dir() / "checkpoints") / find_checkpoint(name).file_name


def checkpoint_url(checkpoint: Checkpoint, base_url: str | None = None) -> str:
    """The URL of a file below ``base_url``, ``$SAM2_ROS_BASE_URL`` or the official address, in the official layout."""
    base = base_url or os.environ.get(BASE_URL_VARIABLE) or BASE_URL
    if urllib.parse.urlsplit(base).scheme not in ("http", "https"):
        raise DownloadError(f"'{base}' is no address to download from; accepted: http://… or https://…")
    return f"{base.rstrip('/')}/{checkpoint.folder}/{checkpoint.file_name}"


def download(
    name: str,
    directory: Path | None = None,
    base_url: str | None = None,
    force: bool = False,
    progress: Progress = lambda have, size: None,
) -> Path:
    """Fetches the checkpoint ``name`` if it is missing (or by ``force``), verifies its SHA-256 and returns its path.

    Data arrives in ``FILE.part``, which a later call continues. A file with a wrong hash becomes ``FILE.bad``.

    Raises:
        DownloadError: unknown name, no connection, refused, truncated, or not the genuine file.
    """
    checkpoint = find_checkpoint(name)
    url = checkpoint_url(checkpoint, base_url)
    path = checkpoint_path(name, directory)
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not force and path.is_file() and file_sha256(path) == checkpoint.sha256:
            return path
        with _own(part) as file:
            if path.is_file() and not force:
                if file_sha256(path) == checkpoint.sha256:  # another process was just faster
                    return path
                _log.warning("%s is not the genuine file; set aside as %s", path, path.replace(_bad(path)))
            if force or _size(file) > checkpoint.size:
                file.truncate(0)
            if _size(file) < checkpoint.size:
                _fetch(url, file, part, checkpoint.size, progress)
            found = file_sha256(part)
            part.replace(path if found == checkpoint.sha256 else _bad(path))
    except OSError as error:
        raise DownloadError(f"can't write {part}: {error.strerror or error}; free space or choose --dir") from error
    if found != checkpoint.sha256:
        raise DownloadError(
            f"what came from {url} is not the genuine file: SHA-256 {found}, expected {checkpoint.sha256}. "
            f"It was set aside as {_bad(path)}; try again, or use another --base-url"
        )
    return path


@contextmanager
def _own(part: Path) -> Iterator[BinaryIO]:
    """Opens ``part``, which no other process writes meanwhile; removes it where it stays empty.

    Raises:
        DownloadError: another process writes it, or it is no file.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    while True:
        if part.is_symlink() or (part.exists() and not part.is_file()):
            raise DownloadError(f"{part} is a link or no file; remove it, or choose --dir")
        with os.fdopen(os.open(part, flags, 0o666), "r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DownloadError(f"another process downloads {part} just now; wait until it has ended") from None
            if not part.exists() or not os.path.samestat(os.fstat(file.fileno()), part.stat()):
                continue  # it was renamed before the lock was held
            try:
                yield file
            finally:
                if part.exists() and not _size(file):
                    part.unlink()
            return


def _fetch(url: str, file: BinaryIO, part: Path, size: int, progress: Progress) -> None:
    """Appends the missing bytes of the ``size`` bytes at ``url`` to ``file``, which is at ``part``."""
    have = _size(file)
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with _answer(request) as response:
            # A server without ranges answers 200 and sends the whole file.
            have = have if response.status == 206 else 0
            _check_offer(response, url, have, size)
            if (free := shutil.disk_usage(part.parent).free) < size - have:
                problem = f"{size - have} bytes are to come, {part.parent} has {free} free"
                raise DownloadError(f"{problem}; free space or choose --dir")
            file.truncate(have)
            file.seek(have)
            progress(have, size)
            due, wanted = time.monotonic() + WINDOW_S, have + WINDOW_S * SLOWEST
            while have < size and (chunk := response.read1(min(CHUNK_BYTES, size - have))):
                file.write(chunk)
                have += len(chunk)
                progress(have, size)
                if time.monotonic() > due:
                    if have < wanted:
                        raise TimeoutError(f"it sends fewer than {SLOWEST} bytes a second")
                    due, wanted = time.monotonic() + WINDOW_S, have + WINDOW_S * SLOWEST
    except urllib.error.HTTPError as error:
        error.close()
        reason = printable(error.reason)
        raise DownloadError(f"{url} answered {error.code} {reason}; check --base-url or try later") from error
    except (urllib.error.URLError, http.client.HTTPException, ssl.SSLError, ConnectionError, TimeoutError) as error:
        reason = printable(error.reason if isinstance(error, urllib.error.URLError) else error)
        host = urllib.parse.urlsplit(url).netloc
        raise DownloadError(
            f"can't download from {host} ({reason}). Check the network, name a mirror with --base-url, or put the "
            f"file at {part.with_suffix('')} yourself. {_resume_hint(part, file)}"
        ) from error
    file.flush()
    if have < size:
        raise DownloadError(f"the connection ended early: {have} of {size} bytes of {url}. {_resume_hint(part, file)}")


def _answer(request: urllib.request.Request) -> http.client.HTTPResponse:
    """The answer to a request. A thread waits for it, so that a server can't send its headers for ever."""
    answer: Future[http.client.HTTPResponse] = Future()

    def ask() -> None:
        try:
            answer.set_result(urllib.request.urlopen(request, timeout=TIMEOUT_S))
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()
    if not wait([answer], ANSWER_S).done:
        raise TimeoutError(f"no answer within {ANSWER_S:g} s")
    return answer.result()


def _check_offer(response: http.client.HTTPResponse, url: str, start: int, size: int) -> None:
    """Refuses a wrong file before reading it."""
    offered = start + (size - start if response.length is None else response.length)
    if offered != size:
        raise DownloadError(f"{url} offers {offered} bytes; the genuine file has {size}. Use another --base-url")
    content_range = response.headers.get("Content-Range", "")
    if start and not content_range.startswith(f"bytes {start}-"):
        raise DownloadError(
            f"{url} answered with range '{printable(content_range)}', asked for was {start}-; use --force"
        )


def _size(file: BinaryIO) -> int:
    """Bytes of an open file."""
    file.flush()
    return os.fstat(file.fileno()).st_size


def _bad(path: Path) -> Path:
    return path.with_name(path.name + ".bad")


def _resume_hint(part: Path, file: BinaryIO) -> str:
    if have := _size(file):
        return f"The {have} bytes that came are kept in {part}; the same command continues there"
    return "Nothing was stored"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
