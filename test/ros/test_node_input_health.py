"""What can go wrong with a camera in mid-stream: each is told, and the node goes on by a stated rule."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from node_harness import Peer, box_prompt, in_this_process, running, wait_until
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.parameter import Parameter


@pytest.fixture(scope="module")
def launched(folder: Path, parameters_file: Path) -> Iterator[Peer]:
    with running(folder, namespace="/health", params_file=str(parameters_file)) as peer:
        peer.wait_for_state("active")
        yield peer


@pytest.fixture
def node(launched: Peer) -> Peer:
    """The node with one object."""
    launched.wait_for_reliable()
    launched.track()
    launched.reset()
    assert launched.add(box_prompt(10, 20, 40, 60, name="cup")).success
    return launched


def sized(node: Peer, width: int, height: int) -> Any:
    data = array("B", bytes(3 * width * height))
    return node.image(width=width, height=height, step=3 * width, data=data)


def counted(node: Peer, kind: str) -> int:
    return int(node.status()[kind])


def expect(node: Peer, kind: str, image: Any, before: int, words: str) -> Any:
    """The tracks of ``image``; the oddity is counted and warned of."""
    tracks = node.track(image)
    node.wait_until(lambda: counted(node, kind) == before + 1, kind)
    status = node.status()
    assert status["level"] == DiagnosticStatus.WARN and words in status["message"]
    assert node.launched is not None
    node.launched.wait_for_text(words)
    return tracks


def test_a_camera_that_only_begins_late_is_not_logged_as_silent() -> None:
    """Three reports in a row give one reason before the log does, and it does so once."""
    parameters = {"diagnostics.period": 3600.0, "input.timeout": 0.3}
    with in_this_process("/begins", **parameters) as (tracker, _):
        (camera,) = tracker._cameras
        logged: list[str] = []
        camera._warn = logged.append
        wait_until(lambda: "nothing arrives" in camera._input.complaint(), "a silence")
        told = []
        for _ in range(5):
            level, message = camera._summary()
            assert level == DiagnosticStatus.ERROR and "nothing arrives" in message
            told.append(len(logged))
    assert told == [0, 0, 1, 1, 1] and logged[0].startswith("no image on /begins/image for ")


def test_a_silent_camera(node: Peer) -> None:
    """Nothing is sent; the fixture's parameters wait for 0.3 s."""
    node.wait_until(lambda: "no image on /health/image" in node.status()["message"], "a complaint")
    assert node.launched is not None
    node.launched.wait_for_text("[WARN]", "no image on /health/image for ")
    assert node.status()["level"] == DiagnosticStatus.ERROR
    assert [known.name for known in node.track().objects] == ["cup"]


def test_another_resolution_of_the_same_aspect_keeps_the_objects(node: Peer) -> None:
    before = counted(node, "resolution changes")
    tracks = expect(node, "resolution changes", sized(node, 320, 240), before, "from '160x120' to '320x240'")
    assert [known.name for known in tracks.objects] == ["cup"]


def test_another_aspect_forgets_the_objects(node: Peer) -> None:
    """And says why, in an event for each."""
    before = counted(node, "restarts")
    node.events.clear()
    assert not node.track(sized(node, 160, 90)).objects
    node.wait_until(lambda: counted(node, "restarts") == before + 1, "a restart")
    assert node.launched is not None
    node.launched.wait_for_text("160 x 90 pixels, which is another aspect: every object is forgotten")
    node.wait_until(lambda: any(event.name == "cup" for event in node.events), "an event")
    assert node.add(box_prompt(10, 20, 40, 60)).success


def test_another_encoding_keeps_the_objects(node: Peer) -> None:
    before = counted(node, "encoding changes")
    tracks = expect(node, "encoding changes", node.image(encoding="bgr8"), before, "from 'rgb8' to 'bgr8'")
    assert [known.name for known in tracks.objects] == ["cup"]


def test_another_frame_id_keeps_the_objects(node: Peer) -> None:
    before = counted(node, "frame id changes")
    image = node.image()
    image.header.frame_id = "other_optical_frame"
    tracks = expect(node, "frame id changes", image, before, "to 'other_optical_frame'")
    assert [known.name for known in tracks.objects] == ["cup"]
    assert tracks.header.frame_id == "other_optical_frame"


def test_stamps_that_do_not_increase_are_told(node: Peer) -> None:
    before = counted(node, "stamps not increasing")
    newest = node.track()
    image = node.image()
    image.header.stamp.sec, image.header.stamp.nanosec = newest.header.stamp.sec, newest.header.stamp.nanosec - 1000
    tracks = expect(node, "stamps not increasing", image, before, "stamps do not increase")
    assert [known.name for known in tracks.objects] == ["cup"]


def test_time_that_jumps_back_forgets_the_objects(node: Peer) -> None:
    """As of a bag that loops."""
    before = counted(node, "restarts")
    image = node.image()
    image.header.stamp.sec -= 100
    assert not node.track(image).objects
    node.wait_until(lambda: counted(node, "restarts") == before + 1, "a restart")
    assert node.launched is not None
    node.launched.wait_for_text("time jumped back from")


def test_a_set_with_one_wrong_value_changes_nothing_and_a_right_one_counts_at_once(node: Peer) -> None:
    def set_all(**values: Any) -> Any:
        wanted = [Parameter(name.replace("__", "."), value=value).to_parameter_msg() for name, value in values.items()]
        request = SetParametersAtomically.Request(parameters=wanted)
        return node.call(SetParametersAtomically, "set_parameters_atomically", request).result

    refused = set_all(output__mask_encoding="rle", input__timeout=-1.0)
    assert not refused.successful and "input.timeout" in refused.reason
    assert not node.track().objects[0].mask.counts
    refused = set_all(output__mask_encoding="rle", input__every_frame=True)
    assert not refused.successful and "input.every_frame may be set while the node is unconfigured" in refused.reason
    assert not node.track().objects[0].mask.counts
    assert set_all(output__mask_encoding="rle", input__timeout=0.5).successful
    assert node.track().objects[0].mask.counts
    assert set_all(output__mask_encoding="mono8", input__timeout=0.3).successful
