"""A picture as a prompt over DDS, by a message and by the command line: red for blue is refused."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from node_harness import Peer, box_prompt, running
from rclpy.action import ActionClient
from std_msgs.msg import Header

from sam2_ros.action import TrackObject
from sam2_ros.cli.main import main
from sam2_ros.media.rendered_scene import texture
from sam2_ros.msg import ObjectPrompt, PromptResult, TrackedObject, TrackedObjectArray
from sam2_ros.ros.messages import full_mask, image_message
from sam2_ros.tracking.types import BoolMask

WIDTH, HEIGHT, SIZE = 320, 240, 70
RED, BLUE = (205, 60, 45), (45, 90, 185)
BOX = (30.0, 30.0, 170.0, 170.0)  # of the square in its picture


def scene(*squares: tuple[tuple[int, int, int], int, int]) -> np.ndarray:
    """A ground with squares of equal texture: colour, left and upper edge."""
    canvas = texture(WIDTH, HEIGHT, seed=1, base=(150, 145, 135), contrast=22)
    for color, left, top in squares:
        canvas[top : top + SIZE, left : left + SIZE] = texture(SIZE, SIZE, seed=2, base=color, contrast=45)
    return canvas


def photo(color: tuple[int, int, int]) -> np.ndarray:
    picture = texture(200, 200, seed=7, base=(110, 120, 100), contrast=15)
    picture[30:170, 30:170] = cv2.resize(texture(SIZE, SIZE, seed=2, base=color, contrast=45), (140, 140))
    return picture


def region(left: int, top: int) -> BoolMask:
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[top : top + SIZE, left : left + SIZE] = True
    return mask


def iou(a: BoolMask, b: BoolMask) -> float:
    return int((a & b).sum()) / int((a | b).sum())


def publish(node: Peer, rgb: np.ndarray) -> TrackedObjectArray:
    return node.track(image_message(rgb, node.image().header))


def follow_lost(node: Peer, name: str) -> TrackObject.Feedback:
    """What a goal tells of an object that was never seen."""
    told: list[TrackObject.Feedback] = []
    client = ActionClient(node.node, TrackObject, f"{node.node_name}/track_object")
    node.wait_until(client.server_is_ready, "the action")
    goal = TrackObject.Goal(prompt=ObjectPrompt(name=name))
    sent = node.in_executor(client.send_goal_async, goal, lambda message: told.append(message.feedback))
    node.wait_until(lambda: sent.done() and told, "feedback")
    ended = sent.result().cancel_goal_async()
    node.wait_until(ended.done, "the cancellation")
    return told[0]


def test_what_looks_like_a_picture_is_tracked_when_it_appears(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = folder / "pictures.yaml"
    file.write_text("/**:\n  ros__parameters:\n    tracker:\n      max_objects: 3\n      search_every: 1\n")
    visible, lost = TrackedObject.STATE_VISIBLE, TrackedObject.STATE_LOST
    cv2.imwrite(str(tmp_path / "blue.png"), photo(BLUE)[..., ::-1])
    with running(folder, namespace="/pictures", params_file=str(file)) as node:
        node.wait_for_state("active")
        node.wait_for_reliable()
        publish(node, scene())
        like = image_message(photo(RED)[..., ::-1], Header(), "bgr8")
        (red,) = node.add(box_prompt(*BOX, name="red", like=like)).results
        assert red.success and red.object_id == 1 and red.area == 0, red.message
        arguments = ["--node", "/pictures/tracker", "--name", "blue", "--timeout", "60"]
        box = [str(int(edge)) for edge in BOX]
        assert main(["add", "--like", str(tmp_path / "blue.png"), "--box", *box, *arguments]) == 0
        assert "object 2 added" in capsys.readouterr().out
        like_blue = ["--like", str(tmp_path / "blue.png"), "--name", "other", "--time-limit", "0.5", "--remove"]
        assert main(["follow", *like_blue, *arguments[:2], *arguments[4:]]) == 0
        printed = capsys.readouterr().out
        assert "other lost" in printed and printed.endswith("never seen\nfollowed for 0.5 s\n")
        told = follow_lost(node, "red")
        assert math.isinf(told.mask_age) and told.object.state == lost
        bad = [ObjectPrompt(like=image_message(photo(RED), Header())), ObjectPrompt(name="red", like=like)]
        bad[0].like.encoding = "smell"
        answers = node.add(*bad).results
        assert [answer.code for answer in answers] == [PromptResult.INVALID_PROMPT] * 2
        assert "'smell' is not supported" in answers[0].message and "this one exists" in answers[1].message

        seen = [publish(node, scene(*squares)) for squares in ([], [(BLUE, 40, 40)], [(BLUE, 60, 60)])]
        states = [{known.name: known.state for known in tracks.objects} for tracks in seen]
        assert states == [
            {"red": lost, "blue": lost}, {"red": lost, "blue": visible}, {"red": lost, "blue": visible},
        ]  # fmt: skip
        tracks = publish(node, scene((BLUE, 60, 60), (RED, 200, 120)))
        masks = {known.name: full_mask(known.mask) for known in tracks.objects}
        assert iou(masks["red"], region(200, 120)) > 0.8 and iou(masks["blue"], region(60, 60)) > 0.8
        assert [known.id for known in tracks.objects] == [1, 2]
