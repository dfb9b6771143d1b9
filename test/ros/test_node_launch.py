"""What the launch files promise: respawn, prompts at start, a slow engine that holds nobody up, no torch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from node_harness import ROOT, Launched, Peer, box_prompt, running

from sam2_ros.msg import PromptResult
from sam2_ros.ros.dds_environment import environment
from sam2_ros.srv import AddObjects


def log_of(node: Peer) -> Launched:
    assert node.launched is not None
    return node.launched


def test_a_killed_node_comes_back_and_is_active_again(folder: Path, parameters_file: Path, tmp_path: Path) -> None:
    """The start's prompts are applied again; everything else the dead process knew is gone."""
    prompts = tmp_path / "prompts.json"
    prompts.write_text(
        json.dumps(
            [
                {"frame": 0, "object_id": 5, "box": [10, 10, 30, 30], "name": "cup", "label": "dish"},
                {"frame": 0, "object_id": 9, "points": [[80, 60]], "labels": [1]},
                {"frame": 0, "object_id": 5, "box": [10, 10, 40, 30]},
                {"frame": 0, "object_id": 7, "box": [900, 900, 999, 999]},
            ]
        )
    )
    arguments = {"params_file": str(parameters_file), "prompts_file": str(prompts), "use_respawn": "true"}
    with running(folder, namespace="/respawn", **arguments) as node:
        node.wait_for_state("active")
        first = node.wait_until(lambda: node.track().objects, "objects of the prompts file")
        assert [(known.id, known.name, known.label) for known in first] == [(1, "cup", "dish"), (2, "", "")]
        assert first[0].area == 30 * 20
        log_of(node).wait_for_text("prompts_file: the box (900, 900, 999, 999) lies outside the image")
        node.add(box_prompt(50, 50, 60, 60, name="late"))
        assert len(node.track().objects) == 3

        dead = log_of(node).node_pid()
        os.kill(dead, signal.SIGKILL)
        log_of(node).wait_for_text("process started with pid", "subscribed to /respawn/image", times=2)
        assert log_of(node).node_pid() != dead
        node.tracks.clear()
        again = node.wait_until(lambda: node.track().objects, "objects of the prompts file")
        assert [(known.id, known.name) for known in again] == [(1, "cup"), (2, "")]


def others_are_answered_before_a_prompt(node: Peer) -> bool:
    """Sometimes they are not, as the frame in the engine may be about to end; never, if a prompt held them up."""
    assert node.set_parameter("output.mask_encoding", "mono8").successful  # the clients are there then
    assert node.state() == "active"
    request = AddObjects.Request(prompts=[box_prompt(1, 1, 9, 9, name="cup")])
    waiting = node.call_async(AddObjects, "add_objects", request)
    assert node.state() == "active"
    assert node.set_parameter("output.mask_encoding", "rle").successful
    answered = not waiting.done()
    node.wait_until(waiting.done, "the prompt's answer")
    assert waiting.result().results[0].code == PromptResult.OK
    return answered


def test_a_slow_engine_holds_nobody_up(folder: Path, tmp_path: Path) -> None:
    """While the engine is at one frame, images are taken, a prompt waits for its turn, and other services answer."""
    file = tmp_path / "slow.yaml"
    file.write_text("/**:\n  ros__parameters:\n    model.name: 'null:1500'\n    diagnostics.period: 0.1\n")
    with running(folder, namespace="/slow", params_file=str(file)) as node:
        node.wait_for_state("active")
        with node.camera() as sent:
            node.wait_until(lambda: int(node.status()["dropped"]) > 3, "dropped frames")
            before = int(node.status()["received"])
            assert any(others_are_answered_before_a_prompt(node) for _ in range(20)), "all had to wait for the engine"
            node.wait_until(lambda: int(node.status()["received"]) > before + 5, "images received meanwhile")
            assert len(sent) > 10
        tracks = node.wait_until(lambda: node.tracks and node.tracks[-1], "tracks")
        assert tracks.frames_dropped > tracks.frames_processed
        node.send()
        os.kill(log_of(node).node_pid(), signal.SIGTERM)
        log_of(node).wait_for_text("process has finished cleanly")


def test_the_processes_of_the_node_and_the_launch_file_never_import_torch(tmp_path: Path) -> None:
    code = (
        "import sys, rclpy\n"
        "import sam2_ros.ros.main, sam2_ros.ros.bring_up, sam2_ros.ros.video_publisher, sam2_ros.cli.add\n"
        "from lifecycle_msgs.msg import Transition\n"
        "from rclpy.lifecycle import TransitionCallbackReturn\n"
        "rclpy.init(args=['--ros-args', '-p', 'model.name:=null'])\n"
        "node = sam2_ros.ros.main.TrackerNode()\n"
        "assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS\n"
        "assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS\n"
        "node.close()\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_transport_leaves_alone_what_the_user_has_set() -> None:
    profile = environment("shared_memory", {})["FASTDDS_DEFAULT_PROFILES_FILE"]
    assert Path(profile).read_text() == (ROOT / "config" / "fastdds.xml").read_text()
    assert environment("large_data", {})["FASTDDS_BUILTIN_TRANSPORTS"] == "LARGE_DATA"
    for name in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE", "FASTDDS_BUILTIN_TRANSPORTS"):
        for transport in ("shared_memory", "large_data", "default"):
            assert not any("DDS" in key or "RTPS" in key for key in environment(transport, {name: "mine"}))
    assert environment("default", {"MALLOC_TOP_PAD_": "1"}).keys() == {
        "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_ARENA_MAX",
    }  # fmt: skip
    with pytest.raises(ValueError, match="'tcp'; accepted: shared_memory, large_data, default"):
        environment("tcp", {})
