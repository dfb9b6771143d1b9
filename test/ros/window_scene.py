"""A small thing and a large one, and the window through which the network sees the small one."""

from __future__ import annotations

from typing import Any

from node_harness import Peer, box_prompt

from sam2_ros.media.rendered_scene import texture
from sam2_ros.ros.messages import image_message

WIDTH, HEIGHT = 320, 240
SMALL, LARGE = (220, 102, 268, 138), (10, 20, 130, 220)  # boxes: edges x0, y0, x1, y1
# 2.5 times the small box' width, in the image's shape: 120 x 90 around its centre, (244, 120). For the large one that
# would be larger than the image.
WINDOW = (184, 75, 304, 165)


def publish(node: Peer) -> Any:
    """The scene, and what the node makes of it."""
    rgb = texture(WIDTH, HEIGHT, seed=1, base=(150, 145, 135), contrast=22)
    for number, (x0, y0, x1, y1) in enumerate((SMALL, LARGE)):
        base = ((205, 60, 45), (60, 90, 200))[number]
        rgb[y0:y1, x0:x1] = texture(x1 - x0, y1 - y0, seed=2 + number, base=base, contrast=45)
    return node.track(image_message(rgb, node.image().header))


def add(node: Peer) -> Any:
    """Adds both, and returns what the node makes of the next image."""
    answer = node.add(box_prompt(*SMALL), box_prompt(*LARGE))
    assert answer.success, answer.message
    return publish(node)
