"""The page of a review in a real browser: what a person corrects, and what is then in the data set."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

pytest.importorskip("torch", reason="the embedded model needs torch")
pytest.importorskip("rclpy", reason="what the tests of the page share")

from data_sets import BALL, BOOK, HEIGHT, IMAGES, WIDTH, WRONG, add_recording, make_data_set
from page import Picture, viewer
from pycocotools.coco import COCO
from test_access import ask

from sam2_ros.evaluation.mask_metrics import jaccard
from sam2_ros.media.rendered_scene import RenderedFrame, bounding_box

PATIENCE = 240.0  # seconds
SAVED = re.compile("^saved$")


class Data:
    """A data set and its truth."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.scene = make_data_set(folder)

    def ious(self, key: int) -> list[float]:
        """With the truth, for each image; 0 where there is no mask."""
        found = COCO(str(self.folder / "annotations.json"))
        values = [0.0] * IMAGES
        for each in found.anns.values():
            if each["object_id"] == key:
                frame = found.imgs[each["image_id"]]["frame_id"]
                values[frame] = jaccard(found.annToMask(each).astype(np.bool_), self.scene[frame].masks[key])
        return values

    def doubtful(self) -> list[int]:
        return [row["frame"] for row in json.loads((self.folder / "review.json").read_text())]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return Data(tmp_path_factory.mktemp("review") / "data")


@pytest.fixture(scope="module")
def address(data: Data) -> Iterator[str]:
    with viewer(data.folder.parent, str(data.folder), "--device", "cpu", "--threads", "1", verb="review") as printed:
        yield printed


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """At the most doubtful image, or the first one."""
    yield from opened(browser, address)


def opened(browser: Any, address: str) -> Iterator[Any]:
    tab = browser.new_page(viewport={"width": 1200, "height": 900})
    errors: list[str] = []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    tab.set_default_timeout(1000 * PATIENCE)
    tab.goto(address)
    assert not errors
    tab.locator("#empty").wait_for(state="hidden")
    yield tab
    tab.close()
    assert not errors


def go_to(page: Any, frame: int) -> None:
    """Scrubs to an image and waits until it is shown."""
    page.locator("#scrub").fill(str(frame))
    page.locator("#place", has_text=f"Image {frame} of {IMAGES - 1}").wait_for()
    page.locator(f'#picture[data-stamp="{frame}"]').wait_for()


def wait_for(page: Any, condition: Callable[[], Any]) -> None:
    """While the page goes on, in this thread's event loop."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        page.wait_for_timeout(20)


def test_what_is_asked_before_the_overview_came_is_done_then(browser: Any, address: str) -> None:
    """A page opens where another one left off. At the end it is at image 7 again, as the next test expects."""
    held: list[str] = []
    routes: list[Any] = []

    def relay(route: Any) -> None:
        server = route.connect_to_server()
        routes.append(route)

        def pass_on(message: str | bytes) -> None:
            if routes and isinstance(message, str) and '"overview"' in message:
                held.append(message)
            else:
                route.send(message)

        server.on_message(pass_on)

    def ask_early(tab: Any, begin: int, work: Callable[[], None], end: int) -> None:
        tab.goto(address)
        tab.locator(f'#picture[data-stamp="{begin}"]').wait_for()
        wait_for(tab, lambda: held)
        work()
        assert tab.locator("#place").text_content() == "–"
        route = routes.pop()
        while held:
            route.send(held.pop(0))
        tab.locator("#place", has_text=f"Image {end} of {IMAGES - 1}").wait_for()
        tab.locator(f'#picture[data-stamp="{end}"]').wait_for()

    for begin, work, end in (
        (7, lambda tab: tab.locator("#scrub").fill("2"), 2),
        (2, lambda tab: tab.keyboard.press("d"), 7),
    ):
        tab = browser.new_page()
        tab.set_default_timeout(1000 * PATIENCE)
        tab.route_web_socket("**/socket", relay)
        ask_early(tab, begin, partial(work, tab), end)
        tab.close()


def asked(address: str, command: dict[str, object]) -> Any:
    """The answer to a command."""

    async def converse() -> Any:
        async with aiohttp.ClientSession() as session, session.ws_connect(f"{address}socket") as connection:
            await connection.send_json(command)
            while True:
                message = await connection.receive(timeout=PATIENCE)
                if message.type == aiohttp.WSMsgType.TEXT and message.json()["type"] == "answer":
                    return message.json()

    return elsewhere(lambda: asyncio.run(converse()))


def test_no_picture_is_sent_before_a_page_says_what_is_in_front(address: str) -> None:
    """It would be sent again then, and take the place of another one on the way."""

    async def received(connection: Any, count: int, kind: str) -> list[str]:
        """What comes until so many of a kind have come."""
        kinds: list[str] = []
        while kinds.count(kind) < count:
            message = await connection.receive(timeout=PATIENCE)
            kinds.append("picture" if message.type == aiohttp.WSMsgType.BINARY else message.json()["type"])
        return kinds

    async def look() -> list[str]:
        async with aiohttp.ClientSession() as session:
            async with session.ws_connect(f"{address}socket") as first:
                await first.send_json({"type": "watch", "camera": "clip"})
                await received(first, 1, "picture")
            async with session.ws_connect(f"{address}socket") as second:
                return await received(second, 2, "ping")

    assert elsewhere(lambda: asyncio.run(look())) == ["cameras", "ping", "ping"]


def elsewhere(work: Callable[[], Any]) -> Any:
    """Does something in another thread: the browser has its event loop in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def box_of(scene: list[RenderedFrame], frame: int, key: int) -> tuple[int, int, int, int]:
    return bounding_box(scene[frame].masks[key])


