"""Recordings of each kind, and what is said of those that can't be read."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("rosbags", reason="the library that reads bags")

from bags import START, STEP, Made

from sam2_ros.annotation.bags import Bag
from sam2_ros.annotation.recordings import Recording, extract, find_recordings, open_recording
from sam2_ros.media.errors import UserError
from sam2_ros.media.source_frame import Frame


def picture(index: int, width: int = 64) -> np.ndarray:
    return np.full((48, width, 3), (40 * index, 120, 250 - 40 * index), np.uint8)


def bag(path: Path, mcap: bool = False, jpeg: bool = False) -> Path:
    made = Made(path, mcap)
    for index in range(4):
        made.image(index, picture(index), jpeg=jpeg)
    made.detections(2, [("cup", (10, 12, 30, 40))])
    made.close()
    return path


@pytest.mark.parametrize(("mcap", "jpeg"), [(False, False), (True, True)])
def test_a_bag_gives_its_images_with_the_stamps_of_their_headers(mcap: bool, jpeg: bool, tmp_path: Path) -> None:
    folder = bag(tmp_path / "run", mcap, jpeg)
    paths = [folder, *folder.glob("*.mcap")]
    assert len(paths) == 1 + mcap
    for path in paths:
        (recording,) = find_recordings([str(path)])
        frames = open_recording(recording)
        assert isinstance(frames, Bag) and frames.length == 4
        found = list(frames)
        assert [frame.stamp for frame in found] == [START + index * STEP for index in range(4)]
        for index, frame in enumerate(found):
            assert np.abs(frame.rgb.astype(int) - picture(index)).max() <= (4 if jpeg else 0)
        boxes = frames.detections("/detections")
        assert [(stamp, [(b.label, b.box, b.score) for b in some]) for stamp, some in boxes.items()] == [
            (START + 2 * STEP, [("cup", (10, 12, 30, 40), 0.9)])
        ]
        with pytest.raises(UserError, match="topics of this type: /detections"):
            frames.detections("/image")


def test_a_bag_without_definitions(tmp_path: Path) -> None:
    """As ROS 2 Humble writes them."""
    folder = bag(tmp_path / "run")
    (file,) = folder.glob("*.db3")
    with closing(sqlite3.connect(file)) as database:
        assert database.execute("DELETE FROM message_definitions").rowcount == 2
        database.commit()
    frames = Bag(folder)
    assert [frame.stamp for frame in frames] == [START + index * STEP for index in range(4)]
    (boxes,) = frames.detections("/detections").values()
    assert [(each.label, each.box, each.score) for each in boxes] == [("cup", (10, 12, 30, 40), 0.9)]


def test_bags_that_can_not_be_used_are_refused_with_the_reason(tmp_path: Path) -> None:
    Made(tmp_path / "empty").close()
    with pytest.raises(UserError, match="an empty bag"):
        Bag(tmp_path / "empty")
    made = Made(tmp_path / "blind")
    made.detections(0, [])
    made.close()
    with pytest.raises(UserError, match="no images in this bag; it holds /detections"):
        Bag(tmp_path / "blind")
    made = Made(tmp_path / "two")
    for topic in ("/left", "/right"):
        made.image(0, picture(0), topic)
    made.close()
    with pytest.raises(
        UserError, match=r"images on several topics, /left \(1\), /right \(1\); choose one with --topic"
    ):
        Bag(tmp_path / "two")
    assert Bag(tmp_path / "two", "/left").length == 1
    with pytest.raises(UserError, match=r"no images on /up; there are /left"):
        Bag(tmp_path / "two", "/up")
    folder = bag(tmp_path / "cut", mcap=True)
    (file,) = folder.glob("*.mcap")
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"cut.*mcap: damaged, cut, or no bag \("):
        Bag(file)


@pytest.mark.parametrize("folder", [False, True])
def test_a_cut_mcap_file_gives_the_images_before_the_cut_and_the_reason(folder: bool, tmp_path: Path) -> None:
    made = Made(tmp_path / "run", mcap=True)
    for index in range(12):
        noise = np.random.default_rng(index).integers(0, 255, (480, 640, 3), np.uint8)  # which fills several chunks
        made.image(index, noise)
        made.detections(index, [("cup", (10, 12, 30, 40))])
    made.close()
    (file,) = (tmp_path / "run").glob("*.mcap")
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    bag = Bag(tmp_path / "run" if folder else file)
    images = extract(bag, tmp_path / "out", lambda: None)
    assert 2 <= len(images) < 12 and bag.length == len(images)
    assert [image.stamp for image in images.files] == [START + index * STEP for index in range(len(images))]
    assert "mcap: damaged or cut after" in images.damage
    assert images.damage.endswith(f"; only what comes before is annotated, {len(images)} images")
    assert list(bag.detections("/detections"))[:2] == [START, START + STEP]


def test_the_files_of_a_bag_whose_last_one_is_cut_are_read_as_they_were_recorded(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for index in range(11):
        made = Made(tmp_path / f"part{index}", mcap=True)
        made.image(index, picture(index))
        made.close()
        (file,) = (tmp_path / f"part{index}").glob("*.mcap")
        file.rename(folder / f"run_{index}.mcap")
    (tmp_path / "part10/metadata.yaml").rename(folder / "metadata.yaml")
    last = folder / "run_10.mcap"
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    images = extract(Bag(folder), tmp_path / "out", lambda: None)
    assert [image.stamp for image in images.files] == [START + index * STEP for index in range(10)]
    assert "run_10.mcap: damaged or cut" in images.damage


def test_images_that_can_not_be_read_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = Made(tmp_path / "run")
    made.image(0, picture(0), jpeg=True)
    kind = "sensor_msgs/msg/CompressedImage"
    broken = made.types[kind](header=made.header(START + 1), format="jpeg", data=np.zeros(9, np.uint8))
    made.write("/image", kind, broken, START + 1)
    made.image(2, picture(2), jpeg=True)
    made.image(3, picture(3, width=32), jpeg=True)
    made.close()
    images = extract(Bag(tmp_path / "run"), tmp_path / "out", lambda: None)
    assert [(file.name, file.stamp) for file in images.files] == [
        ("000000.jpg", START), ("000001.jpg", START + 2 * STEP),
    ]  # fmt: skip
    assert "after 2 images their size changes" in images.damage
    assert images.damage.endswith("; only what comes before is annotated, 2 images")
    assert np.abs(images.read(1).astype(int) - picture(2)).max() <= 4


def test_names_are_of_their_own_and_fit_for_files(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder / "Küche 1").mkdir(parents=True)
    found = find_recordings([str(tmp_path / folder / "Küche 1") for folder in ("a", "b")])
    assert [recording.name for recording in found] == ["Küche_1", "Küche_1-2"]
    for name in ("images", "ü" * 120):  # of the first one Ultralytics would look for labels in the wrong folder
        (tmp_path / name).mkdir()
    found = find_recordings([str(tmp_path / "images"), str(tmp_path / ("ü" * 120))])
    assert [recording.name for recording in found] == ["images-2", "ü" * 60]
    with pytest.raises(UserError, match="no such file or folder; accepted: a folder of images"):
        find_recordings([str(tmp_path / "c")])


def test_the_data_set_and_what_is_named_twice_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As by ``annotate * a --out data`` in the folder of both."""
    for name in ("a", "data"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    found = find_recordings(["a", "data", "./a/"], Path("data"))
    assert [recording.name for recording in found] == ["a"]
    assert capsys.readouterr().err.count("; left out") == 2
    with pytest.raises(UserError, match="no recording is given; accepted: "):
        find_recordings(["data"], tmp_path / "data")


def test_a_recording_that_was_written_to_is_another_one(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "0.png"), picture(0))
    before = Recording("x", tmp_path).identity
    assert Recording("x", tmp_path).identity == before
    cv2.imwrite(str(tmp_path / "1.png"), picture(1))
    before, changed = Recording("x", tmp_path).identity, before
    assert before != changed
    (tmp_path / "dataset").mkdir()  # --out in the folder of the images
    (tmp_path / "lost.png").symlink_to(tmp_path / "nothing")
    assert Recording("x", tmp_path).identity == before


