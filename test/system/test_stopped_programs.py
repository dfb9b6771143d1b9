"""Long tests that are ended by a signal leave no process running."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from served import PATIENCE


@pytest.mark.parametrize(
    "program", ["attack_server.py --seconds 600 --attack pings", "fuzz_server.py --messages 1000000"]
)
def test_a_stopped_program_stops_what_it_started(program: str) -> None:
    name, *options = program.split()
    command = [sys.executable, str(Path(__file__).with_name(name)), *options]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        started: list[psutil.Process] = []
        try:
            end = time.monotonic() + PATIENCE
            while not any("serve" in child.cmdline() for child in started) and time.monotonic() < end:
                time.sleep(0.1)
                started = psutil.Process(process.pid).children(recursive=True)
            assert started, "it started no server"
            process.terminate()
            assert process.wait(PATIENCE) != 0
            _, left = psutil.wait_procs(started, PATIENCE)
            assert not left
        finally:
            for each in (process, *started):
                with suppress(psutil.NoSuchProcess):
                    each.kill()
