"""Fetches the official SAM 2 checkpoints: resumable, verified, without torch or ROS."""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import shutil
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sam2_ros.model.config import CHECKPOINT_FILES

BASE_URL = "https://dl.fbaipublicfiles.com/segment_anything_2"
CACHE_VARIABLE = "SAM2_ROS_CACHE"
BASE_URL_VARIABLE = "SAM2_ROS_BASE_URL"
TIMEOUT_S = 30.0
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
    part, bad = (path.with_name(path.name + end) for end in (".part", ".bad"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if force:
            path.unlink(missing_ok=True)
            part.unlink(missing_ok=True)
        if path.is_file():
            if file_sha256(path) == checkpoint.sha256:
                return path
            _log.warning("%s is not the genuine file; set aside as %s", path, path.replace(bad))
        if _stored(part) > checkpoint.size:
            part.unlink()
        if _stored(part) < checkpoint.size:
            _fetch(url, part, checkpoint.size, progress)
    except OSError as error:
        raise DownloadError(f"can't write {part}: {error.strerror or error}; free space or choose --dir") from error
    found = file_sha256(part)
    if found != checkpoint.sha256:
        part.replace(bad)
        raise DownloadError(
            f"what came from {url} is not the genuine file: SHA-256 {found}, expected {checkpoint.sha256}. "
            f"It was set aside as {bad}; try again, or use another --base-url"
        )
    part.replace(path)
    return path


def _fetch(url: str, part: Path, size: int, progress: Progress) -> None:
    """Appends the missing bytes of the ``size`` bytes at ``url`` to ``part``."""
    have = _stored(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            # A server without ranges answers 200 and sends the whole file.
            have = have if response.status == 206 else 0
            _check_offer(response, url, have, size)
            if (free := shutil.disk_usage(part.parent).free) < size - have:
                problem = f"{size - have} bytes are to come, {part.parent} has {free} free"
                raise DownloadError(f"{problem}; free space or choose --dir")
            with part.open("ab" if have else "wb") as file:
                progress(have, size)
                while chunk := response.read(CHUNK_BYTES):
                    file.write(chunk)
                    have += len(chunk)
                    progress(have, size)
    except urllib.error.HTTPError as error:
        error.close()
        raise DownloadError(f"{url} answered {error.code} {error.reason}; check --base-url or try later") from error
    except (urllib.error.URLError, http.client.HTTPException, ssl.SSLError, ConnectionError, TimeoutError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        host = urllib.parse.urlsplit(url).netloc
        raise DownloadError(
            f"can't download from {host} ({reason}). Check the network, name a mirror with --base-url, or put the "
            f"file at {part.with_suffix('')} yourself. {_resume_hint(part)}"
        ) from error
    if have < size:
        raise DownloadError(f"the connection ended early: {have} of {size} bytes of {url}. {_resume_hint(part)}")


def _check_offer(response: http.client.HTTPResponse, url: str, start: int, size: int) -> None:
    """Refuses a wrong file before reading it."""
    offered = start + int(response.headers.get("Content-Length", size - start))
    if offered != size:
        raise DownloadError(f"{url} offers {offered} bytes; the genuine file has {size}. Use another --base-url")
    content_range = response.headers.get("Content-Range", "")
    if start and not content_range.startswith(f"bytes {start}-"):
        raise DownloadError(f"{url} answered with range '{content_range}', asked for was {start}-; use --force")


def _stored(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _resume_hint(part: Path) -> str:
    if have := _stored(part):
        return f"The {have} bytes that came are kept in {part}; the same command continues there"
    return "Nothing was stored"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
