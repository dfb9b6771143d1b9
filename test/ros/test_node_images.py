"""Services for single images and for what no track covers, over DDS, with the model that comes with the package."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from node_harness import Peer, box_prompt, running
from std_srvs.srv import Trigger

from sam2_ros.media.rendered_scene import bounding_box, render
from sam2_ros.msg import PromptResult
from sam2_ros.ros.messages import full_mask, image_message
from sam2_ros.srv import SegmentImage
from sam2_ros.tracking.types import BoolMask

BALL, BOOK = 1, 2


def iou(a: BoolMask, b: BoolMask) -> float:
    return int((a & b).sum()) / int((a | b).sum())


def segment(node: Peer, **request: Any) -> Any:
    return node.call(SegmentImage, "segment_image", SegmentImage.Request(**request))


def test_images_and_discovery(folder: Path) -> None:
    file = folder / "images.yaml"
    file.write_text(
        "/**:\n  ros__parameters:\n    discover.points: 8\n    discover.min_stability: 0.8\n"
        "    tracker.max_objects: 6\n"
    )
    frame = next(render(16, width=320, height=240, post=False))
    other = list(islice(render(16, width=320, height=240, post=False), 6))[-1]
    boxes = {number: bounding_box(mask) for number, mask in frame.masks.items()}
    with running(folder, namespace="/images", params_file=str(file)) as node:
        node.wait_for_state("active")
        node.wait_for_reliable()
        refused = segment(node, prompts=[box_prompt(*boxes[BALL])])
        assert not refused.success and "the camera has sent none" in refused.message
        image = image_message(frame.rgb, node.image().header)
        node.track(image)

        # The newest image of the camera: one prompt is refused, the other answered.
        answer = segment(node, prompts=[box_prompt(*boxes[BALL], name="ball"), box_prompt(900, 900, 950, 950)])
        assert not answer.success and answer.header == image.header
        found, outside = answer.results
        assert found.success and found.name == "ball" and outside.code == PromptResult.INVALID_PROMPT
        assert iou(full_mask(found.mask), frame.masks[BALL]) > 0.85
        assert [candidate.index for candidate in found.candidates] == [1, 2, 3]
        assert all(0 < candidate.predicted_iou <= 1 for candidate in found.candidates) and found.stability > 0.5

        # An image of its own, then everything in it; nothing is tracked.
        sent = image_message(np.ascontiguousarray(other.rgb), node.image().header)
        sent.header.frame_id = "gallery"
        answer = segment(node, image=sent, prompts=[box_prompt(*bounding_box(other.masks[BALL]))])
        assert answer.success and answer.header.frame_id == "gallery"
        assert iou(full_mask(answer.results[0].mask), other.masks[BALL]) > 0.85
        answer = segment(node, image=sent, everything=True, max_masks=6)
        assert answer.success and 0 < len(answer.results) <= 6
        assert max(iou(full_mask(result.mask), other.masks[BALL]) for result in answer.results) > 0.7
        assert node.list_objects().tracks.objects == []

        for request, reason in (
            ({}, "nothing is asked for"),
            ({"everything": True, "prompts": [box_prompt(*boxes[BALL])]}, "both prompts and everything"),
            ({"everything": True, "max_masks": 100_000}, "accepted: 1 to 1000"),
            ({"everything": True, "image": bad(sent)}, "the image can't be used"),
        ):
            refused = segment(node, **request)
            assert not refused.success and reason in refused.message, refused.message

        # Two at a time: the second is refused, the first is answered.
        many = SegmentImage.Request(image=sent, prompts=[box_prompt(*boxes[BALL])] * 64)
        waiting = [node.call_async(SegmentImage, "segment_image", many) for _ in range(2)]
        node.wait_until(lambda: all(each.done() for each in waiting), "both answers")
        answers = sorted((each.result() for each in waiting), key=lambda each: each.success)
        assert [each.success for each in answers] == [False, True] and "is being segmented" in answers[0].message

        # Everything that no track covers.
        assert node.add(box_prompt(*boxes[BALL], name="ball")).success
        answer = node.call(Trigger, "discover")
        assert answer.success, answer.message
        objects = node.list_objects(with_masks=True).tracks.objects
        assert (
            len(objects) > 1 and [known.id for known in objects][:2] == [1, 2] and str(objects[1].id) in answer.message
        )
        assert max(iou(full_mask(known.mask), frame.masks[BOOK]) for known in objects) > 0.7
        answer = node.call(Trigger, "discover")
        assert answer.success and answer.message.startswith("0 objects"), answer.message


def bad(image: Any) -> Any:
    wrong = image_message(np.zeros((4, 4, 3), np.uint8), image.header)
    wrong.step = 1
    return wrong


def test_an_engine_elsewhere_refuses(folder: Path, parameters_file: Path) -> None:
    with running(folder, namespace="/noimages", params_file=str(parameters_file)) as node:
        node.wait_for_state("active")
        node.wait_for_reliable()
        node.track()
        answer = segment(node, prompts=[box_prompt(1, 1, 10, 10)])
        assert not answer.success and "single images need a network in the node's own process" in answer.message
        answer = node.call(Trigger, "discover")
        assert not answer.success and "single images need a network" in answer.message


def test_before_it_is_active(folder: Path, parameters_file: Path) -> None:
    with running(folder, namespace="/early", params_file=str(parameters_file), autostart="false") as node:
        node.wait_for_state("unconfigured")
        for answer in (segment(node, everything=True), node.call(Trigger, "discover")):
            assert not answer.success and "the node is not active" in answer.message
