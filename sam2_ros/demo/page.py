"""The viewer's page during the demo: prints its address, and takes a picture of it if there is no display."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from sam2_ros.media.child_process import ChildProcess

PICTURE_AT = 0.3  # of the clip: the object is tracked, and the browser has time to start
BROWSER_TIMEOUT_S = 60.0


class DemoPage:
    """Serves the page while the demo runs; does nothing without aiohttp. A context manager."""

    def __init__(self, tracker: str, folder: Path, name: str, frames: int | None) -> None:
        """``frames`` is the clip's number of frames; if it is None, no picture is taken."""
        self._tracker, self._frames = tracker, frames
        self._log, self._picture = folder / f"{name}_viewer.log", folder / f"{name}_viewer.png"
        self._stack = ExitStack()
        self._server: ChildProcess | None = None
        self._browser: subprocess.Popen[str] | None = None
        self._address = ""

    def __enter__(self) -> DemoPage:
        if importlib.util.find_spec("aiohttp") is not None:
            command = [sys.executable, "-m", "sam2_ros", "view", "--node", self._tracker, "--port", "0"]
            self._server = self._stack.enter_context(ChildProcess(command, self._log))
        return self

    def __exit__(self, *_: object) -> None:
        if self._browser is not None and self._browser.poll() is None:
            os.killpg(self._browser.pid, signal.SIGKILL)  # with the browser that it drives
            self._browser.wait()
        self._stack.close()

    def follow(self, frame: int) -> None:
        """To be called repeatedly with the number of frames so far."""
        if self._server is None:
            return
        if not self._address:
            printed = self._server.log.read_text(encoding="utf-8", errors="replace")
            self._address = printed.partition(" viewer at ")[2].partition("\n")[0].strip()
            if self._address:
                print(f"\nsam2_ros: watch it, and click on it: {self._address}", file=sys.stderr, flush=True)
        late = self._frames is not None and frame >= PICTURE_AT * self._frames
        has_display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
        if self._address and late and self._browser is None and not has_display:
            command = [sys.executable, "-m", "sam2_ros.viewer.browser", self._address, str(self._picture)]
            self._browser = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
            )

    def finish(self) -> list[Path]:
        """Waits for the picture and returns its file, if any; prints why there is none."""
        if self._browser is None:
            return []
        try:
            _, reason = self._browser.communicate(timeout=BROWSER_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            reason = f"the browser was not done within {BROWSER_TIMEOUT_S:.0f} s"
        if self._browser.returncode == 0:
            return [self._picture]
        last = (reason or "").strip().splitlines()
        print(f"sam2_ros: no picture of the page: {last[-1] if last else 'the browser failed'}", file=sys.stderr)
        return []
