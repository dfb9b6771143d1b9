"""Files are whole or not there, also on a full disk, for which a limit on the size of files stands here."""

import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from sam2_ros.media.figures import write_png
from sam2_ros.media.label_images import write_labels
from sam2_ros.media.track_table import write_csv, write_tracks
from sam2_ros.media.video_writer import VideoWriter
from sam2_ros.media.whole_files import WriteError, check_space, check_writable, whole_file, write_json, write_whole
from sam2_ros.training.optimise import save_whole

LIMIT = 20_000  # bytes


@contextmanager
def nearly_full() -> Iterator[None]:
    """Within, no file of this process can be longer than LIMIT."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write_video(path: Path) -> None:
    writer = VideoWriter(path, 10.0)
    generator = np.random.default_rng(0)
    for _ in range(12):
        writer.write(generator.integers(0, 255, (64, 64, 3), np.uint8))
    writer.close()


NOISE = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)
WRITERS = {
    "text.json": lambda path: write_json(path, ["x" * LIMIT]),
    "picture.png": lambda path: write_png(path, NOISE),
    "labels.png": lambda path: write_labels(path, NOISE[..., 0]),
    "tracks.json": lambda path: write_tracks(path, [], {"source": "x" * LIMIT}),
    "clip.mp4": write_video,
    "clip.gif": write_video,
    "weights.pt": lambda path: save_whole({"a": torch.zeros(LIMIT)}, path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_what_was_there_and_no_half_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"of an earlier run")
    with nearly_full(), pytest.raises(WriteError, match=r"disk (is|may be) full") as caught:
        WRITERS[name](path)
    assert str(caught.value).startswith(str(path))
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert path.read_bytes() == b"of an earlier run"
    WRITERS[name](path)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert path.stat().st_size > 17


def test_a_video_ends_while_it_can_be_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2

    writer = VideoWriter(tmp_path / "a.mp4", 10.0)
    for _ in range(5):
        writer.write(np.zeros((64, 64, 3), np.uint8))
    monkeypatch.setattr("sam2_ros.media.whole_files.RESERVE_BYTES", 1 << 62)
    with pytest.raises(WriteError, match=r"a\.mp4 can't be written: the disk is full; free space"):
        writer.write(np.zeros((64, 64, 3), np.uint8))
    writer.close()
    video = cv2.VideoCapture(str(tmp_path / "a.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 5
    video.release()


def test_an_interruption_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_whole(path, "old")
    path.chmod(0o640)
    with pytest.raises(KeyboardInterrupt), whole_file(path) as new:
        new.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1
    write_whole(path, "new")
    assert path.read_text() == "new" and path.stat().st_mode & 0o777 == 0o640


def test_a_link_stays_one_and_a_long_name_is_written(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real.txt")
    write_whole(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real.txt").read_text() == "text"
    long = tmp_path / ("ä" * 125 + ".json")
    write_whole(long, "text")
    assert long.read_text() == "text"


def test_a_device_is_written_and_not_replaced(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from sam2_ros.media.whole_files import *\n"
        "check_writable(Path('/dev/stdout')); write_whole(Path('/dev/stdout'), 'text')\n"
        "write_whole(Path('/dev/null'), 'x')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=120, text=True)
    assert done.stdout == "text"
    assert Path("/dev/null").is_char_device()
    with pytest.raises(WriteError, match="/dev/full can't be written: the disk is full"):
        write_whole(Path("/dev/full"), "x")


def test_what_cannot_be_written_is_refused_before_any_work(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "folder" / "a.json")
    assert list((tmp_path / "new" / "folder").iterdir()) == []
    (tmp_path / "file").write_text("x")
    for path, message in (
        (tmp_path, "is a folder; give the path of a file"),
        (tmp_path / "file" / "a.json", r"can't be written \(.*\); choose another path"),
        (tmp_path / ("x" * 300), "File name too long"),
        (Path("/proc/a.json"), "can't be written"),
    ):
        with pytest.raises(WriteError, match=message):
            check_writable(path)
    assert (tmp_path / "file").read_text() == "x"
    check_space(tmp_path / "a")


def test_tables_are_the_same_text_as_before(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", [])
    assert (tmp_path / "a.csv").read_bytes().endswith(b"x0,y0,x1,y1\r\n")
