"""Child processes that end together with the work of their parent."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from sam2_ros.media.errors import UserError

SIGINT_GRACE_S = 15.0  # launch gives its own children 5 s, then 5 s more
SIGTERM_GRACE_S = 3.0
LOG_LINES = 5


class ChildProcess:
    """A process in its own session, whose output goes to the file ``log``.

    A context manager: at the end the process and its children get SIGINT, then SIGTERM, then SIGKILL.

    Raises:
        UserError: there is no such program.
    """

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self.log = log
        self._name = command[0]
        with log.open("w", encoding="utf-8") as output:
            try:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
                )
            except FileNotFoundError:
                raise UserError(f"there is no program '{command[0]}' here") from None

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def check(self) -> None:
        """
        Raises:
            UserError: the process has ended, with the last lines that it wrote.
        """
        if self.running:
            return
        last = " | ".join(line.strip() for line in self._lines()[-LOG_LINES:]) or "nothing"
        raise UserError(
            f"{self._name} has ended with code {self._process.returncode}; it said: {last} (see {self.log})"
        )

    def error(self) -> str:
        """The text of the first error that the process has logged in ROS's format; empty if there is none."""
        return next((line.rpartition("]:")[2].strip() for line in self._lines() if "[ERROR]" in line), "")

    def _lines(self) -> list[str]:
        return self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()

    def stop(self) -> None:
        """Ends the process and its children."""
        for number, grace in ((signal.SIGINT, SIGINT_GRACE_S), (signal.SIGTERM, SIGTERM_GRACE_S)):
            if not self.running:
                break
            self._signal(number)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(grace)
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        # To the whole group, as a terminal does: launch passes no SIGINT on to its children.
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def __enter__(self) -> ChildProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
