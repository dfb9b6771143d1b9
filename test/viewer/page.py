"""The viewer's own process or that of a review, and its page in a headless Chromium."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from node_harness import PATIENCE, Peer, running, wait_until

START_S = 300.0  # at most, until the address is printed; a review loads the network first
END_S = 120.0


@contextmanager
def viewer(folder: Path, *options: str, verb: str = "view") -> Iterator[str]:
    """``sam2_ros view``, or another ``verb`` with a page, on a free port; gives the address that it prints."""
    log = folder / "viewer.log"
    with log.open("w") as output:
        command = [sys.executable, "-m", "sam2_ros", verb, "--port", "0", *options]
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        line = wait_until(
            lambda: next((line for line in log.read_text().splitlines() if " at http://" in line), None),
            f"the viewer's address in {log}",
            patience=START_S,
        )
        yield line.rpartition(" ")[2]
    finally:
        process.terminate()
        code = process.wait(END_S)
    assert code == 0, log.read_text()
    assert "Traceback" not in log.read_text(), log.read_text()


def address_of(tracker: Peer) -> str:
    """As the launch file's viewer prints it."""
    launched = tracker.launched
    assert launched is not None
    launched.wait_for_text("viewer at http://127.0.0.1:")
    return next(line.rpartition(" ")[2] for line in launched.text.splitlines() if " viewer at " in line)


def publish_until(publish: Callable[[], Any], shown: Callable[[], Any], what: str) -> None:
    """Publishes again until the page shows it: its viewer may have begun to listen after the message before."""

    def is_shown() -> Any:
        publish()
        return shown()

    wait_until(is_shown, what)


@contextmanager
def page_of_node(
    browser: Any, folder: Path, namespace: str, settings: dict[str, Any], publish: Callable[[Peer], Any]
) -> Iterator[tuple[Peer, Any]]:
    """A launched node with these parameters of the tracker and with its viewer, and the page once it shows the images
    that ``publish`` sends."""
    file = folder / "parameters.yaml"
    lines = "".join(f"      {name}: {value}\n" for name, value in settings.items())
    file.write_text(f"/**:\n  ros__parameters:\n    tracker:\n{lines}")
    options = {"params_file": str(file), "viewer": "true", "viewer_port": "0"}
    with running(folder, namespace=namespace, **options) as node:
        node.wait_for_state("active")
        node.wait_for_reliable()
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.set_default_timeout(1000 * PATIENCE)
        page.goto(address_of(node))
        tracking = page.locator("#status[data-level=ok]")  # not so while the camera has been silent for long
        publish_until(lambda: publish(node), tracking.count, "the page to show the camera")
        yield node, page


class Picture:
    """The page's canvas, addressed by pixels of the image."""

    def __init__(self, page: Any, width: int, height: int) -> None:
        self._page = page
        self._size = (width, height)

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where the centre of a pixel lies on the screen."""
        box = self._page.locator("#picture").bounding_box()
        width, height = self._size
        return box["x"] + (x + 0.5) * box["width"] / width, box["y"] + (y + 0.5) * box["height"] / height

    def click(self, x: float, y: float, *modifiers: str) -> None:
        for key in modifiers:
            self._page.keyboard.down(key)
        self._page.mouse.click(*self.place(x, y))
        for key in modifiers:
            self._page.keyboard.up(key)

    def drag(self, x0: float, y0: float, x1: float, y1: float) -> None:
        self._page.mouse.move(*self.place(x0, y0))
        self._page.mouse.down()
        self._page.mouse.move(*self.place((x0 + x1) / 2, (y0 + y1) / 2))
        self._page.mouse.move(*self.place(x1, y1))
        self._page.mouse.up()

    def color(self, x: int, y: int) -> tuple[int, int, int]:
        """What the canvas shows at a pixel."""
        width, height = self._size
        red, green, blue = self._page.locator("#picture").evaluate(
            "(canvas, [u, v]) => [...canvas.getContext('2d')"
            ".getImageData(Math.floor(u * canvas.width), Math.floor(v * canvas.height), 1, 1).data].slice(0, 3)",
            [(x + 0.5) / width, (y + 0.5) / height],
        )
        return red, green, blue
