"""The commands of the tutorials run as they stand; tutorial.py explains how."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from tutorial import TUTORIALS, run

from sam2_ros.media.label_images import read_labels

pytest.importorskip("torch", reason="the embedded model needs torch")


@pytest.fixture
def ros() -> None:
    pytest.importorskip("rclpy", reason="this tutorial needs ROS 2")


@pytest.fixture
def port() -> Iterator[None]:
    """The port that a page names, for one test session of this machine at a time."""
    with (Path(tempfile.gettempdir()) / "sam2_ros_tutorial_port.lock").open("a", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_video_file(tmp_path: Path) -> None:
    assert run(TUTORIALS / "video_file.md", tmp_path) == 2
    labels = [read_labels(path) for path in sorted((tmp_path / "masks").glob("*.png"))]
    assert len(labels) == 24
    assert set(np.unique(labels[0])) == {0, 1, 2}
    assert not all((frame == 1).any() for frame in labels)  # the ball was hidden
    assert cv2.VideoCapture(str(tmp_path / "tracked.mp4")).read()[0]
    assert cv2.imread(str(tmp_path / "run.png")) is not None


@pytest.mark.usefixtures("ros")
def test_camera(tmp_path: Path) -> None:
    assert run(TUTORIALS / "camera.md", tmp_path) == 5


@pytest.mark.usefixtures("ros")
def test_rgbd(tmp_path: Path) -> None:
    pytest.importorskip("mujoco", reason="the simulated camera")
    assert run(TUTORIALS / "rgbd.md", tmp_path) == 3


@pytest.mark.usefixtures("ros")
def test_detector(tmp_path: Path) -> None:
    assert run(TUTORIALS / "detector.md", tmp_path) == 3


@pytest.mark.usefixtures("ros")
def test_bag(tmp_path: Path) -> None:
    pytest.importorskip("mcap", reason="the library that writes recordings")
    assert run(TUTORIALS / "bag.md", tmp_path) == 5


@pytest.mark.usefixtures("ros")
def test_dataset(tmp_path: Path) -> None:
    pytest.importorskip("mcap", reason="the library that writes recordings")
    pytest.importorskip("rosbags", reason="the library that reads bags")
    pytest.importorskip("aiohttp", reason="the server of the review's page")
    assert run(TUTORIALS / "dataset.md", tmp_path) == 3


@pytest.mark.usefixtures("ros", "port")
def test_remote_gpu(tmp_path: Path) -> None:
    assert run(TUTORIALS / "remote_gpu.md", tmp_path) == 3
    labels = [read_labels(path) for path in sorted((tmp_path / "masks").glob("*.png"))]
    assert len(labels) == 12 and all((frame == 1).any() for frame in labels)


def test_every_tutorial_is_run() -> None:
    text = Path(__file__).read_text("utf-8")
    assert all(f'"{page.name}"' in text for page in TUTORIALS.glob("*.md"))
