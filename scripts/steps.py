"""Setup steps, which are skipped if they are up to date. The terminal shows a line for each, a log file the rest."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

REPORT_INTERVAL = 30.0  # seconds between progress lines if the output is no terminal
TAIL_LINES = 25  # of a failed command's output
INDEX_TIMEOUT = 4.0  # seconds


class StepError(Exception):
    """A failed step; the message has the command, the end of its output, and what to do."""


@dataclass(frozen=True)
class Step:
    """One step: ``key`` is the hash of its inputs, ``download`` describes its downloads (empty = none)."""

    name: str
    title: str
    key: str
    run: Callable[[], None]
    download: str = ""

    def is_current(self, stamps: Path) -> bool:
        """Whether it succeeded before with the same key; ``stamps`` is the folder of the stamp files."""
        stamp = stamps / self.name
        return stamp.is_file() and stamp.read_text(encoding="utf-8") == self.key


def digest(parts: Iterable[object]) -> str:
    """Hash of values, and of the contents of paths."""
    total = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else str(part).encode()
        total.update(len(data).to_bytes(8, "little") + data)
    return total.hexdigest()[:20]


def works(command: Sequence[object], env: Mapping[str, str] | None = None) -> bool:
    """Whether a command exists and succeeds."""
    try:
        done = subprocess.run([str(word) for word in command], capture_output=True, timeout=60, check=False, env=env)
        return done.returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def answers(url: str) -> bool:
    """Whether a package index answers."""
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{url}/", method="HEAD"), timeout=INDEX_TIMEOUT):
            return True
    except (OSError, ValueError):
        return False


@contextmanager
def cache_entry(folder: Path) -> Iterator[Path | None]:
    """Makes a folder of the cache once, also if several checkouts need it at the same time.

    Yields an empty folder to fill, which then becomes the entry; None if the entry exists.
    """
    cache = folder.parent
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():
            yield None
            return
        partial = cache / "partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        yield partial
        partial.rename(folder)


class Console:
    """Runs steps and commands; their output goes to ``log``, the terminal shows the current one."""

    def __init__(self, log: Path) -> None:
        self.log = log

    def say(self, text: str = "") -> None:
        print(text, flush=True)

    def run_steps(self, steps: Sequence[Step], stamps: Path, heading: str) -> bool:
        """Lists the downloads and runs the steps that are not current; False if there were none."""
        pending = [step for step in steps if not step.is_current(stamps)]
        if not pending:
            return False
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.write_text("", encoding="utf-8")
        downloads = [step.download for step in pending if step.download]
        self.say(f"{heading} Downloads, unless they are cached:" if downloads else heading)
        for download in downloads:
            self.say(f"  - {download}")
        for index, step in enumerate(pending, 1):
            self.say(f"[{index}/{len(pending)}] {step.title}")
            begin = time.monotonic()
            step.run()
            (stamps / step.name).write_text(step.key, encoding="utf-8")
            self.say(f"      done in {time.monotonic() - begin:.0f} s")
        return True

    def run(self, command: Sequence[object], env: Mapping[str, str], cwd: Path, hint: str = "") -> None:
        """Runs a command in ``cwd``.

        Raises:
            StepError: it failed; the message has the end of its output and ``hint``.
        """
        words = [str(word) for word in command]
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"\n$ {' '.join(words)}\n")
            log.flush()
            start = log.tell()
            try:
                code = self._wait(words, env, cwd, log.fileno())
            except FileNotFoundError as error:
                raise StepError(f"{words[0]} is not installed. {hint}") from error
        if code:
            with self.log.open(encoding="utf-8", errors="replace") as file:
                file.seek(start)
                tail = "".join(file.readlines()[-TAIL_LINES:])
            message = f"{words[0]} ended with status {code}. The end of its output:\n\n{tail}\nAll of it: {self.log}"
            raise StepError(f"{message}\n{hint}" if hint else message)

    def _wait(self, words: Sequence[str], env: Mapping[str, str], cwd: Path, log: int) -> int:
        """Runs a command with progress lines; returns its status."""
        process = subprocess.Popen(
            words, env=dict(env), cwd=cwd, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )
        stop = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(stop,), daemon=True)
        watcher.start()
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise
        finally:
            stop.set()
            watcher.join()

    def _watch(self, stop: threading.Event) -> None:
        """Shows the seconds and the newest line of the log until ``stop`` is set."""
        terminal = sys.stdout.isatty()
        columns = os.get_terminal_size().columns - 1 if terminal else 119
        begin = time.monotonic()
        while not stop.wait(1.0 if terminal else REPORT_INTERVAL):
            text = f"      {time.monotonic() - begin:4.0f} s  {self._last_line()}"[:columns]
            print(f"\r{text:<{columns}}" if terminal else text, end="" if terminal else "\n", flush=True)
        if terminal:
            print(f"\r{'':<{columns}}\r", end="", flush=True)

    def _last_line(self) -> str:
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - 2000))
            lines = file.read().decode(errors="replace").replace("\r", "\n").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
