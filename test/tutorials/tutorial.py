"""Runs a page of docs/tutorials as it stands there, in an empty folder.

The fenced blocks of a page mean:

- ``bash``: the reader types it into a shell, one block after the other.
- ``bash terminal``: the reader types it into a terminal of its own, where it keeps running.
- ``text``: the output of the block before it. For a shell, the end of its output. For a terminal, lines that must
  appear there before the next block runs. With ``text like``, numbers may differ.
- ``<!-- Ctrl-C: words -->``: Ctrl-C in the terminal whose command begins with these words. The end of the page does the
  same in every terminal that still runs.
- The test does not run any other block.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TUTORIALS = ROOT / "docs" / "tutorials"
PATIENCE_S = 150.0
_BLOCK = re.compile(r"^```(bash|text)( terminal| like)?\n(.*?)^```|^<!-- Ctrl-C: (.*?) -->$", re.M | re.S)


def environment() -> dict[str, str]:
    """This process's environment, with the programs of its Python on the PATH, as the pages ask for."""
    # no colon in front of the old value where there is none: that would put the working folder on the path
    python_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": python_path, "PYTHONUNBUFFERED": "1"}


class Terminal:
    """A command that goes on running."""

    def __init__(self, command: str, folder: Path) -> None:
        self.command = command
        self._log = folder.parent / f"{folder.name}_terminal_{time.monotonic_ns()}.log"
        with self._log.open("w") as output:
            self._process = subprocess.Popen(
                ["bash", "-c", command], cwd=folder, env=environment(), stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip

    @property
    def text(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_for(self, lines: list[str], like: bool) -> None:
        deadline = time.monotonic() + PATIENCE_S
        wanted = [_figures_out(line) if like else line for line in lines]
        while missing := [line for line in wanted if line not in (_figures_out(self.text) if like else self.text)]:
            assert self._process.poll() is None, f"{self.command}\nhas ended:\n{self.text}"
            assert time.monotonic() < deadline, f"{self.command}\nnever said {missing}:\n{self.text}"
            time.sleep(0.1)

    def interrupt(self) -> None:
        """Ctrl-C; the command must end by it, without a traceback."""
        for _ in range(3):  # as a person would where one is not enough
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(PATIENCE_S / 3)
                break
        assert self._process.poll() is not None, f"{self.command}\ndoes not end at Ctrl-C:\n{self.text}"
        assert "Traceback" not in self.text, self.text

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


def run(page: Path, folder: Path) -> int:
    """Runs a page; returns how many ``text`` blocks were compared.

    Raises:
        AssertionError: a command fails, or prints something else; it says which, with all that was printed.
    """
    terminals: list[Terminal] = []
    running: list[Terminal] = []
    compared, output, last = 0, "", None
    try:
        for language, kind, text, interrupted in _BLOCK.findall(page.read_text("utf-8")):
            if interrupted:
                last = next(terminal for terminal in running if terminal.command.startswith(interrupted))
                last.interrupt()
                running.remove(last)
                output = last.text
                last = None
            elif language == "text":
                compared += 1
                if last is not None:
                    last.wait_for(text.splitlines(), kind == " like")
                elif kind == " like":
                    assert _figures_out(output).endswith(_figures_out(text)), f"{output}\ndoes not end like\n{text}"
                else:
                    assert output.endswith(text), f"{output}\ndoes not end with\n{text}"
            elif kind == " terminal":
                last = Terminal(text, folder)
                terminals.append(last)
                running.append(last)
            else:
                output, last = _shell(text, folder, terminals), None
        for terminal in reversed(running):
            terminal.interrupt()
    finally:
        for terminal in terminals:
            terminal.kill()
    return compared


def _shell(command: str, folder: Path, terminals: list[Terminal]) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command], cwd=folder, env=environment(), capture_output=True, text=True,
        timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    logs = "".join(f"\n--- {terminal.command}{terminal.text}" for terminal in terminals)
    assert done.returncode == 0, f"{command}\nfailed:\n{done.stdout}{done.stderr}{logs}"
    return done.stdout


def _figures_out(text: str) -> str:
    """Every number as ``#``, spaces beside it as one: columns move with them."""
    return re.sub(r" +", " ", re.sub(r"-?\d+(\.\d+)?", "#", text))
