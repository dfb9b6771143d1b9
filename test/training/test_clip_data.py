"""Labelled data in three layouts, and clips that depend on seed, step and number only."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_training import HEIGHT, SIZE, WIDTH, coco, davis, yolo

from sam2_ros.training.clips import ClipSettings
from sam2_ros.training.data.draw import ClipSource, DataError, Sample, open_data
from sam2_ros.training.data.stills import StillSet, read_still
from sam2_ros.training.data.videos import VideoSet, find_videos, read_labels

SETTINGS = ClipSettings(SIZE, length=4, objects=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    davis(root / "davis")
    coco(root / "coco")
    yolo(root / "yolo")
    (root / "davis" / "ImageSets").mkdir()
    (root / "davis" / "ImageSets" / "fit.txt").write_text("v1\n")
    return root


def source(data: Path, clips: int = 2, rank: int = 0, names: tuple[str, ...] = ("davis", "coco", "yolo")) -> ClipSource:
    sets = [open_data(data / name, SETTINGS) for name in names]
    return ClipSource(sets, [1.0] * len(sets), SETTINGS, seed=3, clips=clips, rank=rank)


def same(first: Sample, second: Sample) -> bool:
    return (
        first.key == second.key
        and np.array_equal(first.frames, second.frames)
        and np.array_equal(first.masks, second.masks)
    )


def test_what_is_drawn_depends_on_seed_step_and_number_only(data: Path) -> None:
    mine, again = source(data), source(data)
    again[7]  # what was drawn before does not matter
    assert all(same(a, b) for step in range(3) for a, b in zip(mine[step], again[step], strict=True))
    assert not same(mine[0][0], mine[0][1]) and not same(mine[0][0], mine[1][0])
    # Two processes with a clip each see what one with two sees.
    halves = [source(data, clips=1, rank=rank)[5][0] for rank in (0, 1)]
    assert all(same(a, b) for a, b in zip(mine[5], halves, strict=True))


def test_workers_draw_the_same(data: Path) -> None:
    mine = source(data, clips=1)
    ahead = mine.batches(2, workers=2)
    for step in range(2, 6):
        assert same(next(ahead)[0], mine[step][0])


def test_masks_are_those_of_the_picture(data: Path) -> None:
    for name in ("davis", "coco", "yolo"):
        for step in range(8):
            (one,) = source(data, clips=1, names=(name,))[step]
            assert one.frames.shape == (4, SIZE, SIZE, 3) and one.masks.shape[0] == 4
            assert one.visible[0].all()  # each object is there where it is prompted
            colours = one.frames.astype(int)
            coloured = abs(colours[..., 0] - colours[..., 1]) > 90
            labelled = one.masks.any(axis=1)
            assert (labelled & ~coloured).mean() < 0.05
            if name == "davis" and len(one.masks[0]) == 2:
                assert (labelled != coloured).mean() < 0.05


def test_stills_become_clips_in_which_objects_vanish(data: Path) -> None:
    shares = []
    for occlusion in (0.0, 1.0):
        settings = ClipSettings(SIZE, length=6, occlusion=occlusion)
        clips = ClipSource([open_data(data / "yolo", settings)], [1.0], settings, seed=0, clips=1, rank=0)
        drawn = [clips[step][0] for step in range(24)]
        assert all(one.visible[0].all() for one in drawn)
        shares.append(np.mean([not one.visible.all() for one in drawn]))
        assert all((one.frames[0] != one.frames[-1]).any() for one in drawn)
    assert shares[1] > 0.25 > shares[0]


def test_stills_are_the_same_in_both_formats(data: Path) -> None:
    from_yolo, from_coco = (open_data(data / name, SETTINGS) for name in ("yolo", "coco"))
    assert isinstance(from_yolo, StillSet) and isinstance(from_coco, StillSet)
    for mine, theirs in zip(from_yolo.photos, from_coco.photos, strict=True):
        first, second = read_still(mine, 1000), read_still(theirs, 1000)
        assert np.array_equal(first.image, second.image)
        assert (first.labels != second.labels).mean() < 0.01
        assert 0.8 * 3600 < (first.labels == 1).sum() < 1.2 * 3600
    assert max(read_still(from_coco.photos[0], 50).image.shape[:2]) == 50
    by_file = open_data(data / "coco" / "annotations.json", SETTINGS)
    assert isinstance(by_file, StillSet) and len(by_file.photos) == 3


def test_a_list_names_the_sequences(data: Path) -> None:
    listed = open_data(data / "davis" / "ImageSets" / "fit.txt", SETTINGS)
    assert isinstance(listed, VideoSet) and [video.name for video in listed.videos] == ["v1"]
    assert [video.name for video in find_videos(data / "davis")] == ["v0", "v1"]


def test_resolutions_in_between_and_frames_without_labels(tmp_path: Path) -> None:
    davis(tmp_path, sequences=1)
    for name in ("JPEGImages", "Annotations"):
        (tmp_path / name / "480p").mkdir()
        (tmp_path / name / "v0").rename(tmp_path / name / "480p" / "v0")
    (tmp_path / "Annotations" / "480p" / "v0" / "00002.png").unlink()
    (video,) = find_videos(tmp_path)
    assert [path.stem for path in video.frames] == ["00000", "00001", "00003", "00004", "00005"]
    assert [path.stem for path in video.labels] == [path.stem for path in video.frames]


def test_label_images(tmp_path: Path) -> None:
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    values[:8], values[8:16], values[16:24] = 1, 2, 255
    palette = Image.fromarray(values, mode="P")
    palette.putpalette(list(range(256)) * 3)
    palette.save(tmp_path / "palette.png")
    wanted = np.where(values == 255, 0, values)
    assert np.array_equal(read_labels(tmp_path / "palette.png"), wanted)  # 255 means "not labelled"
    Image.fromarray(np.where(values > 0, 255, 0).astype(np.uint8)).save(tmp_path / "mask.png")
    assert np.array_equal(read_labels(tmp_path / "mask.png"), (values > 0).astype(np.uint8))
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "colour.png")
    with pytest.raises(ValueError, match=r"colour\.png has the mode RGB; accepted: palette or 8-bit grey"):
        read_labels(tmp_path / "colour.png")


def test_what_is_no_data_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no data at"):
        open_data(tmp_path / "nowhere", SETTINGS)
    with pytest.raises(ValueError, match=r"holds no data of a known layout; accepted: a folder with JPEGImages/"):
        open_data(tmp_path, SETTINGS)
    with pytest.raises(ValueError, match="the longest sequence has 6 labelled frames and a clip 9"):
        open_data(data / "davis", ClipSettings(SIZE, length=9))
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(ValueError, match="not in COCO's format"):
        open_data(tmp_path / "other.json", SETTINGS)
    run_lengths = {"image_id": 1, "segmentation": {"size": [4, 4], "counts": "0`0"}, "area": 16}  # as of annotate
    content = {"images": [{"id": 1, "file_name": "a.jpg", "width": 4, "height": 4}], "annotations": [run_lengths]}
    (tmp_path / "other.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="its instances are no polygons; accepted: polygons, no run lengths"):
        open_data(tmp_path / "other.json", SETTINGS)
    listed = data / "davis" / "wrong.txt"
    listed.write_text("v7\n")
    with pytest.raises(ValueError, match=r"no labelled sequence 'v7'; there are: v0, v1"):
        open_data(listed, SETTINGS)


def test_unreadable_and_empty_labels_are_named(tmp_path: Path) -> None:
    yolo(tmp_path, photos=1)
    (label,) = tmp_path.rglob("*.txt")
    label.write_text("0 0.1 0.2 0.3 oops 0.5 0.6\n")
    with pytest.raises(DataError, match=r"0\.txt, line 1: expected a class and x y pairs"):
        source(tmp_path.parent, names=(tmp_path.name,))[0]
    label.write_text("")
    with pytest.raises(DataError, match="shows an object that covers"):
        source(tmp_path.parent, names=(tmp_path.name,))[0]
