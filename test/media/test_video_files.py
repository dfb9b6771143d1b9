"""Videos with holes, cut ends and uneven times: numbers and stamps are those of the file, and what is odd is told."""

from __future__ import annotations

import re
import struct
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from sam2_ros.media.errors import UserError
from sam2_ros.media.frame_sources import Frame, open_source

COUNT = 8


def write(path: Path, codec: str, fps: float = 10.0) -> Path:
    """A video whose frames get lighter, 20 levels a frame."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, (64, 48))
    for number in range(COUNT):
        noise = np.random.default_rng(number).integers(0, 20, (48, 64, 3), np.uint8)
        writer.write(noise + np.uint8(20 * number))
    writer.release()
    return path


def read(path: Path) -> tuple[list[Frame], str]:
    """The frames, and the error at the end."""
    frames: list[Frame] = []
    try:
        frames.extend(open_source(str(path)))
    except UserError as error:
        return frames, str(error)
    return frames, ""


def numbers(frames: list[Frame]) -> list[int]:
    """Checks that every frame has the number, name and stamp of what it shows."""
    for frame in frames:
        assert round((frame.rgb.mean() - 9.5) / 20) == frame.index, "what the frame shows"
        assert frame.name == f"{frame.index:06d}" and frame.stamp == frame.index * 100_000_000
    return [frame.index for frame in frames]


def boxes(data: bytes) -> dict[bytes, bytes]:
    """The top-level boxes of an MP4, by name."""
    found, place = {}, 0
    while place < len(data):
        (size,) = struct.unpack_from(">I", data, place)
        found[data[place + 4 : place + 8]] = data[place : place + size]
        place += size
    return found


def index_first(data: bytes) -> bytes:
    """An MP4 whose index comes before the frames, as on the web."""
    parts = boxes(data)
    index = bytearray(parts[b"moov"])
    place = index.index(b"stco") + 8
    (entries,) = struct.unpack_from(">I", index, place)
    for entry in range(place + 4, place + 4 + 4 * entries, 4):
        struct.pack_into(">I", index, entry, struct.unpack_from(">I", index, entry)[0] + len(index))
    rest = b"".join(box for name, box in parts.items() if name not in (b"ftyp", b"moov"))
    return parts[b"ftyp"] + bytes(index) + rest


@pytest.mark.parametrize(
    ("name", "codec"), [("a.avi", "MJPG"), ("a.mkv", "MJPG"), ("a.mp4", "mp4v"), ("a.webm", "VP80")]
)
def test_an_undamaged_video_is_read_without_a_word(
    name: str, codec: str, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    frames, error = read(write(tmp_path / name, codec))
    assert len(frames) == COUNT and not error
    assert [frame.stamp for frame in frames] == [number * 100_000_000 for number in range(COUNT)]
    assert "sam2_ros" not in capfd.readouterr().err


@pytest.mark.parametrize("suffix", ["avi", "mkv", "mp4"])
def test_frames_after_a_hole_keep_their_numbers(suffix: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One frame's picture is gone, but not its place in the file: in every format it is named, and is no error."""
    path = write(tmp_path / f"hole.{suffix}", "MJPG")
    data = bytearray(path.read_bytes())
    place = [found.start() for found in re.finditer(b"\xff\xd8\xff", data)][3]
    data[place : place + 400] = bytes(400)
    path.write_bytes(data)
    frames, error = read(path)
    assert numbers(frames) == [0, 1, 2, 4, 5, 6, 7] and not error
    assert f"hole.{suffix}: damaged; frames that could not be decoded: 3\n" in capfd.readouterr().err


def test_a_frame_that_is_lost_without_a_trace_is_told(tmp_path: Path) -> None:
    """The damage hides the frame's place, so the frames after it have other numbers."""
    path = write(tmp_path / "hole.avi", "MJPG")
    data = bytearray(path.read_bytes())
    place = data.index(b"00dc", data.index(b"movi") + 2000)
    data[place : place + 8] = b"\x55" * 8
    path.write_bytes(data)
    frames, error = read(path)
    assert len(frames) == COUNT - 1
    assert f"announces {COUNT} frames and holds {COUNT - 1}. Which ones are missing can't be told" in error


@pytest.mark.parametrize("name", ["cut.avi", "cut.mp4"])
def test_a_video_that_was_cut_is_read_to_the_cut(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, "MJPG")
    data = path.read_bytes() if name.endswith("avi") else index_first(path.read_bytes())
    path.write_bytes(data)
    assert numbers(read(path)[0]) == list(range(COUNT)), "before it is cut"
    pictures = [found.start() for found in re.finditer(b"\xff\xd8\xff", data)]
    path.write_bytes(data[: pictures[4] + 50])  # within the fifth
    frames, error = read(path)
    assert numbers(frames[:4]) == [0, 1, 2, 3] and len(frames) <= 5
    last = frames[-1].index
    assert f"damaged or cut; it announces {COUNT} frames, and only those up to {last} could be read" in error


def test_stamps_are_those_of_the_file(tmp_path: Path) -> None:
    """A variable frame rate: the times are those at which the frames were taken."""
    path = write(tmp_path / "uneven.mkv", "MJPG")
    data = path.read_bytes()
    times = [0, 100, 110, 500, 530, 531, 1200, 1300]  # ms
    for number, time in reversed(list(enumerate(times))):  # from the last, so that no new time is found again
        block = b"\x81%s\x80\xff\xd8"
        old, new = (block % struct.pack(">h", value) for value in (100 * number, time))
        assert data.count(old) == 1
        data = data.replace(old, new)
    path.write_bytes(data)
    frames, error = read(path)
    assert [frame.stamp for frame in frames] == [time * 1_000_000 for time in times] and not error
    assert [frame.stamp for frame in open_source(str(path), fps=50)] == [20_000_000 * n for n in range(COUNT)]


def test_times_that_make_no_sense_are_not_believed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "zero.mkv", "MJPG")
    data = path.read_bytes()
    for number in range(COUNT):
        data = data.replace(b"\x81" + struct.pack(">h", 100 * number) + b"\x80\xff\xd8", b"\x81\0\0\x80\xff\xd8")
    path.write_bytes(data)
    frames, _ = read(path)
    stamps = [frame.stamp for frame in frames]
    assert len(stamps) == COUNT and all(before < after for before, after in pairwise(stamps))
    assert "zero.mkv: its timestamps make no sense; frames are taken as" in capfd.readouterr().err
