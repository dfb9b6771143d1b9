"""What a process of ours keeps of the memory that it has freed, seen in a process of its own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library's settings are glibc's")

SCRIPT = """
import threading
import numpy as np
from pathlib import Path
from sam2_ros.allocator import keep_freed_memory, reserve

def mebibytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

def work():
    blocks = [np.ones(4 * 2**20, np.uint8) for _ in range(12)]
    told.append(mebibytes())

keep_freed_memory()
told = [mebibytes()]
reserve(64 * 2**20)
told.append(mebibytes())
for _ in range(2):  # of which the second is freed, too, when its thread has ended
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
print(*told, mebibytes())
"""


def test_what_is_reserved_serves_every_thread() -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, env=clean)
    before, *after = map(float, done.stdout.split())
    assert len(after) == 4
    assert all(60 < size - before < 72 for size in after)
