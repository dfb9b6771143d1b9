"""``sam2_ros bench`` measures our engine and the reference on the same frames and writes what it found."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import pytest
import torch

from sam2_ros.bench import ablation, everything, grid, weights
from sam2_ros.bench.measure import BLOCK
from sam2_ros.bench.scene import PERIOD, moving_scene
from sam2_ros.cli.bench import SECTIONS
from sam2_ros.cli.main import USER_ERROR, main


def test_measures_beside_the_reference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    json_file, picture = tmp_path / "out/bench.json", tmp_path / "out/bench.png"
    code = main(
        ["bench", "--model", "tiny", "--image-size", "128", "--objects", "1", "3", "--frames", "4",
         "--peers", "official", "--dtype", "float32", "--json", str(json_file), "--plot", str(picture)]
    )  # fmt: skip
    assert code == 0
    report = json.loads(json_file.read_text(encoding="utf-8"))
    assert report["ratio_vs_official"].keys() == report["best_vs_best_official"].keys() == {"1", "3"}
    assert report["machine"]["threads"] >= 1
    for combination, objects in zip(report["combinations"], (1, 3), strict=True):
        assert (combination["objects"], combination["image_size"]) == (objects, 128)
        ours, official = combination["engines"]
        assert (ours["engine"], official["engine"]) == ("sam2_ros", "official")
        assert ours["frames"] == official["frames"] == 2 * BLOCK  # four, in whole turns
        latency = ours["latency_ms"]
        assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["max"]
        assert ours["masks_shown"] == 1.0, "an object without a mask costs less than one with"
        assert {"resize", "encode", "memory_attention", "decode", "memory_encode"} <= ours["stages_ms"].keys()
        assert sum(ours["stages_ms"].values()) <= 1.2 * latency["max"]
        (same, best) = combination["ratios"]
        assert same["ratio"] == report["ratio_vs_official"][str(objects)]
        assert same["quartiles"][0] <= same["ratio"] <= same["quartiles"][1]
        assert best["kind"] == "best"
    assert "official" in capsys.readouterr().out
    assert cv2.imread(str(picture)) is not None


Measure = Callable[[everything.Settings, everything.Tell], dict[str, Any]]


def small_sections() -> dict[str, everything.Section]:
    """The whole of ``--all``, but for smaller networks, fewer frames and the node (test/ros/test_bench_node.py)."""
    small: dict[str, Measure] = {
        "rearrangements": partial(everything.rearrangements, image_size=64, counts=(2,)),
        "parts": partial(everything.parts, image_size=64),
        "drift": partial(everything.drifts, image_size=64, frames=3),
        "input_sizes": partial(everything.input_sizes, sizes=(224, 160), frames=6),
        "pipeline": partial(everything.ahead, frames=2),
        "node": lambda *_: {"runs": []},
    }
    return {
        name: replace(section, measure=small.get(name, section.measure))
        for name, section in everything.SECTIONS.items()
    }


def test_everything_is_written_with_its_tables(tmp_path: Path) -> None:
    grids = [grid.Grid(image_sizes=(64,), objects=(1,), dtypes=("float32",), frames=3)]
    presets_run = everything.presets.run

    def sized(model: str, sizes: tuple[int, ...], *others: Any) -> dict[str, Any]:
        return presets_run(model, (64,) if model == "tiny" else sizes, *others)

    with (
        mock.patch.object(everything, "grids", lambda *_: grids),
        mock.patch.object(everything, "SECTIONS", small_sections()),
        mock.patch.object(everything.presets, "run", sized),
        mock.patch.object(everything.alternatives, "ROUNDS", 2),
        mock.patch.object(everything.pipeline, "ROUNDS", 1),
        mock.patch.object(everything.pipeline, "FILL", 2),
    ):
        assert main(["bench", "--all", str(tmp_path), "--device", "cpu", "--quiet"]) == 0
        dates = {name: found(tmp_path, name)["date"] for name in SECTIONS}
        (tmp_path / "engine.json").write_text(json.dumps(found(tmp_path, "engine") | {"date": "once"}))
        assert main(["bench", "--all", str(tmp_path), "--device", "cpu", "--quiet", "--only", "parts"]) == 0
    assert set(dates) == everything.SECTIONS.keys()
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    for section in everything.SECTIONS.values():
        assert f"## {section.title}\n" in text
    assert "on once" in text, "what was measured before is kept"
    assert cv2.imread(str(tmp_path / "engine.png")) is not None
    assert found(tmp_path, "engine")["machine"]["cores"] >= 1
    (combination,) = found(tmp_path, "rearrangements")["combinations"]
    names = {row["rearrangement"] for row in combination["rows"] if row["dtype"] == "bfloat16"}
    assert names == ablation.VARIANTS.keys() and all(row["ratio"] > 0 for row in combination["rows"])
    for model in found(tmp_path, "parts")["combinations"]:
        for row in model["rows"]:
            limit = 1e-5 if row["dtype"] == "float32" else 0.03
            assert row["difference"] <= limit, "another way to compute the same"
    for model in found(tmp_path, "drift")["models"]:
        exact, plain, rearranged = model["rows"]
        assert (exact["dtype"], exact["rearranged"]) == ("float32", True)
        assert exact["logit_max"] < 1e-3 < min(plain["logit_max"], rearranged["logit_max"])
        assert all(0 <= row["iou_min"] <= row["iou_mean"] <= 1 for row in model["rows"])
    for ahead in found(tmp_path, "pipeline")["runs"]:
        assert all(row["frames_per_second"] > 0 and row["latency_ms"] > 0 for row in ahead["rows"])
    embedded, tiny = found(tmp_path, "input_sizes")["models"]
    assert all(0 < size["j_with_truth"] <= 1 for size in embedded["sizes"])
    assert 0 < embedded["agreement"][0]["j"] < 1
    assert tiny["sizes"][0]["ms"] > 0


def found(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("variant", ablation.VARIANTS)
def test_what_is_left_out_changes_nothing_but_the_time(variant: str) -> None:
    """But for rounding: every rearrangement is exact."""
    model = weights.find("tiny", 64).model
    memory = torch.randn(2, 7 * 16 + 8, 64, generator=torch.Generator().manual_seed(0))
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))

    def decoded() -> torch.Tensor:
        found = model.encode_image(image)
        conditioned = model.with_memory(found, memory, memory, 8, None)
        return model.decode(conditioned, found, *model.no_prompt(2)).logits

    with torch.inference_mode():
        expected = decoded()
        with ablation.VARIANTS[variant](model):
            without = decoded()
    assert (without - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_refuses_what_makes_no_sense(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--objects", "0"]) == USER_ERROR
    assert "--objects is 0; accepted: 1 or more" in capsys.readouterr().err
    assert main(["bench", "--only", "drift"]) == USER_ERROR
    assert "--only goes with --all DIR" in capsys.readouterr().err


@pytest.mark.parametrize("objects", [1, 4, 16, 64])
def test_every_object_of_the_scene_moves_and_stays_in_the_picture(objects: int) -> None:
    scene = moving_scene(objects, 640, 480)
    assert len(scene.frames) == PERIOD and scene.boxes.shape == (objects, 4)
    assert (scene.boxes[:, :2] >= 0).all() and (scene.boxes[:, 2:] <= (640, 480)).all()
    for index in range(PERIOD):
        assert not np.array_equal(scene.frame(index), scene.frame(index + 1))
    assert scene.frame(PERIOD + 3) is scene.frame(3)
