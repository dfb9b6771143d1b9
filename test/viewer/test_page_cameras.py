"""The page on a node with two cameras: each has its picture, its objects and its troubles, and a click is its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="the viewer is a ROS 2 client")
pytest.importorskip("aiohttp", reason="the viewer's server")

from node_harness import HEIGHT, PATIENCE, WIDTH, Peer, running, wait_until
from page import Picture, address_of

from sam2_ros.ros.messages import full_mask

NODE = "/pair/tracker"


class Lighter(Peer):
    def image(self, **changes: Any) -> Any:
        return super().image(data=bytes([180]) * (3 * WIDTH * HEIGHT), **changes)


@pytest.fixture(scope="module")
def pair(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Peer, Peer]]:
    """Peers of the cameras left and right of one node; both see grey, the right one a lighter one."""
    folder: Path = tmp_path_factory.mktemp("pair")
    file = folder / "parameters.yaml"
    file.write_text(
        "/**:\n  ros__parameters:\n    cameras: [left, right]\n    model.name: 'null'\n    diagnostics.period: 0.3\n"
        "    input.timeout: 0.5\n    tracker.history: 30\n"
    )
    options = {"params_file": str(file), "viewer": "true", "viewer_port": "0"}
    with running(folder, namespace="/pair", **options) as node, ExitStack() as stack:
        node.wait_for_state("active")
        left = Peer(f"{NODE}/left", "/pair/left/image")
        right = Lighter(f"{NODE}/right", "/pair/right/image")
        for peer in (left, right):
            peer.launched = node.launched
            stack.callback(peer.close)
        yield left, right


@pytest.fixture(scope="module")
def address(pair: tuple[Peer, Peer]) -> str:
    return address_of(pair[0])


def is_grey(canvas: Any, grey: int) -> bool:
    red = canvas.evaluate("canvas => canvas.getContext('2d').getImageData(5, 5, 1, 1).data[0]")
    return abs(int(red) - grey) <= 3


def test_a_click_on_the_second_camera_is_its_own(browser: Any, pair: tuple[Peer, Peer], address: str) -> None:
    left, right = pair
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.set_default_timeout(1000 * PATIENCE)
    page.goto(address)
    with left.camera(0.1), right.camera(0.1):
        tabs = page.locator("#cameras button")
        wait_until(lambda: tabs.all_inner_texts() == ["left", "right"], "a tab for each camera", left.launched)
        picture = Picture(page, WIDTH, HEIGHT)
        page.locator("#status[data-level=ok]").wait_for()
        wait_until(lambda: abs(picture.color(60, 40)[0] - 99) <= 3, "the left camera's picture")
        picture.click(60, 40)
        page.locator("#objects li").wait_for()
        # What is in front and what is not: both tabs show a picture.
        for camera, grey in (("left", 99), ("right", 180)):
            center = f"#cameras [data-camera={camera}] canvas"
            wait_until(partial(is_grey, page.locator(center), grey), f"{camera}'s small picture")
        page.keyboard.press("Space")  # what is held is the left camera's
        tabs.nth(1).click()
        page.locator("#held").wait_for(state="hidden")
        wait_until(lambda: abs(picture.color(60, 40)[0] - 180) <= 3, "the right camera's picture")
        page.locator("#objects li").wait_for(state="detached")
        page.locator("#room", has_text="0 of").wait_for()
        assert page.locator("#hint").is_visible()
        # A picture that the tracker has forgotten: one press takes the newest one instead.
        page.locator("#hold").click()
        before = len(right.tracks)
        wait_until(lambda: len(right.tracks) > before + 40, "frames while the picture is held", left.launched)
        picture.drag(80, 30, 120, 60)
        page.get_by_role("button", name="Use the newest one").click()
        page.locator("#hold").click()
        page.locator("#objects li").wait_for()
        right_object = wait_until(lambda: right.tracks and right.tracks[-1].objects, "the object", left.launched)[0]
        assert full_mask(right_object.mask)[45, 100]
        (left_object,) = left.tracks[-1].objects
        assert full_mask(left_object.mask)[40, 60] and not full_mask(left_object.mask)[45, 100]
    # The left camera goes on alone: the right one's trouble is told where it is looked at, and only there.
    with left.camera(0.1):
        page.locator("#status[data-level=error]").wait_for()
        tabs.nth(0).click()
        page.locator("#status[data-level=ok]").wait_for()
        wait_until(lambda: page.locator("#objects li").count() == 1, "the left camera's object")
    page.close()
    assert not errors
