"""The layouts of the data sets, written by the test, read back as labelled sequences."""

from __future__ import annotations

import json
from pathlib import Path

import clips
import cv2
import numpy as np
import pytest
from clips import HEIGHT, WIDTH, labels_of, square

from sam2_ros.evaluation.datasets import open_dataset
from sam2_ros.evaluation.sequences import decode_run_lengths as decode
from sam2_ros.media.errors import UserError
from sam2_ros.media.video_writer import VideoWriter


def test_davis_with_resolutions_and_lists(tmp_path: Path) -> None:
    labels = clips.two_squares(4)
    labels[1][0, :5] = 255  # void
    clips.write_davis(tmp_path, "a", labels, "480p")
    clips.write_davis(tmp_path, "b", labels, "480p")
    (tmp_path / "ImageSets" / "2017").mkdir(parents=True)
    (tmp_path / "ImageSets" / "2017" / "val.txt").write_text("b\n\n", encoding="utf-8")
    (tmp_path / "paths.txt").write_text("/JPEGImages/480p/a/00000.jpg /Annotations/480p/a/00000.png\n" * 2, "utf-8")
    data = open_dataset(tmp_path)
    assert (data.layout, data.names) == ("davis", ("a", "b"))
    assert open_dataset(tmp_path, listed=Path("ImageSets/2017/val.txt")).names == ("b",)
    assert open_dataset(tmp_path, listed=tmp_path / "paths.txt").names == ("a",)
    sequence = data.open("a")
    assert (len(sequence), sequence.truth.objects, sequence.first_frames) == (4, (1, 2), {1: 0, 2: 0})
    masks = sequence.truth.masks(1)
    assert set(masks) == {1, 2} and np.array_equal(masks[2], labels[1] == 2)
    frames = list(sequence)
    assert [frame.name for frame in frames] == ["00000", "00001", "00002", "00003"]
    assert frames[0].rgb.shape == (HEIGHT, WIDTH, 3)


def test_a_single_object_may_be_white(tmp_path: Path) -> None:
    masks = [square(5 * t, 10) for t in range(3)]
    clips.write_frames(tmp_path / "JPEGImages" / "a", [labels_of({1: mask}) for mask in masks])
    (tmp_path / "Annotations" / "a").mkdir(parents=True)
    for index, mask in enumerate(masks):
        cv2.imwrite(str(tmp_path / "Annotations" / "a" / f"{index:05d}.png"), 255 * mask.astype(np.uint8))
    truth = open_dataset(tmp_path).open("a").truth
    assert truth.objects == (1,) and np.array_equal(truth.masks(2)[1], masks[2])


