"""The page in a real browser, against the launched node: what a person does, and what the node then publishes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="the viewer is a ROS 2 client")
pytest.importorskip("aiohttp", reason="the viewer's server")

from lifecycle_msgs.msg import Transition
from node_harness import HEIGHT, PATIENCE, WIDTH, Peer, running, wait_until
from page import Picture, address_of

from sam2_ros.msg import TrackedObjectArray
from sam2_ros.ros.messages import full_mask, to_stamp

NAMESPACE = "/watched"
GREY = 99  # of the harness' images


@pytest.fixture(scope="module")
def tracker(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    folder = tmp_path_factory.mktemp("watched")
    file = folder / "parameters.yaml"
    file.write_text(
        "/**:\n  ros__parameters:\n    model.name: 'null'\n    diagnostics.period: 0.3\n    tracker.max_objects: 4\n"
        "    tracker.history: 200\n"
    )
    with running(folder, namespace=NAMESPACE, params_file=str(file), viewer="true", viewer_port="0") as peer:
        peer.wait_for_state("active")
        with peer.camera(0.1):
            yield peer


@pytest.fixture(scope="module")
def address(tracker: Peer) -> str:
    """As the launch file's viewer prints it."""
    return address_of(tracker)


def forget(tracker: Peer) -> int:
    """Removes all objects; the stamp of the newest image on which they may be seen."""
    tracker.reset()
    wait_until(lambda: tracker.tracks and not tracker.tracks[-1].objects, "no objects", tracker.launched)
    return to_stamp(tracker.tracks[-1].header.stamp)


def wait_for_picture(page: Any, after: int) -> None:
    """Until the page shows a later image: a click on an object that is still in the picture refines that."""
    page.locator("#status[data-level=ok]").wait_for()
    canvas = page.locator("#picture")
    wait_until(lambda: int(canvas.get_attribute("data-stamp")) > after, "a later picture")


@pytest.fixture
def page(browser: Any, tracker: Peer, address: str) -> Iterator[Any]:
    before = forget(tracker)
    opened = browser.new_page(viewport={"width": 1200, "height": 900})
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    opened.set_default_timeout(1000 * PATIENCE)
    opened.goto(address)
    wait_for_picture(opened, before)
    yield opened
    opened.close()
    assert not errors


@pytest.fixture
def picture(page: Any) -> Picture:
    return Picture(page, WIDTH, HEIGHT)


def objects_of(tracker: Peer, count: int) -> Any:
    """The tracked objects, once there are so many."""

    def found() -> Any:
        newest = tracker.tracks[-1].objects if tracker.tracks else []
        return newest if len(newest) == count else None

    return wait_until(found, f"{count} objects", tracker.launched) if count else None


def test_a_click_adds_the_object_under_it(tracker: Peer, page: Any, picture: Picture) -> None:
    assert max(abs(value - GREY) for value in picture.color(60, 40)) <= 3
    picture.click(60, 40)
    page.locator("#objects li").wait_for()
    (known,) = objects_of(tracker, 1)
    mask = full_mask(known.mask)
    assert mask[40, 60] and not mask[40, 90]
    # The page shows what was published: the mask's colour inside, the bare picture beside it, and there the pointer
    # finds the object.
    wait_until(lambda: max(picture.color(60, 40)) - min(picture.color(60, 40)) > 20, "the mask in the picture")
    assert max(abs(value - GREY) for value in picture.color(90, 40)) <= 3
    page.mouse.move(*picture.place(60, 40))
    page.locator("#picture.over").wait_for()
    page.mouse.move(*picture.place(90, 40))
    page.locator("#picture:not(.over)").wait_for()
    assert page.locator("#objects .chip").inner_text() == "visible"


def test_a_click_on_an_object_refines_it_and_a_box_adds_one(tracker: Peer, page: Any, picture: Picture) -> None:
    picture.drag(20, 20, 60, 50)
    (known,) = objects_of(tracker, 1)
    assert (known.bbox.size_x, known.bbox.size_y) == pytest.approx((40, 30), abs=2)
    wait_until(lambda: max(picture.color(40, 30)) - min(picture.color(40, 30)) > 20, "the mask in the picture")
    picture.click(40, 30)
    page.locator("#refining").wait_for()
    page.locator(".toast", has_text="refined").wait_for()
    wait_until(lambda: any(e.event == e.CORRECTED and e.id == known.id for e in tracker.events), "its correction")
    (corrected,) = objects_of(tracker, 1)
    assert corrected.id == known.id
    page.keyboard.press("Escape")
    page.locator("#refining").wait_for(state="hidden")
    picture.click(120, 90, "Shift")
    page.locator(".toast.error", has_text="Choose an object first").wait_for()
    objects_of(tracker, 1)