def test_the_doubtful_images_come_first_by_keys(page: Any) -> None:
    place = page.locator("#place")
    place.get_by_text(f"Image 7 of {IMAGES - 1}").wait_for()
    page.locator("#why", has_text="ball #1 both ways of tracking differ").wait_for()
    assert page.locator("#doubts li").count() == 3
    for key, frame in (("d", 8), ("d", 13), ("D", 8), (".", 9), (",", 8)):
        page.keyboard.press(key)
        page.locator("#place", has_text=f"Image {frame} of").wait_for()
    page.locator("#doubts button", has_text="13").click()
    page.locator("#why", has_text="book #2 unsure mask").wait_for()
    assert page.locator("#status").inner_text() == "saved"


def test_a_picture_that_comes_late_moves_nobody_back(page: Any) -> None:
    """The picture of image 8 is held up until the page has gone on to image 13."""
    held: list[bytes] = []
    holding = False

    def shows(message: str | bytes, *frames: int) -> bool:
        return isinstance(message, bytes) and any(f'"stamp": "{frame}"'.encode() in message for frame in frames)

    def route(socket: Any) -> None:
        server = socket.connect_to_server()
        server.on_message(lambda each: held.append(each) if holding and shows(each, 8, 13) else socket.send(each))
        sockets.append(socket)

    sockets: list[Any] = []
    page.route_web_socket("**/socket*", route)
    go_to(page, 7)
    page.reload()
    page.locator('#picture[data-stamp="7"]').wait_for()
    holding = True
    for frame in (8, 13):
        page.keyboard.press("d")
        page.locator("#place", has_text=f"Image {frame} of").wait_for()
        wait_for(page, lambda: any(shows(each, frame) for each in held))  # noqa: B023
    page.wait_for_timeout(200)  # until the answer has come, which was not held up
    sockets[-1].send(held.pop(0))
    page.locator('#picture[data-stamp="8"]').wait_for()
    assert page.locator("#place", has_text="Image 13 of").count() == 1
    holding = False
    for each in held:
        sockets[-1].send(each)
    page.keyboard.press("D")
    page.locator("#place", has_text="Image 8 of").wait_for()


def test_an_object_is_corrected_tracked_both_ways_and_saved(page: Any, data: Data) -> None:
    picture = Picture(page, WIDTH, HEIGHT)
    before = data.ious(BALL)
    assert [index for index in range(IMAGES) if before[index] < 0.9] == list(WRONG)
    go_to(page, 7)
    page.locator("#objects li", has_text="ball").click()
    page.locator("#refining", has_text="Refining ball").wait_for()
    picture.drag(*box_of(data.scene, 7, BALL))
    page.locator(".toast", has_text="ball refined").wait_for()
    page.locator("#status", has_text="not saved").wait_for()
    page.keyboard.press("p")
    page.locator(".toast", has_text="tracked to images").wait_for()
    page.locator("#doubtful", has_text="1,").wait_for()
    page.keyboard.press("s")
    page.locator(".toast", has_text="saved in").wait_for()
    page.locator("#status", has_text=SAVED).wait_for()
    after = data.ious(BALL)
    assert min(after) > 0.75
    # Where the annotation was right it stays as it was.
    kept = [index for index in range(IMAGES) if index not in WRONG]
    assert [after[index] for index in kept] == [before[index] for index in kept]
    assert data.ious(BOOK) == [1.0] * IMAGES and data.doubtful() == [13]


