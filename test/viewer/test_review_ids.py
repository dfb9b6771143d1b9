"""The page of a review in a real browser: which object is which."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("torch", reason="the embedded model needs torch")
pytest.importorskip("rclpy", reason="what the tests of the page share")

from data_sets import BALL, BOOK, HEIGHT, IMAGES, WIDTH, WRONG
from page import Picture, viewer
from test_review_page import SAVED, Data, go_to, opened

from sam2_ros.annotation.corrections import Corrections
from sam2_ros.annotation.data_set import read_data_set, write_data_set
from sam2_ros.annotation.results import write_result

CROSSED = 11  # image from which on the ids are exchanged


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Both objects have each other's id from an image on."""
    data = Data(tmp_path_factory.mktemp("review") / "data")
    corrections = Corrections(read_data_set(data.folder).recordings[0])
    corrections.add(corrections.now.exchanged(BALL, BOOK, CROSSED))
    write_result(data.folder, corrections.result())
    write_data_set(data.folder, "coco", [corrections.result()])
    return data


@pytest.fixture
def page(browser: Any, data: Data) -> Iterator[Any]:
    options = (str(data.folder), "--device", "cpu", "--threads", "1")
    with viewer(data.folder.parent, *options, verb="review") as address:
        yield from opened(browser, address)


def row(page: Any, name: str, key: int) -> Any:
    return page.locator("#objects li", has_text=name).filter(has_text=f"#{key}")


def centre(data: Data, frame: int, key: int) -> tuple[int, int]:
    """A pixel well inside of the object."""
    rows, columns = data.scene[frame].masks[key].nonzero()
    middle = len(rows) // 2
    return int(columns[middle]), int(rows[middle])


def test_ids_are_exchanged_split_and_merged(page: Any, data: Data) -> None:
    picture = Picture(page, WIDTH, HEIGHT)
    asked = page.locator("#refining span")
    assert [index for index, iou in enumerate(data.ious(BOOK)) if iou < 0.9] == list(range(CROSSED, IMAGES))
    page.keyboard.press("e")
    page.locator(".toast.error", has_text="Choose an object first").wait_for()

    # By clicks: the ball in the list, then the book in the picture, which has the ball's id there.
    go_to(page, CROSSED)
    row(page, "book", BOOK).click()
    page.locator("#exchange").click()
    asked.get_by_text("Exchange book #2 with which object? Choose it, or press Esc.").wait_for()
    picture.click(*centre(data, CROSSED, BOOK))
    page.locator(".toast", has_text=f"From image {CROSSED} on, #2 and #1 are exchanged").wait_for()
    asked.get_by_text("Refining book").wait_for()

    # By keys: from image 13 on the ball is another one, which is then the same again.
    go_to(page, 13)
    page.keyboard.press("Escape")
    first = page.locator("#objects li").first.inner_text()
    number, other = ("1", "2") if "ball" in first else ("2", "1")
    page.keyboard.press(number)
    asked.get_by_text("Refining ball").wait_for()
    page.keyboard.press("j")  # a merge that is not gone on with: what the split makes is not its answer
    asked.get_by_text("Merge ball #1 with which object?").wait_for()
    page.keyboard.press("k")
    page.locator(".toast", has_text="From image 13 on, #1 is #3").wait_for()
    asked.get_by_text("Refining ball #3").wait_for()
    row(page, "ball", 3).and_(page.locator("[data-state=visible]")).wait_for()
    row(page, "ball", BALL).and_(page.locator("[data-state=absent]")).wait_for()
    page.keyboard.press("j")
    asked.get_by_text("Merge ball #3 with which object?").wait_for()
    page.keyboard.press("Escape")  # not yet; the new one stays chosen
    asked.get_by_text("Refining ball #3").wait_for()
    page.keyboard.press("Escape")
    row(page, "ball", BALL).press("Enter")
    page.keyboard.press("j")
    row(page, "ball", 3).press("Enter")
    page.locator(".toast", has_text="#3 is #1 now").wait_for()
    row(page, "ball", 3).wait_for(state="detached")

    # Another merge, by mistake, is taken back.
    page.keyboard.press("Escape")
    page.keyboard.press(other)
    page.keyboard.press("j")
    row(page, "ball", BALL).click()
    page.locator("#room", has_text="1 in all").wait_for()
    page.keyboard.press("u")
    page.locator("#room", has_text="2 in all").wait_for()
    page.keyboard.press("s")
    page.locator(".toast", has_text="saved in").wait_for()
    page.locator("#status", has_text=SAVED).wait_for()
    assert data.ious(BOOK) == [1.0] * IMAGES
    assert [index for index, iou in enumerate(data.ious(BALL)) if iou < 1] == list(WRONG)
