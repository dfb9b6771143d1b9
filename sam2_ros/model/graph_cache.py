"""The folders in which graphs and what runtimes compile of them are cached, one for each network. Free of torch."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sam2_ros.model.download import cache_dir

MAX_NETWORKS = 8  # beyond it, the folders of the least recently used networks are deleted


def graph_cache(name: str) -> Path:
    """The folder of the network with this hash. It need not exist."""
    return cache_dir() / "graphs" / name[:20]


@contextmanager
def cache_turn(folder: Path, name: str = "lock") -> Iterator[None]:
    """Makes ``folder`` and reserves it: processes that start together must not find half a file there.

    ``name`` is the file that is locked: whoever makes graphs opens them within that turn, which takes its own.

    Raises:
        OSError: it can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.parent == cache_dir() / "graphs":
            _make_room(folder)
        yield


def _make_room(folder: Path) -> None:
    """Deletes the graphs of the networks that were not used for the longest; ``folder`` is used now."""
    folder.touch()
    used = {}
    for each in folder.parent.iterdir():
        with suppress(FileNotFoundError):  # another process deletes, too
            used[each] = each.stat().st_mtime
    for old in sorted(used, key=lambda each: used[each])[:-MAX_NETWORKS]:
        shutil.rmtree(old, ignore_errors=True)
