"""The node with its engine in a server: no torch, and objects that outlive the server."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from documented import diagnostics_keys
from node_harness import Peer, box_prompt, running
from served import ServerProcess

from sam2_ros.msg import TrackedObject, TrackedObjectArray
from sam2_ros.remote.endpoints import endpoints_for


@pytest.fixture(scope="module")
def endpoint(folder: Path) -> str:
    return f"ipc://{folder / 'server'}"


@pytest.fixture(scope="module")
def node(folder: Path, endpoint: str) -> Iterator[Peer]:
    """A node that is active before there is a server."""
    file = folder / "remote.yaml"
    file.write_text(
        "/**:\n  ros__parameters:\n    inference.timeout: 2.0\n    inference.return_after: 0.5\n"
        "    diagnostics.period: 0.1\n    tracker.max_objects: 4\n"
    )
    with running(folder, params_file=str(file), endpoint=f"{endpoint}, {endpoint}_spare") as peer:
        peer.wait_for_state("active")
        yield peer


def test_objects_outlive_the_server_and_the_node_has_no_torch(node: Peer, endpoint: str) -> None:
    assert node.launched is not None
    node.launched.wait_for_text(f"no inference server answers yet at {endpoint}, {endpoint}_spare; images are dropped")
    with node.camera():
        node.wait_until(lambda: "down" in str(node.status().get("link")), "word of the missing server")
        node.wait_until(lambda: int(node.status()["dropped"]) > 0, "dropped frames to be counted")
    pid = node.launched.node_pid() if node.launched else 0
    server = ServerProcess("--bind", endpoint)
    try:
        node.track()
        answer = node.add(box_prompt(10, 20, 40, 60, name="cup"), box_prompt(50, 20, 90, 60))
        assert [result.object_id for result in answer.results] == [1, 2]
        node.track()
        for _ in range(2):
            with node.camera():
                server.kill()
                node.wait_until(
                    lambda: (
                        [known.state for known in node.list_objects().tracks.objects]
                        == [TrackedObject.STATE_OCCLUDED] * 2
                    ),
                    "the objects to be hidden",
                )
                hidden = node.wait_until(lambda: not_known(node), "tracks that say so")
                assert [(known.id, known.name, known.area) for known in hidden.objects] == [(1, "cup", 0), (2, "", 0)]
                later = node.wait_until(partial(not_known, node, hidden.frames_dropped), "more of them")
                assert later.frames_processed == hidden.frames_processed
                assert later.header.stamp.sec > hidden.header.stamp.sec >= 1000
                server.close()
                server = ServerProcess("--bind", endpoint)
            tracks = node.wait_until(lambda: all_visible(node.track()), "the objects on the next server")
            assert [(known.id, known.name) for known in tracks.objects] == [(1, "cup"), (2, "")]
        assert node.add(box_prompt(5, 5, 25, 25)).results[0].object_id == 3
        node.wait_until(lambda: node.status()["link"] == "connected", "word of the server")
        assert float(node.status()["round trip p50 [ms]"]) > 0
        assert diagnostics_keys()["server"] <= set(node.status())
        maps = Path(f"/proc/{pid}/maps").read_text()
        assert "zmq" in maps and "torch" not in maps
        assert node.launched is not None and node.launched.node_pid() == pid, "the node never started anew"
    finally:
        server.close()


def not_known(node: Peer, dropped: int = 0) -> Any:
    """The newest tracks, if every object in them is hidden and more than ``dropped`` frames were dropped."""
    newest = node.tracks[-1]
    hidden = {known.state for known in newest.objects} == {TrackedObject.STATE_OCCLUDED}
    return newest if hidden and newest.frames_dropped > dropped else None


def all_visible(tracks: TrackedObjectArray) -> Any:
    return tracks if {known.state for known in tracks.objects} == {TrackedObject.STATE_VISIBLE} else None


def test_the_next_server_takes_over_and_the_first_one_gets_the_camera_back(node: Peer, endpoint: str) -> None:
    first, spare = ServerProcess("--bind", endpoint), ServerProcess("--bind", f"{endpoint}_spare")
    try:
        node.track()
        node.reset()
        ids = [result.object_id for result in node.add(box_prompt(10, 20, 40, 60), box_prompt(50, 20, 90, 60)).results]
        visible_again = (TrackedObject.STATE_OCCLUDED, TrackedObject.STATE_VISIBLE)
        with node.camera():
            node.events.clear()
            first.kill()
            node.wait_until(lambda: node.status()["server"] == spare.endpoint, "the next server to take over")
            node.wait_until(  # events and tracks are different topics: either may come first
                lambda: [(event.previous_state, event.state) for event in node.events].count(visible_again) == 2,
                "word that both objects are visible again",
            )
            first.close()
            visible = [TrackedObject.STATE_VISIBLE] * 2
            node.wait_until(lambda: [known.state for known in node.tracks[-1].objects] == visible, "objects in sight")
            node.events.clear()
            first = ServerProcess("--bind", endpoint)
            node.wait_until(lambda: node.status()["preferred server"] == "serves", "the camera to go back")
        tracks = node.track()
        assert [known.id for known in tracks.objects] == ids
        assert [event.reason for event in node.events] == [], "nobody noticed the way back"
        assert {known.state for known in tracks.objects} == {TrackedObject.STATE_VISIBLE}
        assert node.status()["server"] == endpoint
    finally:
        first.close()
        spare.close()


def test_images_that_the_server_does_not_take_are_an_error_with_the_cure(node: Peer, endpoint: str) -> None:
    with ServerProcess("--bind", endpoint, "--max-bytes", "50000"), node.camera():
        words = ("frames fail: ", " bytes; accepted: ", "50000", "larger --max-bytes")

        def said() -> bool:
            status = node.status()
            return status["level"] == DiagnosticStatus.ERROR and all(part in status["message"] for part in words)

        node.wait_until(said, "an error with the cure")
        assert node.launched is not None
        node.launched.wait_for_text(*words[1:])


def test_endpoints_are_read_as_people_write_them() -> None:
    assert endpoints_for("") == ()
    assert endpoints_for("tcp://a:1, ipc:///b") == ("tcp://a:1", "ipc:///b")
    assert endpoints_for("left=tcp://a:1, tcp://b:1; right=tcp://b:1", "left") == ("tcp://a:1", "tcp://b:1")
    with pytest.raises(ValueError, match="no server for the camera 'back'"):
        endpoints_for("left=tcp://a:1", "back")
    for wrong in ("a:1", "tcp://a", "left=", "tcp://a:1; tcp://b:1"):
        with pytest.raises(ValueError, match="is no endpoint; accepted"):
            endpoints_for(wrong)
