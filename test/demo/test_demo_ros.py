"""The demo over ROS 2 as a user runs it: tracker by its launch file, camera and recorder, talking over DDS."""

import argparse
import csv
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sam2_ros.cli.demo import CAMERA_FRAMES
from sam2_ros.cli.main import main
from sam2_ros.demo.clip_report import Report
from sam2_ros.demo.footage import Clip

if importlib.util.find_spec("rclpy") is None:
    pytest.skip("the demo over ROS 2 needs rclpy", allow_module_level=True)


def command(out: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "sam2_ros", "demo", "--rendered", "--out", str(out), *options]


def environment(mark: str) -> dict[str, str]:
    """``mark`` is inherited by every process that the demo starts, so that they can be found.

    As if there were a display, no browser is started for a picture of the page.
    """
    return os.environ | {"SAM2_ROS_TEST_MARK": mark, "DISPLAY": ":99"}


def processes(mark: str) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdecimal() and f"SAM2_ROS_TEST_MARK={mark}\0".encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:  # ended meanwhile, or not ours
            continue
    return [pid for pid in found if pid != os.getpid()]


def wait_for(condition: Callable[[], bool], timeout_s: float = 60) -> bool:
    """Whether ``condition()`` came true; a process that was ended is listed for a moment longer."""
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


def test_an_object_added_through_the_service_is_recorded_from_the_topics(tmp_path: Path) -> None:
    result = subprocess.run(
        command(tmp_path, "--model", "null:60", "--frames", "40", "--rate", "20"),
        env=environment("whole"),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "rendered: " in result.stdout and "frames tracked" in result.stdout
    with (tmp_path / "rendered_tracks.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 5
    assert {(row["id"], row["name"], row["state"]) for row in rows} == {("1", "ball", "visible")}
    assert [row["prompted"] for row in rows] == ["1"] + ["0"] * (len(rows) - 1), "the recording begins with the prompt"
    stamps = [int(row["stamp"]) for row in rows]
    assert stamps == sorted(set(stamps))
    for name in ("overlay.mp4", "contact_sheet.png", "timeline.png", "tracks.txt"):
        assert (tmp_path / f"rendered_{name}").stat().st_size > 0
    assert wait_for(lambda: not processes("whole"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_every_process(tmp_path: Path, number: signal.Signals) -> None:
    mark = f"signal{number}"
    demo = subprocess.Popen(
        command(tmp_path, "--model", "null", "--rate", "1"), env=environment(mark), stderr=subprocess.DEVNULL
    )
    log = tmp_path / "rendered_camera.log"  # the camera is the last process to start
    assert wait_for(lambda: log.exists() or demo.poll() is not None, 120)
    assert wait_for(lambda: len(processes(mark)) >= 5 or demo.poll() is not None)
    assert demo.poll() is None
    demo.send_signal(number)
    assert demo.wait(60) == 128 + number
    assert wait_for(lambda: not processes(mark))


def test_ctrl_c_while_tracking_leaves_the_pictures(tmp_path: Path) -> None:
    demo = subprocess.Popen(
        command(tmp_path, "--model", "null", "--rate", "3"),
        env=environment("pictures"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    # The video begins while the second tracked frame is added; ended right there, the recording has the first alone.
    assert wait_for(lambda: any(tmp_path.glob(".rendered_overlay.*")) or demo.poll() is not None, 120)
    demo.send_signal(signal.SIGINT)
    printed, errors = demo.communicate(timeout=60)
    assert demo.returncode == 130 and "sam2_ros: interrupted" in errors
    assert re.search(r"\d+ frames? tracked", printed)
    with (tmp_path / "rendered_tracks.csv").open(encoding="utf-8") as file:
        assert 1 <= len(list(csv.DictReader(file))) < 150
    for name in ("overlay.mp4", "contact_sheet.png", "timeline.png", "tracks.txt"):
        assert (tmp_path / f"rendered_{name}").stat().st_size > 0
    assert wait_for(lambda: not processes("pictures"))


def test_a_camera_is_played_for_a_limited_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played = []

    def play(clip: Clip, args: argparse.Namespace) -> Report:
        played.append((clip.source, args.frames))
        return Report(clip.name, 1, 0, 1.0, 1, ())

    monkeypatch.setattr("sam2_ros.demo.clip_player.play", play)
    assert main(["demo", "--source", "0", "--out", str(tmp_path)]) == 0
    assert main(["demo", "--source", "0", "--frames", "9", "--out", str(tmp_path)]) == 0
    assert main(["demo", "--source", "clip.mp4", "--out", str(tmp_path)]) == 0
    assert played == [("0", CAMERA_FRAMES), ("0", 9), ("clip.mp4", None)]


def test_a_node_that_cannot_start_says_why(tmp_path: Path) -> None:
    result = subprocess.run(
        command(tmp_path, "--model", "gone.pt"),
        env=environment("gone"),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert result.returncode == 2
    assert (
        "sam2_ros: error: the tracker did not start: configure failed: no weights for model 'gone.pt'" in result.stderr
    )
    assert "Traceback" not in result.stderr
    assert wait_for(lambda: not processes("gone"))
