"""Videos and moving pictures, read back by other libraries than those that wrote them."""

import os
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from sam2_ros.media.signals import Ended, signals_unwind
from sam2_ros.media.video_writer import VideoWriter


def write(path: Path, frames: int) -> None:
    writer = VideoWriter(path, 25.0)
    for index in range(frames):
        writer.write(np.full((60, 1280, 3), (10 * index, 90, 200 - 10 * index), np.uint8))
    writer.close()


@pytest.mark.parametrize("name", ["a.gif", "a.webp"])
def test_a_moving_picture_is_small_and_keeps_its_pace(name: str, tmp_path: Path) -> None:
    write(tmp_path / name, 20)
    with Image.open(tmp_path / name) as picture:
        assert picture.size == (640, 30) and picture.n_frames == 10
        for index in (0, 4, 9):
            picture.seek(index)
            picture.load()
            assert picture.info["duration"] == 80  # ms: every second frame of 25 a second
            middle = np.asarray(picture.convert("RGB"))[15, 320]
            assert np.allclose(middle, (20 * index, 90, 200 - 20 * index), atol=6)


def test_a_video_keeps_every_frame(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", 20)
    capture = cv2.VideoCapture(str(tmp_path / "a.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 20
    assert capture.get(cv2.CAP_PROP_FRAME_WIDTH) == 1280


def test_a_signal_while_a_frame_is_written_keeps_the_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        """A signal comes while OpenCV writes."""

        def __init__(self, writer: cv2.VideoWriter) -> None:
            self._writer, self.release = writer, writer.release

        def write(self, image: np.ndarray) -> None:
            self._writer.write(image)
            os.kill(os.getpid(), signal.SIGINT)

    opened = VideoWriter._open
    monkeypatch.setattr(VideoWriter, "_open", lambda *given: Interrupted(opened(*given)))
    writer = VideoWriter(tmp_path / "a.mp4", 25.0)
    with pytest.raises(Ended), signals_unwind():
        writer.write(np.zeros((64, 64, 3), np.uint8))
    writer.close()
    assert cv2.VideoCapture(str(tmp_path / "a.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 1
