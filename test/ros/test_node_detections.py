"""A detector's messages over real topics: objects with labels, ids that stay, and refusals that are told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from node_harness import Peer, running
from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose

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


def test_detections_become_objects_that_keep_their_ids(node: Peer) -> None:
    publisher = node.node.create_publisher(Detection2DArray, "/detecting/detections", 10)
    node.wait_until(publisher.get_subscription_count, "the subscription")
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
