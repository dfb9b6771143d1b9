"""``sam2_ros segment`` with the embedded model on rendered images, measured against the exact masks."""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco

from sam2_ros.cli import segment
from sam2_ros.cli.main import main
from sam2_ros.evaluation.mask_metrics import jaccard
from sam2_ros.media.label_images import read_labels
from sam2_ros.media.rendered_scene import bounding_box, render
from sam2_ros.media.segmented_files import Segmented, coco_run_lengths, label_image
from sam2_ros.tracking import CroppedMask
from sam2_ros.tracking.types import BoolMask

pytest.importorskip("torch", reason="the embedded model needs torch")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, BoolMask]]:
    """A folder with two images, and the masks in the first one."""
    folder = tmp_path_factory.mktemp("images")
    frames = list(render(2, 640, 480, post=False))
    for index, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{index}.png"), cv2.cvtColor(frame.rgb, cv2.COLOR_RGB2BGR))
    return folder, frames[0].masks


def text(*values: float) -> str:
    return ",".join(f"{value:g}" for value in values)


def test_boxes_clicks_and_a_mask(scene: tuple[Path, dict[int, BoolMask]], tmp_path: Path) -> None:
    folder, masks = scene
    first, second = masks.values()
    x, y = np.argwhere(second)[:, ::-1].mean(axis=0)
    assert second[round(y), round(x)]
    cv2.imwrite(str(tmp_path / "mask.png"), first.astype(np.uint8) * 255)
    prompts = ["--box", text(*bounding_box(first)), "--point", text(x, y), "--mask", str(tmp_path / "mask.png")]
    out = tmp_path / "out"
    assert main(["segment", str(folder / "0.png"), *prompts, "--out", str(out), "--device", "cpu"]) == 0
    content = json.loads((out / "0.json").read_text(encoding="utf-8"))
    assert (content["width"], content["height"], content["complete"]) == (640, 480, True)
    for obj, truth in zip(content["objects"], (first, second, first), strict=True):
        found = coco.decode(coco.frPyObjects(obj["segmentation"], 480, 640)).astype(np.bool_)
        assert jaccard(found, truth) > 0.85
        x0, y0, width, height = obj["bbox"]
        assert bounding_box(found) == (x0, y0, x0 + width, y0 + height) and obj["area"] == found.sum()
        assert len(obj["candidates"]) == 3 and 0 < obj["predicted_iou"] <= 1 and 0 < obj["stability"] <= 1
    labels = read_labels(out / "0.png")
    assert {0, 2} <= set(np.unique(labels).tolist()) and jaccard(labels == 2, second) > 0.85
    picture = cv2.imread(str(out / "0_overlay.jpg"))
    assert picture is not None and picture.shape == (480, 640, 3)


def test_everything_in_a_folder(scene: tuple[Path, dict[int, BoolMask]], tmp_path: Path) -> None:
    folder, masks = scene
    options = ["--points", "8", "--max-masks", "5", "--out", str(tmp_path), "--device", "cpu", "--quiet"]
    assert main(["segment", str(folder), "--everything", *options]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "0.json", "0.png", "0_overlay.jpg", "1.json", "1.png", "1_overlay.jpg",
    ]  # fmt: skip
    objects = json.loads((tmp_path / "0.json").read_text(encoding="utf-8"))["objects"]
    found = [coco.decode(coco.frPyObjects(obj["segmentation"], 480, 640)).astype(np.bool_) for obj in objects]
    assert 0 < len(found) <= 5 and [obj["area"] for obj in objects] == sorted(
        (o["area"] for o in objects), reverse=True
    )
    for truth in masks.values():
        assert max(jaccard(mask, truth) for mask in found) > 0.8


