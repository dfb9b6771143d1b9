"""The states of the node: what each transition does, what it refuses, and that the process lives on."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import Transition
from node_harness import PATIENCE, Launched, Peer, box_prompt, running
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn

from sam2_ros.inference import NullBackend
from sam2_ros.msg import PromptResult
from sam2_ros.ros import node as node_module
from sam2_ros.tracking.types import FrameResult

CONFIGURE, ACTIVATE = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE
DEACTIVATE, CLEANUP = Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP


@pytest.fixture(scope="module")
def launched(folder: Path, parameters_file: Path) -> Iterator[Peer]:
    arguments = {"params_file": str(parameters_file), "autostart": "false"}
    with running(folder, namespace="/lifecycle", **arguments) as peer:
        yield peer


@pytest.fixture
def node(launched: Peer) -> Iterator[Peer]:
    """The node, unconfigured."""
    assert launched.state() == "unconfigured"
    yield launched
    if launched.state() == "active":
        launched.change_state(DEACTIVATE)
    if launched.state() == "inactive":
        launched.change_state(CLEANUP)


def log_of(node: Peer) -> Launched:
    assert node.launched is not None
    return node.launched


def test_without_autostart_the_node_waits(node: Peer) -> None:
    assert node.state() == "unconfigured"
    assert node.status()["message"] == "not configured"


def test_the_walk(node: Peer) -> None:
    """Objects are kept over a deactivation and gone after a cleanup; ids go on even then."""
    assert node.change_state(CONFIGURE) and node.state() == "inactive"
    assert node.node.count_subscribers("/lifecycle/image") == 0
    assert node.change_state(ACTIVATE) and node.state() == "active"
    node.track()
    object_id = node.add(box_prompt(10, 10, 30, 30, name="cup")).results[0].object_id
    assert [known.name for known in node.track().objects] == ["cup"]

    assert node.change_state(DEACTIVATE) and node.state() == "inactive"
    node.wait_until(lambda: node.node.count_subscribers("/lifecycle/image") == 0, "an end of the subscription")
    assert node.status()["message"] == "not active"
    before = len(node.tracks)
    assert node.change_state(ACTIVATE)
    assert [known.name for known in node.list_objects().tracks.objects] == ["cup"]
    answer = node.add(box_prompt(10, 10, 50, 50, name="cup"))
    assert answer.results[0].code == PromptResult.NO_FRAME, "the image from before the deactivation is none to prompt"
    tracks = node.track()
    assert [(known.id, known.name) for known in tracks.objects] == [(object_id, "cup")]
    since = node.tracks.index(tracks) + 1 - before
    assert tracks.frames_processed == since, "the counters begin anew with each activation"

    assert node.change_state(DEACTIVATE) and node.change_state(CLEANUP) and node.state() == "unconfigured"
    assert node.change_state(CONFIGURE) and node.change_state(ACTIVATE)
    assert node.track().objects == []
    assert node.add(box_prompt(10, 10, 30, 30)).results[0].object_id == object_id + 1


def test_results_of_an_engine_that_was_left_behind_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last frame outlasts the grace and ends when the node is active again with another engine."""
    gate, entered = threading.Event(), threading.Event()

    class Stuck(NullBackend):
        def step(self, frame: np.ndarray, stamp: int) -> FrameResult:
            entered.set()
            assert gate.wait(PATIENCE)
            return super().step(frame, stamp)

    engines = iter([Stuck(), NullBackend()])
    monkeypatch.setattr(node_module.BackendFactory, "make", lambda *_: next(engines))
    monkeypatch.setattr(node_module, "_SHUTDOWN_GRACE", 0.01)
    context = rclpy.Context()
    rclpy.init(context=context)
    tracker = node_module.TrackerNode(context=context, namespace="/left")
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(tracker)
    spinning = threading.Thread(target=executor.spin)
    peer = Peer("/left/tracker", "/left/image")
    sent: list[Any] = []

    def engine_has_a_frame() -> bool:
        sent.append(peer.send())
        return entered.wait(0.05)

    def start() -> None:
        assert tracker.on_configure(None) is tracker.on_activate(None) is TransitionCallbackReturn.SUCCESS

    try:
        start()
        spinning.start()
        peer.wait_until(engine_has_a_frame, "a frame in the engine")
        (left,) = (thread for thread in threading.enumerate() if thread.name == "inference")
        tracker.close()  # as after an error
        assert left.is_alive()
        start()
        peer.track()
        gate.set()
        left.join(PATIENCE)
        assert not left.is_alive()
        peer.track()
        assert not any(peer.tracks_of(image) for image in sent)
    finally:
        gate.set()
        executor.shutdown()
        spinning.join(PATIENCE)
        tracker.close()
        tracker.destroy_node()
        context.try_shutdown()
        peer.close()


