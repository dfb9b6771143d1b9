"""CURVE keys as files, in the format of ZeroMQ's own tools: NAME.key (public) and NAME.key_secret (both halves)."""

from __future__ import annotations

import os
import re
import stat
import struct
from pathlib import Path

import zmq.auth
from zmq.utils import z85

PUBLIC_SUFFIX, SECRET_SUFFIX = ".key", ".key_secret"
_MOST_BYTES = 1 << 16  # of a file
_KEY_BYTES = 32
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def new_keys(folder: Path, name: str) -> tuple[Path, Path]:
    """Makes a pair of keys; returns the paths of the public one and of the secret one, which only its owner may read.

    Raises:
        ValueError: the name can't be used, or is taken.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"the name is {name!r}; accepted: letters, digits, '.', '-' and '_', up to 64")
    public, secret = folder / f"{name}{PUBLIC_SUFFIX}", folder / f"{name}{SECRET_SUFFIX}"
    for path in (public, secret):
        if path.exists():
            raise ValueError(f"{path} exists; delete it, or choose another name, so that no key in use is lost")
    folder.mkdir(parents=True, exist_ok=True)
    before = os.umask(0o077)
    try:
        zmq.auth.create_certificates(folder, name)
    finally:
        os.umask(before)
    public.chmod(0o644)
    return public, secret


def load_public(path: str | Path) -> bytes:
    """The public key in a file.

    Raises:
        ValueError: there is no such file, or it holds no key.
    """
    return _load(path)[0]


def load_secret(path: str | Path) -> tuple[bytes, bytes]:
    """Public and secret key.

    Raises:
        ValueError: there is no such file, it does not hold both keys, or others may read it.
    """
    public, secret = _load(path)
    if secret is None:
        raise ValueError(f"{path} holds a public key only; give the file {SECRET_SUFFIX[1:]} of the same name")
    if Path(path).stat().st_mode & 0o077:
        raise ValueError(f"{path} can be read by others; run: chmod 600 {path}")
    return public, secret


def _load(path: str | Path) -> tuple[bytes, bytes | None]:
    try:
        # Otherwise a pipe would block, and a large file would be read as a whole.
        if not stat.S_ISREG(os.stat(path).st_mode) or os.stat(path).st_size > _MOST_BYTES:
            raise ValueError(f"it is no file of up to {_MOST_BYTES} bytes")
        public, secret = zmq.auth.load_certificate(path)
        for key in filter(None, (public, secret)):
            if len(z85.decode(key)) != _KEY_BYTES:
                raise ValueError(f"a key has {len(key)} characters")
        return public, secret
    except (OSError, ValueError, KeyError, struct.error) as error:
        raise ValueError(f"{path} is no key file ({error}); make one with: sam2_ros keys new NAME") from error
