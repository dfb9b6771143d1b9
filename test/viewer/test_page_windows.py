"""Where the network looks for each object, drawn into the page's picture on request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="the viewer is a ROS 2 client")
pytest.importorskip("aiohttp", reason="the viewer's server")

from node_harness import wait_until
from page import page_of_node, publish_until
from window_scene import HEIGHT, WIDTH, WINDOW, add, publish

from sam2_ros.media.overlay import object_color

# How much of a line between two points of the image is of a colour: each place along it, or one a pixel beside it.
SHARE = """(canvas, [size, [x0, y0], [x1, y1], color]) => {
  const scale = canvas.width / size, g = canvas.getContext("2d"), steps = 200;
  let found = 0;
  for (let i = 0; i <= steps; i += 1) {
    const [x, y] = [[x0, x1], [y0, y1]].map(([a, b]) => Math.round((a + ((b - a) * i) / steps) * scale));
    const { data } = g.getImageData(x - 1, y - 1, 3, 3);
    for (let at = 0; at < data.length; at += 4)
      if (color.every((value, channel) => Math.abs(data[at + channel] - value) < 40)) { found += 1; break; }
  }
  return found / steps;
}"""
X0, Y0, X1, Y1 = WINDOW
EDGES = [((X0, Y0), (X1, Y0)), ((X1, Y0), (X1, Y1)), ((X0, Y1), (X1, Y1)), ((X0, Y0), (X0, Y1))]


def lines(page: Any, edges: list[Any], object_id: int) -> list[float]:
    """The share of each edge that is of an object's colour."""
    canvas, color = page.locator("#picture"), list(object_color(object_id))
    return [canvas.evaluate(SHARE, [WIDTH, *edge, color]) for edge in edges]


def moved(by: int) -> list[Any]:
    """The edges of the window, so many pixels further outside."""
    return [((X0 - by, y - by if y == Y0 else y + by), (X1 + by, y - by if y == Y0 else y + by)) for y in (Y0, Y1)]


def test_windows_are_drawn_on_request(browser: Any, tmp_path: Path) -> None:
    settings = {"max_objects": 2, "window": "on", "window_budget": 0.0}
    with page_of_node(browser, tmp_path, "/page_windows", settings, publish) as (node, page):
        button = page.locator("#windows")
        assert button.get_attribute("aria-pressed") == "false"
        page.keyboard.press("w")
        page.locator(".toast", has_text="No object is seen through a window").wait_for()
        page.keyboard.press("w")
        add(node)

        visible = page.locator("#objects .chip", has_text="visible")
        publish_until(lambda: publish(node), lambda: visible.count() == 2, "both objects on the page")
        assert max(lines(page, EDGES, 1)) < 0.1, "nothing is drawn before it is asked for"
        for press in (lambda: page.keyboard.press("w"), button.click):
            press()
            wait_until(lambda: min(lines(page, EDGES, 1)) > 0.4, "the window of the small object")
            assert button.get_attribute("aria-pressed") == "true"
            assert max(lines(page, EDGES, 1)) < 0.95, "dashes"
            assert max(lines(page, moved(4), 1)) < 0.1, "nowhere else"
            frame = [((0, 0), (WIDTH, 0)), ((0, HEIGHT), (WIDTH, HEIGHT)), *EDGES]
            assert max(lines(page, frame, 2)) < 0.1, "the large object is seen in the whole image"
            press()
            wait_until(lambda: max(lines(page, EDGES, 1)) < 0.1, "the bare picture")
        page.keyboard.press("?")
        page.locator("#help dd", has_text="where the network looks for each object").wait_for()
        page.close()
