"""A detector's messages over real topics: objects with labels, ids that stay, and refusals that are told."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from node_harness import Peer, running
from rclpy.qos import QoSProfile, ReliabilityPolicy
from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose

from sam2_ros.inference.detections import problem_of
from sam2_ros.ros.detection_message import from_message
from sam2_ros.ros.messages import bounding_box


@pytest.fixture(scope="module")
def node(folder: Path) -> Iterator[Peer]:
    file = folder / "detections.yaml"
    file.write_text(
        "/**:\n  ros__parameters:\n    model.name: 'null'\n    diagnostics.period: 0.1\n    detections.enabled: true\n"
        "    detections.labels: [person]\n    prompts.wait: 0.5\n"
    )
    with running(folder, namespace="/detecting", params_file=str(file)) as node:
        node.wait_for_state("active")
        node.wait_for_reliable()
        yield node


def detections(stamped: Any, *boxes: tuple[int, int, int, int], label: str = "person") -> Detection2DArray:
    array = Detection2DArray(header=stamped.header)
    for box in boxes:
        hypothesis = ObjectHypothesisWithPose()
        hypothesis.hypothesis.class_id, hypothesis.hypothesis.score = label, 0.75
        array.detections.append(Detection2D(results=[hypothesis], bbox=bounding_box(box)))
    return array


def wait_for_subscription(node: Peer, reliability: str) -> None:
    """Until the node listens as the publisher offers; what is sent while it changes over is lost."""

    def listens() -> bool:
        assert node.launched is not None
        lines = [line for line in node.launched.text.splitlines() if "subscribed to /detecting/detections, " in line]
        return bool(lines) and lines[-1].endswith(reliability)

    node.wait_until(listens, f"a {reliability} subscription")


def test_detections_become_objects_that_keep_their_ids(node: Peer) -> None:
    publisher = node.node.create_publisher(Detection2DArray, "/detecting/detections", 10)
    wait_for_subscription(node, "reliable")
    sent: list[Any] = []

    def detected(count: int) -> Any:
        """An image, its tracks, and what a detector says of it a moment later."""
        tracks = node.track()
        sent.append(tracks)
        publisher.publish(detections(tracks, (10, 20, 40, 90), (100, 20, 130, 90)))
        return tracks if len(tracks.objects) == count else None

    node.wait_until(lambda: detected(2), "two objects")
    for _ in range(5):
        tracks = detected(2)
        assert tracks is not None
    assert [(known.id, known.label) for known in tracks.objects] == [(1, "person"), (2, "person")]
    assert [round(known.label_score, 2) for known in tracks.objects] == [0.75, 0.75]
    assert {event.id for event in node.events} == {1, 2}

    publisher.publish(detections(node.track(), (60, 20, 80, 90), label="dog"))
    node.wait_until(lambda: int(node.status()["detections ignored"]) == 1, "an ignored detection")
    assert len(node.track().objects) == 2

    old = node.track()
    old.header.stamp.sec -= 500
    publisher.publish(detections(old, (60, 20, 80, 90)))
    node.wait_until(lambda: "is gone" in node.status()["last refused detections"], "a refusal")
    assert len(node.track().objects) == 2
    node.node.destroy_publisher(publisher)


def test_a_best_effort_detector_is_heard_and_what_is_not_for_this_camera_is_refused(node: Peer) -> None:
    qos = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
    publisher = node.node.create_publisher(Detection2DArray, "/detecting/detections", qos)
    wait_for_subscription(node, "best effort")
    node.reset()

    def send_until(expected: str, kind: str, **changes: Any) -> None:
        before = int(node.status()[f"detections {kind}"])

        def refused() -> bool:
            message = detections(node.track(), (60, 20, 80, 90))
            for name, value in changes.items():
                setattr(message.header if name == "frame_id" else message.detections[0], name, value)
            publisher.publish(message)
            status = node.status()
            return int(status[f"detections {kind}"]) > before and expected in status["last refused detections"]

        node.wait_until(refused, expected)

    evil = "\x1b[31mother\n[ERROR] fake"
    send_until("in the frame '\\x1b[31mother\\n[ERROR] fake', the images in 'camera_opt", "refused", frame_id=evil)
    node.wait_until(lambda: not node.track().objects, "no object of another camera")
    hypothesis = ObjectHypothesisWithPose()
    hypothesis.hypothesis.class_id, hypothesis.hypothesis.score = "person", 95.0
    send_until("the score 95; accepted: 0 to 1", "unusable", results=[hypothesis])
    many = detections(node.track(), *[(60, 20, 80, 90)] * 1025)
    node.wait_until(
        lambda: (publisher.publish(many), "there are 1025 detections" in node.status()["last refused detections"])[1],
        "a refusal of too many",
    )
    huge = detections(node.track(), (60, 20, 80, 90))
    huge.detections[0].results *= 20_000
    node.wait_until(
        lambda: (publisher.publish(huge), "accepted: up to 1048576" in node.status()["last refused detections"])[1],
        "a refusal of a huge message",
    )

    def found() -> Any:
        tracks = node.track()
        publisher.publish(detections(tracks, (100, 20, 130, 90)))
        return tracks.objects

    assert [known.label for known in node.wait_until(found, "an object")] == ["person"]
    assert node.launched is not None and evil not in node.launched.text


def test_a_turned_box_is_read_as_the_upright_one_around_it() -> None:
    box = bounding_box((10, 20, 50, 40))
    assert from_message(Detection2D(bbox=box)).box == (10, 20, 50, 40)
    box.center.theta = math.pi / 2
    assert from_message(Detection2D(bbox=box)).box == pytest.approx((20, 10, 40, 50))
    box.center.theta = -math.pi / 6
    width, height = 40 * math.cos(math.pi / 6) + 20 / 2, 40 / 2 + 20 * math.cos(math.pi / 6)
    upright = (30 - width / 2, 30 - height / 2, 30 + width / 2, 30 + height / 2)
    assert from_message(Detection2D(bbox=box)).box == pytest.approx(upright)
    for theta in (math.nan, math.inf):
        box.center.theta = theta
        assert problem_of(from_message(Detection2D(bbox=box)))


def test_the_surest_hypothesis_is_taken() -> None:
    results = []
    for label, score in (("cup", 0.2), ("traffic light", 0.7), ("39", 0.6)):
        hypothesis = ObjectHypothesisWithPose()
        hypothesis.hypothesis.class_id, hypothesis.hypothesis.score = label, score
        results.append(hypothesis)
    read = from_message(Detection2D(bbox=bounding_box((10, 20, 50, 40)), results=results))
    assert (read.label, read.score) == ("traffic light", 0.7)
    read = from_message(Detection2D(bbox=bounding_box((10, 20, 50, 40))))
    assert (read.label, read.score) == ("", 1.0)
