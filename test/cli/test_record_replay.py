"""A recording of the launched node: read by a reader that is not ours, and tracked again."""

from __future__ import annotations

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

FRAMES = 12


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "sam2_ros", *words]


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ball that is added, corrected and renamed, and a second object that is added and removed."""
    from vision_msgs.msg import Point2D

    from sam2_ros.msg import ObjectPrompt
    from sam2_ros.srv import RefineObject, RemoveObject, RenameObject

    folder = tmp_path_factory.mktemp("recording")
    file, log = folder / "run.mcap", folder / "record.log"
    with running(folder, namespace="/recorded", model="embedded") as peer:
        peer.wait_for_state("active")
        with log.open("w") as output:
            process = subprocess.Popen(
                command("record", str(file), "--node", "/recorded/tracker"), stdout=output, stderr=subprocess.STDOUT
            )
        wait_until(lambda: "recording /recorded/tracker" in log.read_text(), "the recorder", peer.launched)
        wait_until(lambda: peer.node.count_subscribers("/recorded/tracker/tracks") >= 2, "its subscriptions")
        time.sleep(1.0)  # until its image subscription is matched, which the graph does not tell
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
        time.sleep(0.5)  # for the recorder's last messages
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, log.read_text()
    assert "Traceback" not in log.read_text(), log.read_text()
    return file


def show(peer: Peer, rgb: Any) -> Any:
    height, width = rgb.shape[:2]
    image = peer.image(height=height, width=width, step=3 * width, data=array("B", rgb.tobytes()))
    peer.send(image)
    peer.wait_until(lambda: peer.tracks_of(image), "the image's tracks")
    return image


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
