"""What the launch files promise: respawn, prompts at start, a slow engine that holds nobody up, no torch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from node_harness import ROOT, Launched, Peer, box_prompt, running, wait_until

from sam2_ros.msg import PromptResult, TrackedObject
from sam2_ros.ros.dds_environment import environment
from sam2_ros.srv import AddObjects, RemoveObject, RenameObject


def log_of(node: Peer) -> Launched:
    assert node.launched is not None
    return node.launched


def test_a_killed_node_comes_back_and_is_active_again(folder: Path, parameters_file: Path, tmp_path: Path) -> None:
    """With its objects, names and ids; the start's prompts are not applied again."""
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
        again = node.wait_until(lambda: node.track().objects, "objects of the dead process")
        assert [(known.id, known.name) for known in again] == [(1, "cup"), (2, ""), (3, "late")]
        assert {known.state for known in again} == {TrackedObject.STATE_VISIBLE}
        assert log_of(node).text.count("prompts_file: object 1") == 2, "both prompts of object 1, once"


def test_sixteen_objects_outlive_their_process(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed twice; then a new launch begins without them."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    file = tmp_path / "sixteen.yaml"
    file.write_text("/**:\n  ros__parameters:\n    model.name: 'null'\n    tracker.max_objects: 20\n")
    arguments = {"namespace": "/sixteen/deep", "params_file": str(file), "use_respawn": "true"}
    boxes = [
        (40 * column + 4, 30 * row + 3, 40 * column + 30, 30 * row + 20) for row in range(4) for column in range(4)
    ]
    with running(folder, **arguments) as node:
        node.wait_for_state("active")
        node.wait_for_reliable()
        node.track()
        assert node.add(box_prompt(1, 1, 9, 9)).results[0].object_id == 1
        assert node.call(RemoveObject, "remove_object", RemoveObject.Request(object_id="1")).success
        answer = node.add(*[box_prompt(*box, name=f"object {number}") for number, box in enumerate(boxes)])
        assert [result.object_id for result in answer.results] == list(range(2, 18))
        before = node.track()
        for death in (1, 2):
            subscribed = log_of(node).text.count("subscribed to /sixteen/deep/image,")
            # A change after the last frame is written too, without another image.
            request = RenameObject.Request(object_id="2", name=f"renamed {death}", label="dish")
            assert node.call(RenameObject, "rename_object", request).success
            (state,) = tmp_path.glob("sam2_ros/*.sixteen.deep.tracker.state")
            node.wait_until(partial(holds, state, f"renamed {death}".encode()), "the new name in the file")
            node.tracks.clear()
            node.events.clear()
            os.kill(log_of(node).node_pid(), signal.SIGKILL)
            text = "16 objects brought back, ids go on from 18"
            log_of(node).wait_for_text(text, times=death)
            log_of(node).wait_for_text("subscribed to /sixteen/deep/image,", times=subscribed + 1)
            listed = node.list_objects().tracks
            assert {known.state for known in listed.objects} == {TrackedObject.STATE_OCCLUDED}
            after = node.track()
            assert after.instance == listed.instance != before.instance
            assert [(known.id, known.name, known.area) for known in after.objects] == [
                (known.id, f"renamed {death}" if known.id == 2 else known.name, known.area) for known in before.objects
            ]
            assert {known.state for known in after.objects} == {TrackedObject.STATE_VISIBLE}
            node.wait_until(lambda: len(node.events) >= 32, "events of all objects")
            assert {event.instance for event in node.events} == {after.instance}
        assert node.add(box_prompt(1, 1, 9, 9)).results[0].object_id == 18
        assert node.reset().removed == 17
        node.wait_until(lambda: not holds(state, b"object 3"), "a file without objects")
        os.kill(log_of(node).node_pid(), signal.SIGKILL)
        log_of(node).wait_for_text("state: 0 objects brought back, ids go on from 19")
    assert state.is_file()
    with running(folder, autostart="false", **arguments) as node:
        node.wait_until(lambda: not state.exists(), "a launch without the objects of an earlier one")
        node.wait_for_state("unconfigured")


def test_a_parameter_file_that_is_not_there_starts_nothing(folder: Path) -> None:
    launched = Launched(folder / "no_file.log", "tracker.launch.py", namespace="/no_file", params_file="nothere.yaml")
    launched.wait_for_text("launch argument params_file is 'nothere.yaml'; there is no such file")
    assert launched.wait_for_end() != 0


def holds(file: Path, text: bytes) -> bool:
    return text in file.read_bytes()


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


@pytest.mark.parametrize(
    ("library", "number"),
    [
        ("_multiarray_umath", signal.SIGTERM),  # while modules are imported
        ("_multiarray_umath", signal.SIGINT),
        ("_rclpy_pybind11", signal.SIGTERM),
        ("libopenvino", signal.SIGTERM),  # while the model is loaded
        ("libopenvino", signal.SIGINT),
    ],
)
def test_a_signal_ends_the_node_cleanly_also_while_it_starts(
    folder: Path, library: str, number: signal.Signals
) -> None:
    launched = Launched(folder / f"{library}_{number.name}.log", "tracker.launch.py", namespace="/early")
    try:
        launched.wait_for_text("process started with pid")
        maps = Path(f"/proc/{launched.node_pid()}/maps")
        wait_until(lambda: library in maps.read_text(), f"{library} in the process", launched)
        os.kill(launched.node_pid(), number)
        launched.wait_for_text("process has finished cleanly")
    finally:
        launched.stop()
    assert "Traceback" not in launched.text, launched.text


def test_a_signal_that_rclpy_sees_first_ends_the_node_cleanly() -> None:
    """Its handler shuts the context down in a thread of its own, while the node is made."""
    code = (
        "import rclpy, sam2_ros.ros.main as program\n"
        "made = program.TrackerNode\n"
        "program.TrackerNode = lambda: rclpy.shutdown() or made()\n"
        "raise SystemExit(program.main())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_processes_of_the_node_and_the_launch_file_never_import_torch(tmp_path: Path) -> None:
    code = (
        "import sys, rclpy\n"
        "import sam2_ros.ros.main, sam2_ros.ros.video_publisher, sam2_ros.cli.add\n"
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
    profiles = environment("shared_memory", {})
    (profile,) = [value for key, value in profiles.items() if "PROFILES_FILE" in key]  # both would be read
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
