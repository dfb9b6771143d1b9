"""The whole way with the model that comes with the package: camera topic, prompt service, tracks of what moves."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
from node_harness import Peer, box_prompt, running

from sam2_ros.msg import TrackedObject, TrackedObjectArray
from sam2_ros.ros.messages import full_mask, rgb_image
from sam2_ros.tools.scene import bounding_box, render
from sam2_ros.tracking.types import BoolMask

BALL, BOOK = 1, 2
FLOOR = 0.85  # mean IoU of each object


def iou(a: BoolMask, b: BoolMask) -> float:
    return int((a & b).sum()) / int((a | b).sum())


def publish(node: Peer, rgb: np.ndarray) -> TrackedObjectArray:
    """One image, and what the node makes of it."""
    image = node.send(rgb_image(rgb, node.image().header))
    return node.wait_until(lambda: node.tracks_of(image), "tracks of the image")


def test_two_moving_objects_are_tracked(folder: Path) -> None:
    frames = list(islice(render(16, width=320, height=240, post=False), 9))
    with running(folder, namespace="/embedded") as node:
        node.wait_for_state("active")
        node.wait_for_reliable()
        publish(node, frames[0].rgb)
        boxes = {number: bounding_box(mask) for number, mask in frames[0].masks.items()}
        answer = node.add(box_prompt(*boxes[BALL], name="ball"), box_prompt(*boxes[BOOK], name="book"))
        assert answer.success, answer.message
        scores: dict[str, list[float]] = {"ball": [], "book": []}
        for frame in frames[1:]:
            tracks = publish(node, frame.rgb)
            for known, number in zip(tracks.objects, (BALL, BOOK), strict=True):
                assert known.state == TrackedObject.STATE_VISIBLE
                scores[known.name].append(iou(full_mask(known.mask), frame.masks[number]))
        assert min(np.mean(values) for values in scores.values()) > FLOOR, scores

        status = node.status()
        assert int(status["bank [bytes]"]) == tracks.bank_bytes > 0
        assert status["model"] == "sam2_ros_embedded"

        # A box for an image that is eight frames old: the object is found where it is now, not where it was then.
        assert node.reset().success
        headers = [publish(node, frame.rgb).header for frame in frames]
        answer = node.add(box_prompt(*boxes[BALL], name="ball"), request_header=headers[0])
        (result,) = answer.results
        assert result.success and result.frames_caught_up == 8, result.message
        assert iou(full_mask(result.mask), frames[0].masks[BALL]) > FLOOR
        (known,) = node.wait_until(lambda: node.tracks[-1].objects, "the newest frame once more")
        assert node.tracks[-1].header == headers[-1]
        assert iou(full_mask(known.mask), frames[-1].masks[BALL]) > FLOOR
        assert iou(full_mask(known.mask), frames[0].masks[BALL]) < 0.5