def test_services_answer_in_every_state(node: Peer) -> None:
    for transition in (None, CONFIGURE):
        if transition is not None:
            assert node.change_state(transition)
        answer = node.add(box_prompt(10, 10, 30, 30), box_prompt(1, 1, 2, 2))
        assert not answer.success
        assert [result.code for result in answer.results] == [PromptResult.NOT_ACTIVE] * 2
        assert not node.list_objects().success
        assert not node.reset().success


@pytest.mark.parametrize("before", [(), (CONFIGURE,)])
def test_the_refusal_gives_the_command_that_activates_the_node(node: Peer, tmp_path: Path, before: list[int]) -> None:
    for transition in before:
        assert node.change_state(transition)
    for words in (("list",), ("refine", "cup", "--point", "1", "1"), ("follow", "--wait-for", "cup")):
        command = [sys.executable, "-m", "sam2_ros", *words, "--node", "/lifecycle/tracker", "--timeout", "15"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1 and "the node is not active; run: ros2 " in done.stdout + done.stderr, done
    cure = node.list_objects().message.partition("; run: ")[2]
    subprocess.run(cure, shell=True, check=True, capture_output=True)
    assert node.state() == "active"


def test_the_recorder_says_how_to_activate_the_node(node: Peer, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sam2_ros", "record", str(tmp_path / "run.mcap"), "--node", "/lifecycle/tracker"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "/lifecycle/tracker is not active; run: " in done.stderr, done
    subprocess.run(done.stderr.strip().partition("; run: ")[2], shell=True, check=True, capture_output=True)
    assert node.state() == "active"


def test_a_prompt_before_any_frame_is_refused_after_a_while(node: Peer) -> None:
    assert node.change_state(CONFIGURE) and node.change_state(ACTIVATE)
    answer = node.add(box_prompt(10, 10, 30, 30))
    assert answer.results[0].code == PromptResult.NO_FRAME
    assert "is the camera running?" in answer.message
    listed = node.list_objects()
    assert listed.success and listed.message.startswith("no frame was processed yet; ")


def test_a_transition_that_the_state_does_not_have(node: Peer) -> None:
    assert not node.change_state(ACTIVATE)
    assert not node.change_state(99)
    assert node.state() == "unconfigured"
    assert node.change_state(CONFIGURE)
    assert not node.change_state(CONFIGURE)
    assert node.state() == "inactive"


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("model.name", "/nowhere/weights.pt", "/nowhere/weights.pt"),
        ("prompts_file", "/nowhere/prompts.json", "/nowhere/prompts.json: no such file"),
        ("prompts_file", "/dev/zero", "/dev/zero is a pipe, socket or device; accepted: a file"),
    ],
)
def test_a_failed_configure_says_why_and_can_be_mended(node: Peer, name: str, value: str, complaint: str) -> None:
    good = {"model.name": "null", "prompts_file": ""}[name]
    assert node.set_parameter(name, value).successful
    assert not node.change_state(CONFIGURE)
    assert node.state() == "unconfigured"
    assert complaint in last_failure(node)
    assert node.set_parameter(name, good).successful
    assert node.change_state(CONFIGURE)


def test_prompts_for_later_frames_are_refused(node: Peer, tmp_path: Path) -> None:
    file = tmp_path / "later.json"
    file.write_text('[{"frame": 8, "object_id": 1, "box": [10, 10, 30, 30]}]')
    assert node.set_parameter("prompts_file", str(file)).successful
    assert not node.change_state(CONFIGURE)
    assert "a prompt is for frame 8; accepted for a live camera: frame 0" in log_of(node).text
    assert node.set_parameter("prompts_file", "").successful


def test_parameters_are_fixed_while_configured_and_free_after_a_cleanup(node: Peer) -> None:
    assert node.set_parameter("tracker.max_objects", 2).successful
    assert node.change_state(CONFIGURE)
    assert not node.set_parameter("tracker.max_objects", 4).successful
    assert node.change_state(ACTIVATE)
    assert node.track().max_objects == 2
    assert node.change_state(DEACTIVATE) and node.change_state(CLEANUP)
    assert node.set_parameter("tracker.max_objects", 4).successful