def test_objects_are_renamed_removed_and_reset(tracker: Peer, page: Any, picture: Picture) -> None:
    for x in (30, 80, 130):
        picture.click(x, 60)
        page.locator("#objects li").nth((x - 30) // 50).wait_for()
    first = page.locator("#objects li").first
    first.get_by_text("Rename").click()
    first.locator("input").fill("cup")
    first.locator("input").press("Enter")
    wait_until(lambda: objects_of(tracker, 3)[0].name == "cup", "the name")
    page.locator("#objects li .name", has_text="cup").wait_for()
    page.locator("#objects li").nth(1).get_by_text("Remove").click()
    assert [known.name for known in objects_of(tracker, 2)] == ["cup", ""]
    page.locator("#reset").click()
    assert len(objects_of(tracker, 2)) == 2, "the first press asks"
    page.locator("#reset.danger").wait_for()

    def pressed_again() -> bool:
        page.locator("#reset").click()  # within 3 s of the press before, on a busy machine sooner or later
        return not tracker.tracks[-1].objects

    wait_until(pressed_again, "no objects")
    page.locator("#objects li").first.wait_for(state="detached")


def test_a_refusal_is_told(page: Any, picture: Picture, tracker: Peer) -> None:
    for count, x in enumerate((20, 60, 100, 140), 1):
        picture.click(x, 60)
        objects_of(tracker, count)
    wait_until(lambda: page.locator("#objects li").count() == 4, "four rows")
    picture.click(80, 20)
    page.locator(".toast.error", has_text="raise tracker.max_objects or remove one").wait_for()


def test_a_click_belongs_to_the_picture_that_was_seen(tracker: Peer, page: Any, picture: Picture) -> None:
    page.keyboard.press("Space")
    page.locator("#held").wait_for()
    before = len(tracker.tracks)
    wait_until(lambda: len(tracker.tracks) > before + 10, "frames while the picture is held")
    picture.click(60, 40)
    told = page.locator(".toast", has_text="added").inner_text()
    age = re.search(r"on the picture of (\d+\.\d+) s ago", told)
    assert age, told
    # The harness stamps its images a second apart: ten frames are ten seconds, whatever the clock says.
    assert float(age[1]) >= 10
    page.keyboard.press("Space")
    page.locator("#held").wait_for(state="hidden")


def test_a_page_that_opens_shows_no_picture_from_before(
    browser: Any, address: str, tracker: Peer, page: Any, picture: Picture
) -> None:
    """Nobody looked meanwhile, and what was in the last picture is gone: a click means what is there now."""
    picture.click(60, 40)
    page.locator("#objects li").wait_for()
    page.close()
    images = f"{NAMESPACE}/image"
    wait_until(lambda: tracker.node.count_subscribers(images) == 1, "the viewer to let go of the images")
    before = forget(tracker)
    later = browser.new_page(viewport={"width": 1200, "height": 900})
    later.set_default_timeout(1000 * PATIENCE)
    later.goto(address)
    later.locator("#status[data-level=ok]").wait_for()
    assert int(later.locator("#picture").get_attribute("data-stamp")) > before
    Picture(later, WIDTH, HEIGHT).click(60, 40)
    later.locator("#objects li").wait_for()
    objects_of(tracker, 1)
    later.close()


def test_the_keyboard_is_enough(tracker: Peer, page: Any, picture: Picture) -> None:
    page.locator("#picture").focus()
    page.keyboard.press("ArrowLeft")  # the cross begins in the middle, and moves by 8 pixels
    page.keyboard.press("Enter")
    (known,) = objects_of(tracker, 1)
    assert full_mask(known.mask)[HEIGHT // 2, WIDTH // 2 - 8]
    page.locator("#objects li").wait_for()
    page.keyboard.press("1")
    page.locator("#refining").wait_for()
    page.keyboard.press("n")
    page.keyboard.type("ball")
    page.keyboard.press("Enter")
    wait_until(lambda: objects_of(tracker, 1)[0].name == "ball", "the name")
    page.keyboard.press("Delete")
    wait_until(lambda: not tracker.tracks[-1].objects, "no objects")


def test_keys_act_on_the_list_while_pictures_come_without_tracks(tracker: Peer, page: Any, picture: Picture) -> None:
    picture.click(60, 40)
    page.locator("#objects li").wait_for()
    try:
        assert tracker.change_state(Transition.TRANSITION_DEACTIVATE)
        page.locator("#status", has_text="not tracking").wait_for()
        page.keyboard.press("1")
        page.locator("#refining").wait_for()
    finally:
        assert tracker.change_state(Transition.TRANSITION_ACTIVATE)
    page.locator("#status[data-level=ok]").wait_for()


def test_it_fits_a_phone(browser: Any, address: str, tracker: Peer) -> None:
    before = forget(tracker)
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    phone = context.new_page()
    phone.set_default_timeout(1000 * PATIENCE)
    phone.goto(address)
    wait_for_picture(phone, before)
    assert phone.evaluate("() => document.documentElement.scrollWidth") <= 390
    wait_until(lambda: max(abs(value - GREY) for value in Picture(phone, WIDTH, HEIGHT).color(60, 40)) <= 3, "an image")
    box = phone.locator("#picture").bounding_box()
    assert box["width"] == 390
    phone.touchscreen.tap(box["x"] + box["width"] * 60.5 / WIDTH, box["y"] + box["height"] * 40.5 / HEIGHT)
    (known,) = objects_of(tracker, 1)
    assert full_mask(known.mask)[40, 60]
    context.close()


def test_latency_rate_and_timeline_are_drawn(tracker: Peer, page: Any, picture: Picture) -> None:
    picture.click(60, 40)
    page.locator("#objects li").wait_for()

    def inked(selector: str, rows: float = 1.0) -> int:
        """Pixels that are drawn in the upper ``rows`` of a canvas."""
        return int(
            page.locator(selector).evaluate(
                "(c, rows) => { const d = c.getContext('2d').getImageData(0, 0, c.width, c.height * rows).data;"
                " let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 60; return n; }",
                rows,
            )
        )

    def value(chart: str) -> float:
        page.locator(f"#{chart} output", has_text=re.compile(r"\d")).wait_for()
        return float(page.locator(f"#{chart} output").evaluate("each => parseFloat(each.textContent)"))

    # Every curve is scaled to its own largest value: what is not zero runs through the upper half.
    for chart in ("latency", "rate"):
        wait_until(lambda: value(chart) > 0 and inked(f"#{chart} canvas", 0.5) > 2, chart)  # noqa: B023
    assert value("memory") == pytest.approx(tracker.tracks[-1].bank_bytes / 2**20, abs=0.06)
    wait_until(lambda: value("drops") == 0, "seconds without drops")
    assert inked("#drops canvas") > 50
    assert tracker.tracks[-1].frames_dropped or inked("#drops canvas", 0.5) == 0, "on a busy machine some are dropped"
    empty = inked("#timeline")
    wait_until(lambda: inked("#timeline") > empty + 100, "the object's row in the timeline")


def test_ages_of_masks_are_those_of_the_diagnostics(tracker: Peer, page: Any, picture: Picture) -> None:
    picture.click(60, 40)
    objects_of(tracker, 1)
    for cell in ("#age-network-p50", "#age-network-p99"):
        page.locator(cell, has_text=re.compile(r"^\d+ ms$")).wait_for()
    for cell in ("#rate-camera", "#rate-engine"):
        page.locator(cell, has_text=re.compile(r"^\d+\.\d Hz$")).wait_for()
    assert page.locator("#age-carried-p50").inner_text() == "–", "nobody has subscribed"
    name = f"{tracker.node_name}/tracks_live"
    subscription = tracker.node.create_subscription(TrackedObjectArray, name, lambda _: None, 10)
    try:
        for cell in ("#age-carried-p50", "#age-carried-p99"):
            page.locator(cell, has_text=re.compile(r"^\d+ ms$")).wait_for()
    finally:
        tracker.node.destroy_subscription(subscription)
    page.locator("#age-carried-p50", has_text="–").wait_for()
