"""mIoU of single images: labels of both formats, the simulated user, and the verb with the embedded model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from sam2_ros.cli.main import main
from sam2_ros.evaluation.image_clicks import LEAST_AREA, click_until, labelled, score_photo, summary, table
from sam2_ros.media.labelled_photos import photos_in
from sam2_ros.media.rendered_scene import render
from sam2_ros.tracking.segmentation import Segmentation
from sam2_ros.tracking.types import BoolMask, CroppedMask, Prompt


def outlines(mask: BoolMask) -> list[list[float]]:
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return [outline.ravel().astype(float).tolist() for outline in found]


@pytest.fixture(scope="module", params=["coco", "yolo"])
def photos(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[BoolMask]]:
    """One picture with two objects and a speck, and the objects' masks, the largest first."""
    root = tmp_path_factory.mktemp(request.param)
    frame = next(iter(render(2, 320, 240, post=False)))
    (root / "images").mkdir()
    cv2.imwrite(str(root / "images" / "a.png"), cv2.cvtColor(frame.rgb, cv2.COLOR_RGB2BGR))
    masks = sorted(frame.masks.values(), key=lambda mask: -mask.sum())
    speck = np.zeros_like(masks[0])
    speck[3:6, 3:6] = True
    if request.param == "coco":
        image = {"id": 7, "file_name": "a.png", "width": 320, "height": 240}
        annotations = [
            {"image_id": 7, "segmentation": outlines(mask), "area": int(mask.sum())} for mask in (speck, *masks)
        ]
        (root / "annotations.json").write_text(json.dumps({"images": [image], "annotations": annotations}))
    else:
        (root / "labels").mkdir()
        lines = []
        for mask in (speck, *masks):
            (ring,) = outlines(mask)
            shares = (np.array(ring).reshape(-1, 2) + 0.5) / (320, 240)
            lines.append("3 " + " ".join(f"{value:.6f}" for value in shares.ravel()))
        (root / "labels" / "a.txt").write_text("\n".join(lines))
    return root, masks


def test_labels_of_both_formats(photos: tuple[Path, list[BoolMask]]) -> None:
    root, masks = photos
    (photo,) = photos_in(root)
    image, found = labelled(photo)
    assert image.shape == (240, 320, 3) and len(found) == 2 and min(mask.sum() for mask in found) > LEAST_AREA
    for mask, truth in zip(found, masks, strict=True):
        assert np.count_nonzero(mask & truth) / np.count_nonzero(mask | truth) > 0.98


def answer(mask: BoolMask) -> Segmentation:
    return Segmentation(CroppedMask.from_full(mask), 1.0, 1.0, 0, (), np.full((4, 1, 1), mask.sum(), np.float32))


class Obedient:
    """Gives the part of the truth that lies around its positive clicks, and notes what it was asked."""

    def __init__(self, truth: BoolMask, radius: int) -> None:
        self.truth, self.radius = truth, radius
        self.asked: list[tuple[int, bool]] = []

    def __call__(self, prompt: Prompt, so_far: NDArray[np.float32] | None) -> Segmentation:
        assert prompt.points is not None and prompt.labels is not None
        self.asked.append((len(prompt.points), so_far is not None))
        near = np.zeros(self.truth.shape, np.uint8)
        for x, y in prompt.points[prompt.labels == 1].tolist():
            cv2.circle(near, (round(x), round(y)), self.radius, 1, -1)
        return answer(self.truth & near.astype(np.bool_))


def test_each_click_adds_to_those_before() -> None:
    truth = np.zeros((40, 90), np.bool_)
    truth[10:30, 5:85] = True
    user = Obedient(truth, 12)
    scores = click_until(user, truth)
    assert user.asked == [(1, False), (2, True), (3, True), (4, True), (5, True)]
    assert 0 < scores[1] < scores[3] < scores[5] < 1
    perfect = Obedient(truth, 100)
    assert click_until(perfect, truth) == {1: 1.0, 3: 1.0, 5: 1.0} and perfect.asked == [(1, False)]


def test_a_summary_weighs_objects_equally(photos: tuple[Path, list[BoolMask]]) -> None:
    root, masks = photos

    class Half:
        """Knows the larger object alone."""

        def encode(self, image: NDArray[np.uint8], /) -> Any:
            return image.shape

        def segment(
            self, image: Any, prompts: Sequence[Prompt], so_far: Sequence[NDArray[np.float32] | None] = (), /
        ) -> list[Segmentation]:
            assert image == (240, 320, 3)
            return [answer(masks[0])] * len(prompts)

    scores = [score for photo in photos_in(root) for score in score_photo(Half(), photo)]
    report = summary("half", scores)
    assert (report["photos"], report["instances"]) == (1, 2)
    for value in report["miou"].values():
        assert value == pytest.approx(0.5, abs=0.02)
    assert summary("none", [])["miou"]["box"] is None
    shown = table([report, summary("none", [])]).splitlines()
    assert shown[0].split()[:2] == ["mIoU", "[%]"] and shown[1].startswith("half") and "-" in shown[2]


def test_the_verb(photos: tuple[Path, list[BoolMask]], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, _ = photos
    report = tmp_path / "report.json"
    assert main(["eval", str(root), "--images", "--json", str(report), "--device", "cpu", "--threads", "1"]) == 0
    assert "5 clicks" in capsys.readouterr().out
    (model,) = json.loads(report.read_text())["models"]
    assert model["instances"] == 2 and model["miou"]["5_clicks"] > 0.8 and model["miou"]["box"] > 0.8
    assert all(set(obj["clicks"]) == {"1", "3", "5"} for obj in model["objects"])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--images", "--live", "24"], "--live came with --images"),
        (["--images", "--windows"], "--windows came with --images"),
        (["--images", "--no-windows"], "--windows came with --images"),
        (["--max-images", "3"], "--max-images belongs to --images"),
        (["--images", "--max-images", "0"], "--max-images is 0"),
        (["--images"], "holds no labelled photographs"),
    ],
)
def test_bad_options(tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], reason: str) -> None:
    assert main(["eval", str(tmp_path), *options]) == 2
    assert reason in capsys.readouterr().err


def test_images_run_by_the_runtime_that_is_asked_for(
    photos: tuple[Path, list[BoolMask]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(photos[0]), "--images", "--device", "cpu", "--runtime", "onnxruntime:tensorrt"]) == 2
    assert "runtime 'onnxruntime:tensorrt' needs" in capsys.readouterr().err


def test_a_second_model_that_can_not_be_loaded_is_refused_before_images_are_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in ("images/a.png", "labels/a.txt", "text.pt"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("no picture, and no weights")
    command = ["eval", str(tmp_path), "--images", "--device", "cpu", "--model", "embedded", str(tmp_path / "text.pt")]
    assert main(command) == 2
    errors = capsys.readouterr().err
    assert "text.pt can't be read" in errors and errors.count("\n") == 1


def test_a_line_that_is_no_label_is_named(
    photos: tuple[Path, list[BoolMask]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(photos[0] / "images", tmp_path / "images")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 1 2 3 4 5 six")
    assert main(["eval", str(tmp_path), "--images", "--device", "cpu", "--threads", "1"]) == 2
    assert "line 1: expected a class and x y pairs, found '0 1 2 3 4 5 six'" in capsys.readouterr().err
