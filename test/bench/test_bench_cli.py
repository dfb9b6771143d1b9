"""``sam2_ros bench`` measures our engine and the reference on the same frames and writes what it found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sam2_ros.bench import grid
from sam2_ros.bench.measure import BLOCK
from sam2_ros.bench.moving_scene import PERIOD, moving_scene
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


def test_an_interruption_keeps_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = grid._combination

    def measure(options: Any, task: Any, objects: int, tell: Any) -> dict[str, Any]:
        if objects == 3:
            raise KeyboardInterrupt
        return measured(options, task, objects, tell)

    monkeypatch.setattr(grid, "_combination", measure)
    words = ["bench", "--model", "tiny", "--image-size", "128", "--objects", "1", "3", "--frames", "4"]
    assert main([*words, "--dtype", "float32", "--json", str(tmp_path / "bench.json")]) == 130
    report = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    assert [combination["objects"] for combination in report["combinations"]] == [1]


def test_refuses_what_makes_no_sense(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--objects", "0"]) == USER_ERROR
    assert "--objects is 0; accepted: 1 or more" in capsys.readouterr().err
    for others in ([], ["--peers", "official"], ["--peers", "vos", "--node"]):
        assert main(["bench", "--compile", *others]) == USER_ERROR
        assert "add --peers vos, without --node and --endpoint" in capsys.readouterr().err
    assert main(["bench", "--model", "embedded", "--image-size", "0", "--peers", "vos", "--compile"]) == USER_ERROR
    assert "found nothing to compile" in capsys.readouterr().err
    small = ["--model", "tiny", "--image-size", "128", "--objects", "1", "--runtime", "torch", "--dtype", "int8"]
    assert main(["bench", *small]) == USER_ERROR
    assert "nothing was measured: no chosen runtime computes in int8 here" in capsys.readouterr().err


@pytest.mark.parametrize("objects", [1, 4, 16, 64])
def test_every_object_of_the_scene_moves_and_stays_in_the_picture(objects: int) -> None:
    scene = moving_scene(objects, 640, 480)
    assert len(scene.frames) == PERIOD and scene.boxes.shape == (objects, 4)
    assert (scene.boxes[:, :2] >= 0).all() and (scene.boxes[:, 2:] <= (640, 480)).all()
    for index in range(PERIOD):
        assert not np.array_equal(scene.frame(index), scene.frame(index + 1))
    assert scene.frame(PERIOD + 3) is scene.frame(3)
