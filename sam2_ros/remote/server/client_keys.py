"""The folder with the public keys of accepted clients, read while the server runs."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

from sam2_ros.remote.keys import PUBLIC_SUFFIX, load_public
from sam2_ros.text import printable

_MOST_FILES = 10_000
_PERIOD = 1.0  # s, between two reads for the clients that are connected
_GRACE = 2.0  # s without its key after which a client is removed: a file may just be written anew


class ClientKeysFolder:
    """Thread-safe. A damaged file is skipped and named in the log, once until it changes.

    Raises:
        ValueError: there is no such folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        if not self._folder.is_dir():
            raise ValueError(f"{folder} is no folder; give the one with the clients' public keys (*{PUBLIC_SUFFIX})")
        self._lock = threading.Lock()
        self._files: dict[str, tuple[object, bytes | None]] = {}  # by name: what tells a change, and the key
        self._seen: dict[bytes, float] = {}  # when each key was read last
        self._read_at = self._readable_at = 0.0  # steady seconds
        self._complaint = ""
        self._read()

    def accepts(self, key: bytes) -> bool:
        """Whether a new client may come in with this public key (Z85); reads the folder."""
        with self._lock:
            self._read()
            return self._read_at == self._readable_at and self._seen.get(key) == self._read_at

    def keeps(self, key: bytes) -> bool:
        """Whether a client that is connected may stay. While the folder can't be read, it may."""
        with self._lock:
            if time.monotonic() - self._read_at > _PERIOD:
                self._read()
            return self._readable_at - self._seen.get(key, -_GRACE) < _GRACE

    def _read(self) -> None:
        self._read_at = time.monotonic()
        try:
            names = [entry.name for entry in os.scandir(self._folder) if entry.name.endswith(PUBLIC_SUFFIX)]
        except OSError as error:
            self._complain(f"the clients' keys in {self._folder} can't be read ({error}): no new client is accepted")
            return
        self._complain("")
        self._readable_at = self._read_at
        self._files = {name: self._look_at(name) for name in sorted(names)[:_MOST_FILES]}
        for _, key in self._files.values():
            if key is not None:
                self._seen[key] = self._read_at
        self._seen = {key: at for key, at in self._seen.items() if self._read_at - at < 2 * _GRACE}

    def _look_at(self, name: str) -> tuple[object, bytes | None]:
        path = self._folder / name
        try:
            status = path.stat()
            state: object = (status.st_mtime_ns, status.st_size, status.st_ino)
        except OSError as error:
            state = str(error)
        known = self._files.get(name)
        if known is not None and known[0] == state:
            return known
        try:
            return state, load_public(path)
        except ValueError as error:
            _say(f"skipping a client's key: {error}")
            return state, None

    def _complain(self, text: str) -> None:
        if text and text != self._complaint:
            _say(text)
        self._complaint = text


def _say(text: str) -> None:
    print(f"sam2_ros: {printable(text, 500)}", file=sys.stderr, flush=True)