def test_an_interruption_keeps_what_is_done(scene: tuple[Path, dict[int, BoolMask]], tmp_path: Path) -> None:
    """The first image is complete; of the second there is what was found until then, which may be nothing."""
    folder, _ = scene
    command = [sys.executable, "-m", "sam2_ros", "segment", str(folder), "--everything", "--points", "12"]
    process = subprocess.Popen(
        [*command, "--batch", "4", "--out", str(tmp_path), "--device", "cpu"],
        stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    watching = threading.Event()
    for _ in range(6000):
        if (tmp_path / "0_overlay.jpg").exists():
            break
        watching.wait(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    first = json.loads((tmp_path / "0.json").read_text(encoding="utf-8"))
    assert first["complete"] is True
    if process.returncode != 0:  # else it was too quick
        assert process.returncode == 130 and "1 of 2 images are complete" in errors
        second = tmp_path / "1.json"  # missing where the signal came between the images
        assert not second.exists() or json.loads(second.read_text(encoding="utf-8"))["complete"] is False


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "give --box, --point or --mask, or --everything"),
        (["--everything", "--box", "1,2,30,40"], "one of the two"),
        (["--box", "1,2,3"], "accepted: X0,Y0,X1,Y1 in pixels, without spaces, for example --box 120,80,260,300"),
        (["--point", "a,b"], "accepted: X,Y or X,Y,0"),
        (["--everything", "--points", "0"], "--points is 0; accepted: 1 to 256"),
        (["--everything", "--max-masks", "0"], "--max-masks is 0; accepted: 1 or more"),
        (["--box", "1000,1000,2000,2000"], "lies outside the image of 640 x 480"),
    ],
)
def test_bad_options(
    scene: tuple[Path, dict[int, BoolMask]], tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str],
    reason: str,
) -> None:  # fmt: skip
    folder, _ = scene
    assert main(["segment", str(folder / "0.png"), *options, "--out", str(tmp_path / "out"), "--device", "cpu"]) == 2
    assert reason in capsys.readouterr().err


def test_a_bad_image_does_not_stop_the_rest(
    scene: tuple[Path, dict[int, BoolMask]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, masks = scene
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    (images / "a.png").write_bytes(b"no image")
    cv2.imwrite(str(images / "b.png"), np.zeros((40, 30, 3), np.uint8))  # the box lies outside
    shutil.copy(folder / "0.png", images / "c.png")
    box = text(*bounding_box(next(iter(masks.values()))))
    assert main(["segment", str(images), "--box", box, "--out", str(out), "--device", "cpu"]) == 1
    assert {path.name for path in out.iterdir()} == {"c.json", "c.png", "c_overlay.jpg"}
    shown = capsys.readouterr()
    assert shown.out == f"1 mask in 1 image; written to {out}\n"
    assert "a.png: not a readable image" in shown.err and "b.png: the box" in shown.err

    for path in out.iterdir():
        path.unlink()
    (out / "c.json" / "in the way").mkdir(parents=True)
    assert main(["segment", str(images), "--box", box, "--out", str(out), "--device", "cpu"]) == 2
    errors = capsys.readouterr().err
    assert "c.json" in errors and "a.png: not a readable image" in errors and "b.png: the box" in errors


def test_an_image_is_never_overwritten(
    scene: tuple[Path, dict[int, BoolMask]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = scene
    assert main(["segment", str(folder), "--everything", "--out", str(folder)]) == 2
    assert "give another folder with --out" in capsys.readouterr().err


def test_a_folder_of_images_gets_no_more_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whose label images and pictures the next command would take for images."""
    for name in ("a.jpg", "b.jpg"):
        cv2.imwrite(str(tmp_path / name), np.zeros((32, 32, 3), np.uint8))
    assert main(["segment", str(tmp_path), "--box", "1,1,9,9", "--out", str(tmp_path)]) == 2
    assert "is the folder of the images" in capsys.readouterr().err
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("seed", range(4))
def test_run_lengths_are_those_of_coco(seed: int) -> None:
    random = np.random.default_rng(seed)
    full = random.random((7, 9)) > (0.5, 0.02, 1.0, -1.0)[seed]
    written = coco_run_lengths(CroppedMask.from_full(full))
    assert np.array_equal(coco.decode(coco.frPyObjects(written, 7, 9)).astype(np.bool_), full)


def test_the_smaller_of_two_objects_is_on_top() -> None:
    small, large = np.zeros((6, 8), np.bool_), np.zeros((6, 8), np.bool_)
    small[2:4, 2:4] = large[1:5, 1:7] = True
    labels = label_image([Segmented(CroppedMask.from_full(mask), 0.9, 0.9) for mask in (small, large)], 8, 6)
    assert (labels == 1).sum() == 4 and (labels == 2).sum() == 4 * 6 - 4 and labels.dtype == np.uint8


def test_pytorch_finds_everything_unless_another_runtime_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    (tmp_path / "graphs.json").write_text("{}")

    def runtime(*words: str) -> str:
        parser = argparse.ArgumentParser()
        segment.register(parser.add_subparsers())
        return segment._runtime(parser.parse_args(["segment", "a.png", *words]))

    assert runtime("--everything") == "torch"
    assert runtime("--everything", "--runtime", "openvino") == "openvino"
    for folder in (str(tmp_path), f"~/{tmp_path.name}"):
        assert runtime("--everything", "--model", folder) == "auto"
    assert runtime("--point", "1", "1") == "auto"
