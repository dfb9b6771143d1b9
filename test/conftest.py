"""Every test session has a ROS domain of its own, and gives its child processes the settings of the launch files."""

from __future__ import annotations

import fcntl
import os
import signal
import tempfile
from pathlib import Path
from typing import IO

import pytest

from sam2_ros.allocator import VARIABLES, give_back_freed_memory

# Domains above 101 would use ports that Linux hands out to other programs.
DOMAINS = range(1, 102)
SETTINGS = {
    **VARIABLES,  # as launch files set them
    # Tests run beside the processes that they start; half of the cores each.
    "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 2) // 2)),
    "RCUTILS_COLORIZED_OUTPUT": "0",
}
LONGEST_ID = 80  # characters that a value may give to the name of a test
_domain_lock = pytest.StashKey[IO[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Choose a free domain, unless SAM2_ROS_TEST_DOMAIN names one, and set the environment of all child processes.

    Not for the processes of pytest-xdist, which do so themselves: with all freed memory kept, each would have 4.6 GiB.
    """
    if config.getoption("dist", "no") != "no" and not hasattr(config, "workerinput"):
        return
    wanted = os.environ.get("SAM2_ROS_TEST_DOMAIN")
    if wanted:
        os.environ["ROS_DOMAIN_ID"] = wanted
    else:
        domain, config.stash[_domain_lock] = _reserve_domain()
        os.environ["ROS_DOMAIN_ID"] = str(domain)
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    # A shell starts what runs in its background deaf to Ctrl-C, and so would be the processes that tests interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Names a long value after its argument; pytest would write megabytes into names, logs and variables."""
    return argname if isinstance(val, (str, bytes, int)) and len(repr(val)) > LONGEST_ID else None


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Gives back the memory of a file's networks, of which a process has many."""
    if nextitem is None or nextitem.path != item.path:
        give_back_freed_memory()


def _reserve_domain() -> tuple[int, IO[str]]:
    """A domain that no other test session of this machine has, and the lock that keeps it as long as it is open."""
    start = os.getpid()
    for offset in range(len(DOMAINS)):
        domain = DOMAINS[(start + offset) % len(DOMAINS)]
        lock = (Path(tempfile.gettempdir()) / f"sam2_ros_test_domain_{domain}.lock").open("a", encoding="utf-8")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        return domain, lock
    raise pytest.UsageError("every ROS domain from 1 to 101 is taken by a test session; SAM2_ROS_TEST_DOMAIN sets one")
