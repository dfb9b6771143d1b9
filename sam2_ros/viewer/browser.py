"""A headless Chromium, driven by Playwright, for screenshots and tests."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Root has no sandbox, and rendering needs no GPU.
_OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]


class NoBrowser(RuntimeError):
    """No browser can be driven; ``str(error)`` says what is missing."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless browser: ``CHROMIUM``, else the first of :data:`PROGRAMS`.

    Raises:
        NoBrowser: Chromium or Playwright is missing, or the browser does not start.
    """
    programs = (os.environ.get("CHROMIUM", ""), *PROGRAMS)
    path = next(filter(None, map(shutil.which, programs)), None)
    if path is None:
        raise NoBrowser("no Chromium is installed (Debian: apt-get install chromium; CHROMIUM names its path)")
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        raise NoBrowser("Playwright is not installed (python3 -m pip install playwright)") from None
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=path, args=_OPTIONS)
        except Error as error:
            raise NoBrowser(f"{path} does not start: {error.message.splitlines()[0]}") from None
        try:
            yield browser
        finally:
            browser.close()


def screenshot(address: str, file: Path) -> None:
    """Saves a screenshot of the viewer's page, once it shows a picture.

    Raises:
        NoBrowser: as :func:`chromium`.
        TimeoutError: no picture came.
    """
    with chromium() as browser:
        from playwright.sync_api import TimeoutError as PlaywrightTimeout

        page = browser.new_page(viewport={"width": 1440, "height": 900}, color_scheme="dark")
        page.goto(address)
        try:
            page.locator("#empty").wait_for(state="hidden", timeout=30_000)
        except PlaywrightTimeout:
            raise TimeoutError(f"the page at {address} got no picture within 30 s") from None
        page.wait_for_timeout(2000)  # for charts and timeline
        page.screenshot(path=file)


if __name__ == "__main__":
    try:
        screenshot(sys.argv[1], Path(sys.argv[2]))
    except (NoBrowser, TimeoutError) as error:
        sys.exit(str(error))