def test_compressed_transport(node: Peer) -> None:
    from array import array

    import cv2
    import numpy as np
    from sensor_msgs.msg import CompressedImage

    assert node.set_parameter("input.transport", "compressed").successful
    assert node.change_state(CONFIGURE) and node.change_state(ACTIVATE)
    publisher = node.create_image_publisher(CompressedImage, "/lifecycle/image/compressed")
    _, jpeg = cv2.imencode(".jpg", np.full((48, 64, 3), 90, np.uint8))
    message = CompressedImage(format="jpeg", data=array("B", jpeg.tobytes()), header=node.image().header)
    node.wait_until(lambda: node.send(message, publisher) and node.tracks_of(message), "tracks of a JPEG")
    assert (node.tracks[-1].image_width, node.tracks[-1].image_height) == (64, 48)
    broken = CompressedImage(format="jpeg", data=array("B", b"no jpeg"), header=node.image().header)
    node.send(broken, publisher)
    log_of(node).wait_for_text("compressed image (format 'jpeg') can't be decoded")
    node.node.destroy_publisher(publisher)
    node.change_state(DEACTIVATE)
    node.change_state(CLEANUP)
    assert node.set_parameter("input.transport", "raw").successful


def test_wrong_values_and_missing_torch_at_start_end_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is one clear sentence, and once it is mended the node can be configured. torch is made to seem absent."""
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    file = tmp_path / "wrong.yaml"
    file.write_text(
        "/**:\n  ros__parameters:\n    model.name: embedded\n    model.runtime: torch\n"
        "    tracker.max_objects: 0\n    prompts.wait: often\n    output.mask_encoding: png\n"
        "    tracker.max_object: 3\n    modelname: embedded\n    entirely_else: 1\n"
        "    qos_overrides./wrong/tracker/tracks.publisher.depth: 5\n"
    )
    with running(folder, namespace="/wrong", params_file=str(file), endpoint="tcp://no-port") as node:
        log_of(node).wait_for_text("/wrong/tracker refused to configure")
        line = last_failure(node)
        assert "tracker.max_objects" in line and "accepted: 1 to 1024" in line
        assert "prompts.wait" in line and 'output.mask_encoding is "png"; accepted: mono8, rle' in line
        unknown = [line.partition("parameter ")[2] for line in log_of(node).text.splitlines() if "not exist" in line]
        assert unknown == [
            "'tracker.max_object' does not exist and is ignored; did you mean 'tracker.max_objects'?",
            "'modelname' does not exist and is ignored; did you mean 'model.name'?",
            "'entirely_else' does not exist and is ignored",
        ]
        assert node.state() == "unconfigured"
        assert node.set_parameter("inference.endpoint", "").successful
        for name, value in (("tracker.max_objects", 3), ("prompts.wait", 1.0), ("output.mask_encoding", "rle")):
            assert node.set_parameter(name, value).successful

        assert not node.change_state(CONFIGURE)
        assert "PyTorch" in last_failure(node) and "install" in last_failure(node)

        assert node.set_parameter("model.name", "null").successful
        assert node.change_state(CONFIGURE) and node.change_state(ACTIVATE)
        assert node.track().max_objects == 3


def last_failure(node: Peer) -> str:
    return [line for line in log_of(node).text.splitlines() if "configure failed: " in line][-1]


def test_two_nodes_of_one_name_say_so_and_each_launch_starts_its_own(folder: Path, parameters_file: Path) -> None:
    """A request from outside would reach either of them."""
    arguments = {"namespace": "/twins", "params_file": str(parameters_file)}
    with running(folder, **arguments) as first:
        first.wait_for_state("active")
        assert "another node" not in first.status()["message"]
        with running(folder, **arguments) as second:
            for node in (first, second):
                log_of(node).wait_for_text("subscribed to /twins/image", "another node is named /twins/tracker")
                assert log_of(node).text.count("another node is named") == 1
            status = second.wait_until(lambda: "another node" in (s := second.status())["message"] and s, "the warning")
            assert status["level"] >= DiagnosticStatus.WARN
        first.wait_until(lambda: "another node" not in first.status()["message"], "an end of the warning")
