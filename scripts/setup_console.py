"""Readable progress for the setup: one line a step, everything else in a log file whose end is shown on failure."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

REPORT_INTERVAL = 15.0  # seconds between signs of life where there is no terminal to rewrite a line on


class StepFailed(Exception):
    """A step of the setup failed; the message says which and what to do."""


class Console:
    """Runs commands with their output in ``log`` and shows which step is running."""

    def __init__(self, log: Path) -> None:
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("", encoding="utf-8")

    def say(self, text: str = "") -> None:
        print(text, flush=True)

    def run(
        self, command: Sequence[str | Path], env: Mapping[str, str], cwd: Path | None = None, hint: str = ""
    ) -> None:
        """Run one command; raise StepFailed with the end of its output when it fails. ``hint`` says what to do then."""
        words = [str(word) for word in command]
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"\n$ {' '.join(words)}\n")
            log.flush()
            start = log.tell()
            process = subprocess.Popen(
                words, env=dict(env), cwd=cwd, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
            )
            stop = threading.Event()
            watcher = threading.Thread(target=self._watch, args=(stop,), daemon=True)
            watcher.start()
            try:
                code = process.wait()
            except KeyboardInterrupt:
                process.terminate()
                process.wait()
                raise
            finally:
                stop.set()
                watcher.join()
        if code:
            with self.log.open(encoding="utf-8", errors="replace") as file:
                file.seek(start)
                tail = "".join(file.readlines()[-25:])
            message = f"{words[0]} ended with status {code}. The end of its output:\n\n{tail}\nAll of it: {self.log}"
            raise StepFailed(f"{message}\n{hint}" if hint else message)

    def _watch(self, stop: threading.Event) -> None:
        """Show the seconds and the newest line of the log while a command runs."""
        terminal = sys.stdout.isatty()
        begin = time.monotonic()
        while not stop.wait(1.0 if terminal else REPORT_INTERVAL):
            text = f"    {time.monotonic() - begin:4.0f} s  {self._last_line()}"
            if terminal:
                columns = os.get_terminal_size().columns
                print(f"\r{text[: columns - 1]:<{columns - 1}}", end="", flush=True)
            else:
                print(text[:120], flush=True)
        if terminal:
            print(f"\r{'':<{os.get_terminal_size().columns - 1}}\r", end="", flush=True)

    def _last_line(self) -> str:
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - 2000))
            lines = file.read().decode(errors="replace").replace("\r", "\n").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
