"""A picture that a person chooses on the page: its object is lost until the camera shows the thing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="the viewer is a ROS 2 client")
pytest.importorskip("aiohttp", reason="the viewer's server")

from node_harness import Peer
from page import page_of_node, publish_until

from sam2_ros.media.rendered_scene import texture
from sam2_ros.ros.messages import image_message

SIZE = 70


def scene(shows: bool) -> np.ndarray:
    canvas = texture(320, 240, seed=1, base=(150, 145, 135), contrast=22)
    if shows:
        canvas[120 : 120 + SIZE, 200 : 200 + SIZE] = texture(SIZE, SIZE, seed=2, base=(205, 60, 45), contrast=45)
    return canvas


def publish(node: Peer, rgb: np.ndarray) -> None:
    node.track(image_message(rgb, node.image().header))


def test_a_chosen_picture_becomes_an_object(browser: Any, tmp_path: Path) -> None:
    """The file is larger than a command of the page may be."""
    photo = texture(900, 900, seed=7, base=(110, 120, 100), contrast=15)
    photo[150:750, 150:750] = cv2.resize(texture(SIZE, SIZE, seed=2, base=(205, 60, 45), contrast=45), (600, 600))
    picture, text = tmp_path / "red.png", tmp_path / "red.txt"
    cv2.imwrite(str(picture), photo[..., ::-1])
    text.write_text("no picture")
    settings = {"max_objects": 2, "search_every": 1}

    def without_it(node: Peer) -> None:
        publish(node, scene(False))

    with page_of_node(browser, tmp_path, "/page_pictures", settings, without_it) as (node, page):
        page.locator("#like-file").set_input_files(text)
        page.locator(".toast", has_text="red.txt is no picture").wait_for()
        page.locator("#like-file").set_input_files(picture)
        page.locator(".toast", has_text="object 1 added").wait_for()
        for seen, state in ((False, "lost"), (True, "visible")):
            chip = page.locator("#objects .chip", has_text=state)
            publish_until(lambda: publish(node, scene(seen)), chip.count, f"a {state} object on the page")  # noqa: B023
        page.close()