def test_youtube_with_objects_that_enter_later(tmp_path: Path) -> None:
    labels = [labels_of({2: square(4 * t, 5)} | ({5: square(80, 50)} if t >= 4 else {})) for t in range(9)]
    base = tmp_path / "valid"
    clips.write_frames(base / "JPEGImages" / "x", labels)
    clips.write_label_images(base / "Annotations" / "x", {t: labels[t] for t in (0, 4, 8)})
    meta = {"videos": {"x": {"objects": {"2": {"category": "dog"}, "5": {"category": "cat"}}}}}
    (base / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    data = open_dataset(tmp_path)
    assert (data.layout, data.names) == ("youtube", ("x",))
    sequence = data.open("x")
    assert sequence.truth.objects == (2, 5) and sequence.first_frames == {2: 0, 5: 4}
    assert sequence.truth.annotated(5) == (0, 4, 8) and sequence.truth.masks(3) == {}
    assert not sequence.prompts_only
    (base / "Annotations" / "x" / "00008.png").unlink()
    assert open_dataset(tmp_path).open("x").prompts_only


def test_sav_validation_with_objects_that_overlap(tmp_path: Path) -> None:
    clips.write_frames(tmp_path / "JPEGImages_24fps" / "v", [labels_of({1: square(3 * t, 4)}) for t in range(9)])
    for one, start in (("000", 0), ("003", 4)):
        folder = tmp_path / "Annotations_6fps" / "v" / one
        folder.mkdir(parents=True)
        for t in range(start, 9, 4):
            cv2.imwrite(str(folder / f"{t:05d}.png"), 255 * square(3 * t, 4 + int(one)).astype(np.uint8))
    data = open_dataset(tmp_path)
    sequence = data.open("v")
    assert data.layout == "sav" and sequence.truth.overlapping
    assert sequence.first_frames == {1: 0, 4: 4} and sequence.truth.annotated(4) == (4, 8)
    masks = sequence.truth.masks(4)
    assert np.array_equal(masks[1], square(12, 4)) and np.array_equal(masks[4], square(12, 7))


def write_sav_train(root: Path, name: str, labels: list[np.ndarray]) -> None:
    """A video, and its masklets as the people who made SA-V store them."""
    encode = pytest.importorskip("pycocotools.mask", reason="needs pycocotools, which make setup installs").encode
    writer = VideoWriter(root / f"{name}.mp4", 24.0)
    for index, one in enumerate(labels):
        writer.write(clips.picture(one, index))
    writer.close()
    masklet = []
    for one in labels[::4]:
        rles = [encode(np.asfortranarray(one == value, np.uint8)) for value in (1, 2)]
        masklet.append([{"size": rle["size"], "counts": rle["counts"].decode()} for rle in rles])
    content = {"video_id": name, "video_height": float(HEIGHT), "video_width": float(WIDTH)}
    content |= {"masklet": masklet, "masklet_id": [0, 1]}
    (root / f"{name}_manual.json").write_text(json.dumps(content), encoding="utf-8")


def test_sav_training_videos_and_masklets(tmp_path: Path) -> None:
    labels = clips.two_squares(9)
    write_sav_train(tmp_path, "sav_000001", labels)
    data = open_dataset(tmp_path)
    assert (data.layout, data.names) == ("sav-train", ("sav_000001",))
    sequence = data.open("sav_000001")
    assert len(list(sequence)) == 9 and sequence.truth.annotated(1) == (0, 4, 8)
    assert sequence.truth.masks(2) == {}
    masks = sequence.truth.masks(8)
    assert np.array_equal(masks[1], labels[8] == 1) and np.array_equal(masks[2], labels[8] == 2)


def test_run_lengths_equal_those_of_coco() -> None:
    encode = pytest.importorskip("pycocotools.mask", reason="needs pycocotools, which make setup installs").encode
    rng = np.random.default_rng(3)
    for height, width in ((1, 1), (5, 9), (90, 128), (480, 854)):
        for mask in (
            np.zeros((height, width), np.bool_),
            np.ones((height, width), np.bool_),
            rng.random((height, width)) < 0.5,
            cv2.GaussianBlur(rng.random((height, width)), (0, 0), 5) > 0.5,
        ):
            rle = encode(np.asfortranarray(mask, np.uint8))
            assert np.array_equal(decode(rle), mask)
            assert np.array_equal(decode({"size": rle["size"], "counts": rle["counts"].decode()}), mask)


def test_damaged_run_lengths_are_refused() -> None:
    assert decode({"size": [2, 3], "counts": "132"}).tolist() == [[False, True, False], [True, True, False]]
    for counts in ("133", "6\x7f", "1", "V"):
        with pytest.raises(ValueError, match=r"run length"):
            decode({"size": [2, 3], "counts": counts})


def test_what_is_no_data_set_is_refused_with_what_is_accepted(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder; accepted: DAVIS"):
        open_dataset(tmp_path / "none")
    (tmp_path / "readme.txt").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match=r"known layout \(there is readme.txt\); accepted: DAVIS"):
        open_dataset(tmp_path)
    clips.write_davis(tmp_path, "a", clips.two_squares(3))
    (tmp_path / "JPEGImages" / "a" / "00001.jpg").unlink()
    with pytest.raises(UserError, match=r"00001.png: there is no frame of this name"):
        open_dataset(tmp_path).open("a")
    with pytest.raises(UserError, match="sequence 'b' is not on this list"):
        (tmp_path / "list.txt").write_text("a\n", encoding="utf-8")
        open_dataset(tmp_path, listed=Path("list.txt"), only=["b"])
