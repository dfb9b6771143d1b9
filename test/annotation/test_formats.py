"""Data sets are opened by readers that others wrote: pycocotools and vos-benchmark."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import published
import pytest
import yaml
from pycocotools import mask as coco
from pycocotools.coco import COCO

from sam2_ros.annotation.doubts import Reason
from sam2_ros.annotation.formats import FORMATS, write_review
from sam2_ros.annotation.masks import Mask, decode, encode
from sam2_ros.annotation.recordings import ImageFile
from sam2_ros.annotation.results import Annotated
from sam2_ros.tracking.types import BoolMask, CroppedMask

WIDTH, HEIGHT = 96, 64


def disc(x: int, y: int, radius: int) -> BoolMask:
    return np.asarray(cv2.circle(np.zeros((HEIGHT, WIDTH), np.uint8), (x, y), radius, 1, -1), np.bool_)


def mask(frame: int, object_id: int, pixels: BoolMask, iou: float = 0.9) -> Mask:
    return Mask(frame, object_id, coco.encode(np.asfortranarray(pixels.view(np.uint8))), iou, 0.8, 0.5)


PIXELS = {(0, 1): disc(20, 30, 10), (0, 2): disc(34, 30, 10), (1, 1): disc(24, 30, 10), (2, 2): disc(60, 20, 15)}
"""By image and object; those in image 0 overlap."""


def recording(name: str, labels: dict[int, str]) -> Annotated:
    images = [ImageFile(f"{index:06d}.jpg", index * 10**8, WIDTH, HEIGHT) for index in range(3)]
    masks = [mask(frame, key, pixels, 0.9 if key == 1 else 0.6) for (frame, key), pixels in PIXELS.items()]
    return Annotated(name, [name, 0, 0, 0], "", images, labels, masks, [Reason(1, "score", 2, 0.3)])


@pytest.fixture
def done() -> list[Annotated]:
    return [recording("one", {1: "person", 2: "cup"}), recording("two", {1: "cup", 2: "cup"})]


def test_coco(done: list[Annotated], tmp_path: Path) -> None:
    FORMATS["coco"].write(tmp_path, done)
    found = COCO(str(tmp_path / "annotations.json"))
    assert {each["id"]: each["name"] for each in found.loadCats(found.getCatIds())} == {1: "cup", 2: "person"}
    assert [each["file_name"] for each in found.loadImgs(found.getImgIds())][3:] == [
        "two/000000.jpg", "two/000001.jpg", "two/000002.jpg",
    ]  # fmt: skip
    assert len(found.anns) == 8
    tracks = set()
    for annotation in found.anns.values():
        image = found.imgs[annotation["image_id"]]
        pixels = PIXELS[image["frame_id"], annotation["object_id"]]
        assert (found.annToMask(annotation) == pixels).all() and annotation["area"] == pixels.sum()
        x, y, width, height = cv2.boundingRect(pixels.view(np.uint8))
        assert annotation["bbox"] == [x, y, width, height]
        iou = 0.9 if annotation["object_id"] == 1 else 0.6
        assert annotation["score"] == pytest.approx(iou * 0.8 * 0.5)
        tracks.add((image["video_id"], annotation["object_id"], annotation["track_id"], annotation["category_id"]))
    assert tracks == {(1, 1, 1, 2), (1, 2, 2, 1), (2, 1, 3, 1), (2, 2, 4, 1)}


def test_yolo(done: list[Annotated], tmp_path: Path) -> None:
    FORMATS["yolo"].write(tmp_path, done)
    about = yaml.safe_load((tmp_path / "data.yaml").read_text())
    assert about["names"] == {0: "cup", 1: "person"} and about["train"] == ["images/one", "images/two"]
    assert (tmp_path / "labels/one/000000.txt").read_text().splitlines()[0].startswith("1 ")
    for frame in range(3):
        lines = (tmp_path / f"labels/two/{frame:06d}.txt").read_text().splitlines()
        expected = [pixels for (image, _), pixels in PIXELS.items() if image == frame]
        for line, pixels in zip(lines, expected, strict=True):
            ring = np.array(line.split()[1:], float).reshape(-1, 2) * (WIDTH, HEIGHT)
            drawn = coco.frPyObjects([ring.ravel().tolist()], HEIGHT, WIDTH)
            wanted = coco.encode(np.asfortranarray(pixels.view(np.uint8)))
            assert coco.iou(drawn, [wanted], [0])[0, 0] > 0.88


def test_davis(done: list[Annotated], tmp_path: Path) -> None:
    FORMATS["davis"].write(tmp_path, done)
    # The truth by hand: object 1 is surer and has the pixels that both cover.
    for name in ("one", "two"):
        folder = tmp_path / "truth" / name
        folder.mkdir(parents=True)
        for frame in range(3):
            labels = np.zeros((HEIGHT, WIDTH), np.uint8)
            for key in (2, 1):
                labels[PIXELS.get((frame, key), np.zeros((HEIGHT, WIDTH), np.bool_))] = key
            cv2.imwrite(str(folder / f"{frame:06d}.png"), labels)
        evaluator = published.load().VideoEvaluator(str(tmp_path / "truth"), str(tmp_path / "Annotations"), False)
        assert evaluator(name) == (name, {1: 100.0, 2: 100.0}, {1: 100.0, 2: 100.0})  # J and F


def test_mots(done: list[Annotated], tmp_path: Path) -> None:
    FORMATS["mots"].write(tmp_path, done)
    rows = [line.split(" ") for line in (tmp_path / "instances_txt/one.txt").read_text().splitlines()]
    assert [row[:5] for row in rows] == [
        ["0", "2001", "2", "64", "96"], ["0", "11001", "11", "64", "96"], ["1", "2001", "2", "64", "96"],
        ["2", "11001", "11", "64", "96"],
    ]  # fmt: skip
    masks = [coco.decode({"size": [HEIGHT, WIDTH], "counts": row[5].encode()}).astype(bool) for row in rows]
    assert (masks[0] == PIXELS[0, 1]).all() and (masks[1] == PIXELS[0, 2] & ~PIXELS[0, 1]).all()
    assert (tmp_path / "classes.txt").read_text() == "2 person\n11 cup\n"


@pytest.mark.parametrize(("format", "folder", "suffix"), [("yolo", "labels", "txt"), ("davis", "Annotations", "png")])
def test_a_shorter_recording_leaves_no_old_files(
    format: str, folder: str, suffix: str, done: list[Annotated], tmp_path: Path
) -> None:
    FORMATS[format].write(tmp_path, done)
    shorter = replace(done[0], images=done[0].images[:2], masks=[each for each in done[0].masks if each.frame < 2])
    FORMATS[format].write(tmp_path, [shorter, done[1]])
    counts = {name: len(list((tmp_path / folder / name).glob(f"*.{suffix}"))) for name in ("one", "two")}
    assert counts == {"one": 2, "two": 3}


def test_masks_come_back_from_run_lengths() -> None:
    for pixels in (*PIXELS.values(), np.zeros((HEIGHT, WIDTH), np.bool_)):
        cropped = decode(encode(CroppedMask.from_full(pixels)))
        assert (cropped.full() == pixels).all()
        assert cropped.crop.sum() == pixels.sum() and (cropped.crop.size == 0) == (not pixels.any())


def test_ids_in_mots_are_unique_however_many_there_are(tmp_path: Path) -> None:
    labels = dict.fromkeys(range(1, 1002), "bowl") | {1002: "cup"}
    masks = [mask(0, 1001, disc(20, 30, 5)), mask(0, 1002, disc(60, 30, 5))]  # 11 * 1000 + 1001 is 12 * 1000 + 1
    FORMATS["mots"].write(
        tmp_path, [Annotated("one", [], "", [ImageFile("0.jpg", 0, WIDTH, HEIGHT)], labels, masks, [])]
    )
    rows = [line.split(" ")[:3] for line in (tmp_path / "instances_txt/one.txt").read_text().splitlines()]
    assert [row[2] for row in rows] == ["11", "12"] and rows[0][1] != rows[1][1]


def test_review(done: list[Annotated], tmp_path: Path) -> None:
    assert write_review(tmp_path, done, "images") == 2
    first = json.loads((tmp_path / "review.json").read_text())[0]
    assert first == {
        "recording": "one", "frame": 1, "image": "images/one/000001.jpg", "doubt": 0.7,
        "reasons": [{"kind": "score", "object": 2, "value": 0.3}],
    }  # fmt: skip