def test_a_cut_video_gives_the_images_before_the_cut_and_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
    for index in range(6):
        writer.write(np.random.default_rng(index).integers(0, 255, (48, 64, 3), np.uint8))
    writer.release()
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    images = extract(open_recording(Recording("clip", path)), tmp_path / "out", lambda: None)
    assert 2 <= len(images) < 6 and "damaged or cut; it announces 6 frames" in images.damage


def test_photographs_may_differ_in_size_and_broken_ones_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, width in enumerate((64, 32)):
        cv2.imwrite(str(folder / f"{index}.png"), picture(index, width))
    (folder / "2.jpg").write_text("no image")
    images = extract(open_recording(Recording("photos", folder), stills=True), tmp_path / "out", lambda: None)
    assert [(file.name, file.width, file.height) for file in images.files] == [("0.jpg", 64, 48), ("1.jpg", 32, 48)]
    assert "2.jpg: not a readable image; accepted: images of 8 or 16 bits a channel; left" in capsys.readouterr().err
    with pytest.raises(UserError, match="is no folder of images, which --stills needs"):
        open_recording(Recording("clip", folder / "0.png"), stills=True)


class Given(list[Frame]):
    """Frames that come from nowhere."""

    length: int | None = None


def test_an_image_that_no_jpeg_can_hold_is_told(tmp_path: Path) -> None:
    wide = Frame(1, "wide", 0, np.zeros((1, 65501, 3), np.uint8))
    images = extract(Given([Frame(0, "first", 0, picture(0)), wide]), tmp_path / "out", lambda: None)
    assert len(images) == 1 and "an image has 65501 x 1 pixels; a JPEG has up to 65500" in images.damage
