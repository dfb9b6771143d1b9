"""Several cameras in one node: topics, objects and counters of each its own, one network for all."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from node_harness import Launched, Peer, box_prompt, running
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter

from sam2_ros.msg import TrackedObjectArray
from sam2_ros.ros.client_node import server_knows_clients

NODE = "/robot/tracker"


@pytest.fixture(scope="module")
def cameras(folder: Path) -> Iterator[tuple[Peer, Peer]]:
    """A node that was launched for two cameras, and the peers of these, left and right."""
    file = folder / "cameras.yaml"
    file.write_text(
        "/**:\n  ros__parameters:\n    model.name: 'null'\n    diagnostics.period: 0.1\n"
        "    prompts.wait: 0.5\n    tracker.max_objects: 4\n"
    )
    arguments = {"params_file": str(file), "cameras": "[left, right]", "image": "/stereo/{camera}/image_rect"}
    with running(folder, namespace="/robot", **arguments) as node:
        node.wait_for_state("active")
        left = Peer(f"{NODE}/left", "/stereo/left/image_rect")
        right = Peer(f"{NODE}/right", "/stereo/right/image_rect")
        left.launched = right.launched = node.launched
        try:
            left.wait_for_reliable()
            right.wait_for_reliable()
            yield left, right
        finally:
            left.close()
            right.close()


def test_each_camera_has_its_own_objects_and_ids(cameras: tuple[Peer, Peer]) -> None:
    left, right = cameras
    left.track()
    right.track()
    assert left.add(box_prompt(10, 20, 40, 60, name="cup")).results[0].object_id == 1
    answer = right.add(box_prompt(50, 20, 90, 60, name="cup"), box_prompt(5, 5, 25, 25))
    assert [result.object_id for result in answer.results] == [1, 2]
    tracks = left.track(), right.track()
    assert [each.camera for each in tracks] == ["left", "right"]
    assert [[known.bbox.center.position.x for known in each.objects] for each in tracks] == [[25.0], [70.0, 15.0]]
    left.wait_until(lambda: left.events, "an event")
    assert {event.camera for event in left.events} == {"left"}
    assert [peer.list_objects().tracks.camera for peer in cameras] == ["left", "right"]
    assert len(right.list_objects().tracks.objects) == 2
    assert left.reset().removed == 1
    assert len(right.track().objects) == 2 and not left.track().objects


def test_counters_and_diagnostics_are_each_cameras_own(cameras: tuple[Peer, Peer]) -> None:
    left, right = cameras
    before = int(right.status()["received"])
    for _ in range(3):
        left.track()
    status = left.status()
    assert int(status["received"]) >= 3 and status["message"] == "tracking"
    assert int(right.status()["received"]) == before


def test_only_topics_with_the_cameras_names_exist(cameras: tuple[Peer, Peer]) -> None:
    left, _ = cameras
    names = {name for name, _ in left.node.get_topic_names_and_types() if name.startswith(NODE)}
    results = {"tracks", "events", "overlay", "label_image", "label_info", "detections", "detections_3d", "markers"}
    results |= {"clouds", "depth_without_objects", "track_object/_action/feedback"}
    assert {f"{NODE}/{camera}/{topic}" for camera in ("left", "right") for topic in results} <= names
    assert not left.node.get_publishers_info_by_topic(f"{NODE}/tracks")  # the fixture's first peer listens to it
    assert not left.node.get_subscriptions_info_by_topic("/robot/image")


def test_the_commands_speak_to_one_camera(cameras: tuple[Peer, Peer]) -> None:
    left, right = cameras
    left.track()
    words = ["add", "--box", "30", "30", "60", "70", "--name", "one", "--node", f"{NODE}/left", "--timeout", "15"]
    done = subprocess.run([sys.executable, "-m", "sam2_ros", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "one" in [known.name for known in left.list_objects().tracks.objects]
    assert "one" not in [known.name for known in right.list_objects().tracks.objects]
    for camera, code in (("left", 0), ("right", 1)):
        words = ["follow", "--object", "one", "--time-limit", "0.1", "--node", f"{NODE}/{camera}", "--timeout", "15"]
        done = subprocess.run([sys.executable, "-m", "sam2_ros", *words], capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout + done.stderr


def test_without_a_camera_the_verbs_name_all(cameras: tuple[Peer, Peer]) -> None:
    for words in (["list", "--node", NODE], ["record", "never.mcap", "--node", f"{NODE}/middle"]):
        command = [sys.executable, "-m", "sam2_ros", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2 and f"choose one with --node: {NODE}/left, {NODE}/right" in done.stderr, done


def test_the_names_can_not_be_set_while_the_node_runs(cameras: tuple[Peer, Peer]) -> None:
    left, _ = cameras
    client = left.node.create_client(SetParameters, f"{NODE}/set_parameters")
    left.wait_until(client.service_is_ready, "parameter service")
    assert server_knows_clients(left.node, NODE, 60.0, lambda: time.sleep(0.01))
    wanted = [Parameter("cameras", value=["front"]).to_parameter_msg()]
    future = client.call_async(SetParameters.Request(parameters=wanted))
    left.wait_until(future.done, "an answer")
    (result,) = future.result().results
    assert not result.successful and "read-only" in result.reason


@pytest.mark.parametrize("names", ["[left, left]", "['left/front']"])
def test_names_that_can_be_no_topics_are_refused(folder: Path, names: str) -> None:
    file = folder / "wrong_cameras.yaml"
    file.write_text(f"/**:\n  ros__parameters:\n    cameras: {names}\n    model.name: 'null'\n")
    with running(folder, namespace="/wrong", params_file=str(file)) as node:
        assert node.launched is not None
        node.launched.wait_for_text("configure failed: cameras is [", "refused to configure")


def test_one_topic_for_several_cameras_is_refused(folder: Path) -> None:
    launched = Launched(
        folder / "same_topic.log", "tracker.launch.py", namespace="/same", cameras="left, right", image="/camera/image"
    )
    launched.wait_for_text("is '/camera/image'; accepted: one with {camera} in it")
    assert launched.wait_for_end() != 0


def test_an_empty_list_is_the_one_camera_without_a_name(folder: Path) -> None:
    file = folder / "no_cameras.yaml"
    file.write_text("/**:\n  ros__parameters:\n    cameras: []\n    model.name: 'null'\n")
    with running(folder, namespace="/single", params_file=str(file)) as node:
        node.wait_for_state("active")
        tracks: TrackedObjectArray = node.track()
        assert tracks.camera == ""


def test_a_prompts_file_for_several_cameras_names_its_camera(folder: Path) -> None:
    file = folder / "prompted_cameras.yaml"
    prompts: Any = folder / "prompts.json"
    file.write_text(
        f"/**:\n  ros__parameters:\n    cameras: [left]\n    model.name: 'null'\n    prompts_file: {prompts}\n"
    )
    with running(folder, namespace="/prompted", params_file=str(file)) as node:
        assert node.launched is not None
        node.launched.wait_for_text("accepted: a path with {camera} in it", "refused to configure")
