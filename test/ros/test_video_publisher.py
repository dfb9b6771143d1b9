"""The demo's launch file: a video on one side, tracks of it on the other; and what the camera node says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
from node_harness import Launched, Peer
from sensor_msgs.msg import CameraInfo


def write_frames(folder: Path, count: int) -> Path:
    for index in range(count):
        assert cv2.imwrite(str(folder / f"{index:05d}.png"), np.full((48, 64, 3), 2 * index, np.uint8))
    return folder


def test_a_folder_of_images_is_played_and_tracked(folder: Path, parameters_file: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps([{"frame": 0, "object_id": 1, "box": [4, 4, 20, 20]}]))
    images = tmp_path / "images"
    images.mkdir()
    peer = Peer("/tracker")
    infos: list[CameraInfo] = []
    peer.node.create_subscription(CameraInfo, "/camera_info", infos.append, 100)
    peer.launched = Launched(
        folder / "demo.log", "demo.launch.py", source=str(write_frames(images, 60)), rate="10",
        params_file=str(parameters_file), prompts_file=str(prompts),
    )  # fmt: skip
    try:
        peer.launched.wait_for_text("the source has ended after 60 frames")
        tracks = peer.wait_until(lambda: peer.tracks and peer.tracks[-1].objects and peer.tracks[-1], "tracks")
        assert (tracks.image_width, tracks.image_height, tracks.header.frame_id) == (64, 48, "camera_optical_frame")
        peer.launched.wait_for_text("[camera-2]: process has finished cleanly")
        peer.wait_until(lambda: infos, "camera_info")
        assert {(info.width, info.height) for info in infos} == {(64, 48)}
    finally:
        peer.launched.stop()
        peer.close()
    assert "Traceback" not in peer.launched.text


def test_a_source_that_is_none() -> None:
    command = [sys.executable, "-m", "sam2_ros.ros.video_publisher", "--ros-args", "-p", "source:=/nowhere.mp4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "camera: /nowhere.mp4: no such file or folder; accepted: a video file" in done.stderr


def test_a_camera_that_fails_ends_the_launch(folder: Path) -> None:
    """Nobody would look for its one line among those of a tracker that waits."""
    launched = Launched(folder / "failed.log", "demo.launch.py", source="/nowhere.mp4")
    try:
        launched.wait_for_end()
    finally:
        launched.stop()
    assert "camera: /nowhere.mp4: no such file or folder" in launched.text and "Traceback" not in launched.text
