"""A recording of the launched node: read by a reader that is not ours, and tracked again."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time
from array import array
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="recording needs ROS 2")
pytest.importorskip("mcap", reason="the library that writes recordings")

from node_harness import Peer, box_prompt, running, wait_until

from sam2_ros.cli.main import main
from sam2_ros.media.rendered_scene import bounding_box, render
from sam2_ros.ros.recording_reader import Recording

FRAMES = 12


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "sam2_ros", *words]


LIMIT = 1_000_000  # bytes of the recording whose disk is full


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Recorder]:
    """A ball that is added, corrected and renamed, and a second object that is added and removed; recorded by four
    recorders. One is ended by Ctrl-C, one by SIGHUP, one is killed, and one may not write as much as it wants."""
    from vision_msgs.msg import Point2D

    from sam2_ros.msg import ObjectPrompt
    from sam2_ros.srv import RefineObject, RemoveObject, RenameObject

    folder = tmp_path_factory.mktemp("recording")
    settings = folder / "settings.yaml"  # the ball comes out on the other side of a wall three frames before the end
    settings.write_text("/**:\n  ros__parameters:\n    tracker:\n      search_every: 1\n")
    with running(folder, namespace="/recorded", model="embedded", params_file=str(settings)) as peer:
        peer.wait_for_state("active")
        recorders = {name: Recorder(folder, name) for name in ("run", "hangup", "killed")}
        recorders["full"] = Recorder(folder, "full", f"ulimit -f {LIMIT // 1024}; exec ")
        try:
            for recorder in recorders.values():
                wait_until(lambda: "recording /recorded/tracker" in recorder.said, "the recorder", peer.launched)  # noqa: B023
            wait_until(lambda: peer.node.count_subscribers("/recorded/tracker/tracks") >= 5, "their subscriptions")
            peer.wait_for_reliable(listeners=5)
            time.sleep(1.0)  # until the node knows them too
            frames = list(render(FRAMES))
            for number, frame in enumerate(frames):
                image = show(peer, frame.rgb)
                if number == 1:
                    box = bounding_box(frame.masks[1])
                    assert peer.add(box_prompt(*box, name="ball"), box_prompt(10, 10, 60, 50)).success
                if number == 5:
                    middle = Point2D(x=(box[0] + box[2]) / 2, y=(box[1] + box[3]) / 2)
                    prompt = ObjectPrompt(name="ball", points=[middle], point_labels=[1])
                    request = RefineObject.Request(prompt=prompt)
                    request.request_header.stamp = image.header.stamp
                    assert peer.call(RefineObject, "refine_object", request).success
                if number == 7:
                    assert peer.call(RemoveObject, "remove_object", RemoveObject.Request(object_id="2")).success
                    request = RenameObject.Request(object_id="1", name="marble")
                    assert peer.call(RenameObject, "rename_object", request).success
            time.sleep(2.0)  # for the recorders' last messages
            for name, number in (("run", signal.SIGINT), ("hangup", signal.SIGHUP), ("killed", signal.SIGKILL)):
                recorders[name].process.send_signal(number)
            for recorder in recorders.values():
                recorder.process.wait(60)
        finally:
            for recorder in recorders.values():
                recorder.process.kill()
    return recorders


class Recorder:
    """A recorder as a process; ``before`` is a piece of a shell's command line."""

    def __init__(self, folder: Path, name: str, before: str = "exec ") -> None:
        self.file, self._log = folder / f"{name}.mcap", folder / f"{name}.log"
        words = shlex.join(command("record", str(self.file), "--node", "/recorded/tracker"))
        with self._log.open("w") as output:
            self.process = subprocess.Popen(
                ["bash", "-c", before + words], stdout=output, stderr=subprocess.STDOUT, cwd=folder
            )

    @property
    def said(self) -> str:
        return self._log.read_text()


@pytest.fixture(scope="module")
def recording(recordings: dict[str, Recorder]) -> Path:
    recorder = recordings["run"]
    assert recorder.process.returncode == 0 and "Traceback" not in recorder.said, recorder.said
    return recorder.file


def show(peer: Peer, rgb: Any) -> Any:
    height, width = rgb.shape[:2]
    image = peer.image(height=height, width=width, step=3 * width, data=array("B", rgb.tobytes()))
    peer.track(image)
    return image


def test_it_says_how_large_the_networks_input_was(recording: Path) -> None:
    """The node chose it by a setting that may change while it is active."""
    assert Recording(recording).parameters["model.image_size"] == 448


def test_another_reader_opens_it(recording: Path) -> None:
    """rosbags reads MCAP and CDR with code of its own, by the definitions that the file holds."""
    from rosbags.highlevel import AnyReader

    with AnyReader([recording]) as reader:
        counts = {connection.topic: connection.msgcount for connection in reader.connections}
        assert counts["/recorded/image"] == FRAMES
        assert counts["/recorded/tracker/tracks"] >= FRAMES
        newest: dict[str, Any] = {}
        wanted = [each for each in reader.connections if each.topic.endswith(("/tracks", "/annotations"))]
        for connection, _, data in reader.messages(wanted):
            newest[connection.topic] = reader.deserialize(data, connection.msgtype)
    final = newest["/recorded/tracker/tracks"]
    drawn = newest["/recorded/tracker/annotations"]  # what Foxglove draws over the image
    assert drawn.texts[0].text.startswith("marble ") and len(drawn.points[0].points) > 8
    assert [(known.id, known.name) for known in final.objects] == [(1, "marble")]
    assert final.objects[0].area > 0


def test_the_replay_gives_the_same_tracks(recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(recording), "--quiet"]) == 0
    told = capsys.readouterr().out
    assert f"masks in {FRAMES} frames are the same, pixel for pixel" in told
    masks = int(told.split(" of ")[1].split()[0])
    assert masks >= 2 * FRAMES - 8


def test_a_recorder_that_is_hung_up_completes_its_file(recordings: dict[str, Recorder], capsys: Any) -> None:
    assert recordings["hangup"].process.returncode == 0
    assert len(Recording(recordings["hangup"].file).frames) == FRAMES
    assert not capsys.readouterr().err


def test_a_killed_recorder_loses_next_to_nothing(recordings: dict[str, Recorder], capsys: Any) -> None:
    assert recordings["killed"].process.returncode == -signal.SIGKILL
    assert len(Recording(recordings["killed"].file).frames) >= FRAMES - 1
    assert "MiB (the end is missing); only what comes before is used, 1" in capsys.readouterr().err


def test_a_full_disk_is_told_and_the_file_is_of_use(recordings: dict[str, Recorder], capsys: Any) -> None:
    recorder = recordings["full"]
    assert recorder.process.returncode == 2
    assert "full.mcap: File too large; the recording has ended, and 'sam2_ros replay' can use" in recorder.said
    assert "Traceback" not in recorder.said and recorder.file.stat().st_size <= LIMIT
    assert 2 <= len(Recording(recorder.file).frames) < FRAMES
    assert "damaged or cut after" in capsys.readouterr().err


def test_another_model_is_told_apart(recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(recording), "--model", "null", "--quiet"]) == 1
    assert "the lowest IoU is 0." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("replay", "gone.mcap"), "gone.mcap: no such file"),
        (("replay", "text.mcap"), "text.mcap can't be read as MCAP"),
        (("record", "text.mcap"), "text.mcap exists; name another file or remove it"),
    ],
)
def test_what_a_user_can_mend(
    words: tuple[str, ...], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.mcap").write_text("no recording " * 20)
    assert main([*words]) == 2
    assert reason in capsys.readouterr().err
