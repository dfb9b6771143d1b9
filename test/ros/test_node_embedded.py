"""The whole way with the model that comes with the package: camera topic, prompt service, tracks of what moves."""

from __future__ import annotations

import os
import signal
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from node_harness import Peer, box_prompt, running
from vision_msgs.msg import Point2D

from sam2_ros.media.rendered_scene import bounding_box, render
from sam2_ros.msg import ObjectEvent, ObjectPrompt, TrackedObject, TrackedObjectArray
from sam2_ros.ros.messages import full_mask, image_message
from sam2_ros.srv import RefineObject
from sam2_ros.tracking.deadline import SHEDDING_STEPS
from sam2_ros.tracking.types import BoolMask

BALL, BOOK = 1, 2
FLOOR = 0.85  # mean IoU of each object


def iou(a: BoolMask, b: BoolMask) -> float:
    return int((a & b).sum()) / int((a | b).sum())


def publish(node: Peer, rgb: np.ndarray) -> TrackedObjectArray:
    """One image, and what the node makes of it."""
    return node.track(image_message(rgb, node.image().header))


def test_two_moving_objects_are_tracked_also_by_the_next_process(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    frames = list(islice(render(16, width=320, height=240, post=False), 9))
    with running(folder, namespace="/embedded", use_respawn="true") as node:
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
        by_torch = "(" not in status["device"]  # other runtimes have none of these
        assert (int(status["caches of weights [bytes]"]) > 0) == by_torch
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

        # The process dies, and the next one finds the ball where it has moved to.
        (state,) = tmp_path.glob("sam2_ros/*.embedded.tracker.state")
        node.wait_until(lambda: b"ball" in state.read_bytes(), "the ball in the state file")
        assert node.launched is not None
        subscribed = node.launched.text.count("subscribed to /embedded/image,")
        os.kill(node.launched.node_pid(), signal.SIGKILL)
        node.launched.wait_for_text("subscribed to /embedded/image,", times=subscribed + 1)
        (after,) = publish(node, frames[-1].rgb).objects
        assert (after.id, after.name, after.state) == (known.id, "ball", TrackedObject.STATE_VISIBLE)
        assert iou(full_mask(after.mask), frames[-1].masks[BALL]) > FLOOR


def test_an_exported_network_needs_no_torch(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnx", "openvino", "onnxruntime"):
        pytest.importorskip(name)
    from sam2_ros.model import load_model
    from sam2_ros.model.export import export_folder

    network, blocked = tmp_path / "network", tmp_path / "blocked"
    list(export_folder(load_model("embedded", image_size=256), network))
    blocked.mkdir()
    (blocked / "torch.py").write_text("raise ImportError('there is no torch here')\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(blocked), os.environ.get("PYTHONPATH", "")]))
    file = folder / "exported.yaml"
    file.write_text(f"/**:\n  ros__parameters:\n    model.name: {network}\n    tracker.max_objects: 2\n")
    frames = list(islice(render(16, width=320, height=240, post=False), 6))
    with running(folder, namespace="/exported", params_file=str(file)) as node:
        node.wait_for_state("active")
        node.wait_for_reliable()
        publish(node, frames[0].rgb)
        answer = node.add(box_prompt(*bounding_box(frames[0].masks[BALL]), name="ball"))
        assert answer.success, answer.message
        scores = []
        for frame in frames[1:]:
            (known,) = publish(node, frame.rgb).objects
            scores.append(iou(full_mask(known.mask), frame.masks[BALL]))
        assert np.mean(scores) > FLOOR, scores
        status = node.status()
        assert status["model"] == "sam2_ros_embedded" and "openvino" in status["device"]


def test_seen_hidden_lost_dropped(folder: Path) -> None:
    """The contract over DDS: states, masks, last_seen and events of a ball that goes away, comes back and goes."""
    file = folder / "visibility.yaml"
    file.write_text(
        "/**:\n  ros__parameters:\n    tracker:\n      max_objects: 2\n      lost_after: 2\n      search_every: 2\n"
        "      drop_after: 5\n"
    )
    frames = [frame.rgb for frame in islice(render(16, width=320, height=240, post=False), 5)]
    ball = bounding_box(next(render(16, width=320, height=240, post=False)).masks[BALL])
    empty = np.full_like(frames[0], 128)
    visible, occluded, lost = TrackedObject.STATE_VISIBLE, TrackedObject.STATE_OCCLUDED, TrackedObject.STATE_LOST
    with running(folder, namespace="/visibility", params_file=str(file)) as node:
        node.wait_for_state("active")
        node.wait_for_reliable()
        publish(node, frames[0])
        assert node.add(box_prompt(*ball, name="ball")).success
        seen = [publish(node, rgb) for rgb in [frames[1], empty, empty, empty, frames[2], frames[3], *[empty] * 6]]
        states = [[known.state for known in tracks.objects] for tracks in seen]
        assert states[:4] == [[visible], [occluded], [occluded], [lost]]
        assert states[4:6] in ([[visible], [visible]], [[lost], [visible]])  # it may not be its turn at once
        assert states[6:] == [[occluded], [occluded], [lost], [lost], [lost], []]
        for tracks in seen:
            for known in tracks.objects:
                assert (known.area > 0) == (known.state == visible) == (known.mask.width > 0)
                assert (known.visibility > 0.5) == (known.state == visible) or known.state == lost
        assert seen[3].objects[0].last_seen == seen[0].header.stamp
        assert seen[3].objects[0].frames_since_seen == 3
        changed = ObjectEvent.STATE_CHANGED
        node.wait_until(lambda: len(node.events) >= 7, "seven events")
        changes = [(event.event, event.previous_state, event.state) for event in node.events]
        assert changes == [
            (ObjectEvent.ADDED, 0, visible),
            (changed, visible, occluded),
            (changed, occluded, lost),
            (changed, lost, visible),
            (changed, visible, occluded),
            (changed, occluded, lost),
            (ObjectEvent.DROPPED, lost, 0),
        ]
        assert node.events[-1].header == seen[-1].header and "tracker.drop_after" in node.events[-1].reason
        assert node.events[-1].last_seen == seen[5].header.stamp


def test_who_chooses_what_a_click_means(folder: Path) -> None:
    """A click's candidates over DDS: the parameter chooses one of them, a second call another one."""
    file = folder / "candidates.yaml"
    file.write_text("/**:\n  ros__parameters:\n    tracker:\n      click_candidate: smallest\n")
    frame = next(render(16, width=320, height=240, post=False))
    left, top, right, bottom = bounding_box(frame.masks[BOOK])
    middle = Point2D(x=(left + right) / 2, y=(top + bottom) / 2)
    with running(folder, namespace="/candidates", params_file=str(file)) as node:
        node.wait_for_state("active")
        node.wait_for_reliable()
        publish(node, frame.rgb)
        (offered,) = node.add(ObjectPrompt(name="book", points=[middle], point_labels=[1])).results
        assert offered.success, offered.message
        assert [each.index for each in offered.candidates] == [1, 2, 3]
        best = max(each.predicted_iou for each in offered.candidates)
        good = [each for each in offered.candidates if each.predicted_iou >= 0.8 * best and each.area]
        assert offered.area == min(each.area for each in good)

        other = max(offered.candidates, key=lambda each: each.area)
        request = RefineObject.Request(prompt=ObjectPrompt(name="book", candidate=other.index))
        chosen = node.call(RefineObject, "refine_object", request).result
        assert chosen.success and chosen.area == other.area, chosen.message


def test_load_shedding_is_reported(folder: Path) -> None:
    """No frame can be tracked in a millisecond, so all steps are taken, in their order, and tracking goes on."""
    file = folder / "deadline.yaml"
    file.write_text(
        "/**:\n  ros__parameters:\n    model.image_size: 224\n    model.runtime: torch\n    diagnostics.period: 0.05\n"
        "    tracker:\n      max_objects: 2\n      deadline: 0.001\n"
    )
    frames = list(islice(render(24, width=320, height=240, post=False), 20))
    with running(folder, namespace="/deadline", params_file=str(file)) as node:
        node.wait_for_state("active")
        node.wait_for_reliable()
        publish(node, frames[0].rgb)
        assert node.add(box_prompt(*bounding_box(frames[0].masks[BOOK]), name="book")).success
        told = []
        for frame in frames[1:]:
            tracks = publish(node, frame.rgb)
            node.status()  # may have been under way already
            told.append(node.status()["load shedding"])
        assert list(dict.fromkeys(told)) == ["none", *(", ".join(SHEDDING_STEPS[:count]) for count in (1, 2, 3))]
        assert tracks.objects[0].state == TrackedObject.STATE_VISIBLE