def test_clicks_add_an_object_which_is_named_and_removed(page: Any, data: Data) -> None:
    picture = Picture(page, WIDTH, HEIGHT)
    go_to(page, 3)
    rows = page.locator("#objects li")
    picture.drag(10, 10, 60, 60)  # of the ground
    page.locator(".toast", has_text="added").wait_for()
    rows.nth(2).wait_for()
    rows.nth(2).get_by_text("Rename").click()
    rows.nth(2).locator("input").fill("floor")
    rows.nth(2).locator("input").press("Enter")
    page.locator("#objects .name", has_text="floor").wait_for()
    rows.nth(2).get_by_text("Remove").click()
    page.locator(".toast button", has_text="Everywhere").click()
    rows.nth(2).wait_for(state="detached")
    for _ in range(2):  # the removal, and the name
        page.keyboard.press("u")
    page.locator("#objects .name", has_text="floor").wait_for(state="detached")
    rows.nth(2).wait_for()
    page.keyboard.press("u")
    rows.nth(2).wait_for(state="detached")
    page.locator("#status", has_text=SAVED).wait_for()
    # From the marked image to another one.
    page.keyboard.press("m")
    go_to(page, 5)
    rows.filter(has_text="book").get_by_text("Remove").click()
    page.locator(".toast button", has_text="Image 3 to 5").click()
    page.locator("#objects li[data-state=absent]", has_text="book").wait_for()
    page.keyboard.press("s")
    page.locator(".toast", has_text="saved in").wait_for()
    assert [index for index, iou in enumerate(data.ious(BOOK)) if not iou] == [3, 4, 5]


def test_what_can_not_be_done_is_told(page: Any, address: str) -> None:
    go_to(page, 2)
    page.keyboard.press("p")
    page.locator(".toast.error", has_text="nothing was corrected in this image").wait_for()
    page.locator("#objects li", has_text="book").get_by_text("Remove").click()
    page.locator(".toast button", has_text="In this image").click()
    page.locator("#objects li[data-state=absent]", has_text="book").click()
    page.keyboard.press("p")
    page.locator(".toast.error", has_text="object 2 has no mask in this image; mark it first").wait_for()
    status, text, _ = elsewhere(lambda: ask(address, Origin="http://elsewhere.example"))
    assert status == 403 and "requests from another site" in text
    assert asked(address, {"type": "seek", "camera": "clip", "frame": IMAGES})["message"] == (
        "not understood: there is no image 16; accepted: 0 to 15"
    )
    assert asked(address, {"type": "seek", "camera": "lost"})["message"].endswith("there are: clip")
    assert "accepted: seek, stop, add" in asked(address, {"type": "explode", "camera": "clip"})["message"]


def test_an_image_that_is_right_leaves_the_list_and_nothing_is_lost(browser: Any, tmp_path: Path) -> None:
    data = Data(tmp_path / "data")
    before = (data.folder / "annotations.json").read_bytes()
    options = (str(data.folder), "--device", "cpu", "--threads", "1")
    with viewer(tmp_path, *options, verb="review") as address:
        for page in opened(browser, address):
            page.keyboard.press("g")
            page.locator("#place", has_text="Image 8 of").wait_for()
            page.locator("#doubtful", has_text="2,").wait_for()
    said = (tmp_path / "viewer.log").read_text()
    assert "the corrections of clip are not saved, but kept" in said
    assert (data.folder / "annotations.json").read_bytes() == before and data.doubtful() == [7, 8, 13]
    with viewer(tmp_path, *options, verb="review") as address:
        for page in opened(browser, address):
            page.locator("#status", has_text="not saved").wait_for()
            page.locator("#doubtful", has_text="2,").wait_for()
            page.keyboard.press("s")
            page.locator(".toast", has_text="saved in").wait_for()
    assert data.doubtful() == [8, 13] and not any((data.folder / "unsaved").iterdir())


def test_what_waits_for_an_answer_is_of_its_recording(browser: Any, tmp_path: Path) -> None:
    make_data_set(tmp_path / "data")
    add_recording(tmp_path / "data", "other")
    with viewer(tmp_path, str(tmp_path / "data"), "--device", "cpu", "--threads", "1", verb="review") as address:
        for page in opened(browser, address):
            balls = page.locator("#objects li", has_text="ball")
            balls.get_by_text("Remove").click()
            page.locator("#cameras button", has_text="other").click()
            page.locator("#place", has_text="Image 7 of").wait_for()
            page.locator(".toast button", has_text="Everywhere").click()
            page.locator("#cameras button", has_text="clip").click()
            page.locator("#room", has_text="1 in all").wait_for()
            assert balls.count() == 0
            page.locator("#cameras button", has_text="other").click()
            page.locator("#room", has_text="2 in all").wait_for()
            assert balls.count() == 1
