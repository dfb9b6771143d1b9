"""The demo without ROS: what it leaves behind, where its footage comes from, and its mistakes."""

import csv
import gzip
import itertools
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from sam2_ros.cli import demo
from sam2_ros.cli.main import main
from sam2_ros.demo import footage
from sam2_ros.demo.clip_report import ReportWriter
from sam2_ros.media import frame_sources
from sam2_ros.media.errors import UserError
from sam2_ros.media.frame_sources import Frame
from sam2_ros.media.rendered_scene import bounding_box, render
from sam2_ros.media.signals import Ended
from sam2_ros.tracking.types import CroppedMask, FrameResult, ObjectResult, ObjectState


def test_offline_a_rendered_scene_is_tracked_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SAM2_ROS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))  # no apt-get there
    out = tmp_path / "out"
    assert main(["demo", "--no-ros", "--model", "null", "--frames", "20", "--out", str(out)]) == 0
    printed, errors = capfd.readouterr()
    assert "no real footage: apt-get is not there" in errors and "playing a rendered scene instead" in errors
    assert "rendered: 20 frames tracked" in printed
    assert {path.name for path in out.iterdir()} == {
        "rendered.mp4", "rendered_overlay.mp4", "rendered_contact_sheet.png", "rendered_timeline.png",
        "rendered_tracks.csv", "rendered_tracks.txt",
    }  # fmt: skip
    with (out / "rendered_tracks.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20
    first = next(iter(render(150)))
    assert [int(rows[0][edge]) for edge in ("x0", "y0", "x1", "y1")] == list(bounding_box(first.masks[1]))
    assert (rows[0]["name"], rows[0]["state"], rows[0]["prompted"]) == ("ball", "visible", "1")


def test_the_users_own_video_without_a_box_is_clicked_in_the_middle(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for index, frame in enumerate(render(5, 160, 120)):
        cv2.imwrite(str(folder / f"{index}.png"), frame.rgb)
    options = ["demo", "--no-ros", "--model", "null", "--out", str(tmp_path / "out"), "--source", str(folder)]
    assert main(options) == 0
    assert "the object in the middle of the first frame is tracked" in capfd.readouterr().err
    with (tmp_path / "out" / "frames_tracks.csv").open(encoding="utf-8") as file:
        row = next(csv.DictReader(file))
    assert int(row["x0"]) < 80 < int(row["x1"]) and int(row["y0"]) < 60 < int(row["y1"])
    assert main([*options, "--box", "10", "20", "50", "60"]) == 0
    with (tmp_path / "out" / "frames_tracks.csv").open(encoding="utf-8") as file:
        row = next(csv.DictReader(file))
    assert [row[edge] for edge in ("x0", "y0", "x1", "y1")] == ["10", "20", "50", "60"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--box", "1", "2", "3", "4"], "--box belongs to --source"),
        (["--source", "gone.mp4"], "gone.mp4: no such file"),
        (["--rate", "0"], "--rate is 0.0; accepted: more than 0"),
        (["--frames", "-1"], "--frames is -1"),
    ],
)
def test_a_mistake_ends_with_one_sentence_and_code_2(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["demo", "--no-ros", "--model", "null", "--out", str(tmp_path), *options]) == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith("sam2_ros: error: ") and message in error


def test_dropped_frames_are_held_in_the_video(tmp_path: Path) -> None:
    """Frames tracked at 0, 0.1 and 0.5 s make six frames of a 10 Hz video: the second one stays for four."""
    recording = ReportWriter(tmp_path, "clip", 10.0)
    mask = np.zeros((120, 160), np.bool_)
    mask[90:110, 10:60] = True
    for stamp, level, state in ((0, 40, 1), (10**8, 120, 1), (5 * 10**8, 200, 2)):
        item = ObjectResult(1, CroppedMask.from_full(mask), ObjectState(state), 1.0, 0.9, 0.8, False, "cup")
        rgb = np.full((120, 160, 3), level, np.uint8)
        recording.add(rgb, FrameResult(0, 7 * 10**9 + stamp, 160, 120, (item,)))
    report = recording.finish(dropped=3, rate=4.0)
    assert (report.frames, report.visible, report.dropped) == (3, 2, 3)
    capture = cv2.VideoCapture(str(tmp_path / "clip_overlay.mp4"))
    levels = []
    while (read := capture.read())[0]:
        levels.append(float(read[1][60, 150].mean()))
    capture.release()
    assert levels == pytest.approx([40, 120, 120, 120, 120, 200], abs=8)
    text = (tmp_path / "clip_tracks.txt").read_text(encoding="utf-8")
    assert "3 frames tracked at 4.0 frames/s, 3 dropped" in text and "cup" in text
    assert all(file.stat().st_size > 0 for file in report.files)


class Camera:
    """Delivers the rendered scene without end, or until ``end`` is raised after ``frames``."""

    fps = 10.0
    length = None

    def __init__(self, frames: int | None = None, end: BaseException | None = None) -> None:
        self.frames, self.end = frames, end

    def __iter__(self) -> Iterator[Frame]:
        (scene,) = render(1, 160, 120)
        for index in itertools.count():
            if index == self.frames:
                assert self.end is not None
                raise self.end
            yield Frame(index, f"{index:06d}", index * 10**8, scene.rgb)


def test_a_camera_ends_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(frame_sources, "Camera", lambda _: Camera())
    monkeypatch.setattr(demo, "CAMERA_FRAMES", 7)
    assert main(["demo", "--no-ros", "--model", "null", "--out", str(tmp_path), "--source", "0"]) == 0
    assert "camera0: 7 frames tracked" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "sam2_ros: interrupted"),
        (Ended(signal.SIGTERM), 143, "sam2_ros: interrupted"),
        (UserError("the cable was pulled"), 2, "sam2_ros: error: the cable was pulled"),
    ],
    ids=str,
)
def test_a_demo_that_is_stopped_leaves_its_pictures(
    end: BaseException,
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    options = ["demo", "--no-ros", "--model", "null", "--out", str(tmp_path), "--source", "0"]
    monkeypatch.setattr(frame_sources, "Camera", lambda _: Camera(4, end))
    assert main(options) == code
    printed, errors = capfd.readouterr()
    assert "camera0: 4 frames tracked" in printed and said in errors
    assert {path.name for path in tmp_path.iterdir()} == {
        "camera0_overlay.mp4", "camera0_contact_sheet.png", "camera0_timeline.png", "camera0_tracks.csv",
        "camera0_tracks.txt",
    }  # fmt: skip


def test_nothing_tracked_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no frame of clip was tracked"):
        ReportWriter(tmp_path, "clip", 10.0).finish(0, 0.0)


def test_the_clips_are_taken_out_of_a_debian_package(tmp_path: Path) -> None:
    if shutil.which("dpkg-deb") is None:
        pytest.skip("packages can be made only where dpkg-deb is")
    root = tmp_path / "root"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN" / "control").write_text(
        "Package: opencv-doc\nVersion: 1\nArchitecture: all\nMaintainer: test <test@example.org>\nDescription: test\n",
        encoding="utf-8",
    )
    folder = root / "usr" / "share" / "doc"
    folder.mkdir(parents=True)
    (folder / "cup.mp4.gz").write_bytes(gzip.compress(b"cup"))
    (folder / "box.mp4").write_bytes(b"box")
    package = tmp_path / "opencv-doc_1_all.deb"
    subprocess.run(["dpkg-deb", "--build", str(root), str(package)], check=True, capture_output=True)
    footage._extract(package, ["cup.mp4", "box.mp4"], tmp_path)
    assert (tmp_path / "cup.mp4").read_bytes() == b"cup" and (tmp_path / "box.mp4").read_bytes() == b"box"
    with pytest.raises(footage.NoFootageError, match="does not contain gone"):
        footage._extract(package, ["cup.mp4", "gone.mp4"], tmp_path)
