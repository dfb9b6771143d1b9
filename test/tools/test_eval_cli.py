"""``sam2_ros eval`` from a data set to its files, with the engine that holds masks still and the embedded model."""

import json
from pathlib import Path

import clips
import numpy as np
import published
import pytest

from sam2_ros.evaluation.results import load
from sam2_ros.tools.main import main
from sam2_ros.tools.pictures import write_png
from sam2_ros.tools.scene import bounding_box, render


@pytest.fixture(scope="module")
def davis(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("davis")
    for name, frames in (("short", 5), ("long", 7)):
        clips.write_davis(root, name, clips.two_squares(frames))
    (root / "dev.txt").write_text("long\n", encoding="utf-8")
    return root


def evaluate(root: Path, out: Path, *options: str) -> dict:
    assert main(["eval", str(root), "--out", str(out), "--quiet", *options]) == 0
    return dict(json.loads((out / "report.json").read_text(encoding="utf-8")))


def test_a_mask_that_stands_still_gets_the_values_of_the_published_evaluator(davis: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    report = evaluate(davis, tmp_path / "out", "--model", "null", "--masks-out", str(masks))
    for name in ("short", "long"):
        theirs = published.evaluate(davis / "Annotations", masks, name)
        ours = {one["object"]: one for one in report["objects"] if one["sequence"] == name}
        assert set(ours) == set(theirs) == {1, 2}
        for one, (j, f) in theirs.items():
            assert ours[one]["j"] == pytest.approx(j, abs=1e-9) and ours[one]["f"] == pytest.approx(f, abs=1e-9)
            assert 0.1 < j < 0.9
    means = [np.mean([one[key] for one in report["objects"]]) for key in ("j", "f", "jf")]
    assert [report["mean_over_objects"][key] for key in ("j", "f", "jf")] == pytest.approx(means)


def test_eval_and_track_give_the_same_masks_and_the_same_j(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the embedded model needs torch")
    scene = list(render(4, 320, 240, post=False))
    davis = tmp_path / "davis"
    clips.write_davis(davis, "short", [clips.labels_of(frame.masks, (240, 320)) for frame in scene])
    for index, frame in enumerate(scene):
        write_png(davis / "JPEGImages" / "short" / f"{index:05d}.png", frame.rgb)
        (davis / "JPEGImages" / "short" / f"{index:05d}.jpg").unlink()
    options = ["--dtype", "float32", "--threads", "1", "--device", "cpu"]
    out = tmp_path / "eval"
    evaluate(davis, out, "--prompt", "box", "--masks-out", str(tmp_path / "a"), *options)
    boxes = [{"frame": 0, "object_id": one, "box": list(bounding_box(mask))} for one, mask in scene[0].masks.items()]
    (tmp_path / "prompts.json").write_text(json.dumps(boxes), encoding="utf-8")
    command = ["track", str(davis / "JPEGImages" / "short"), "--prompts", str(tmp_path / "prompts.json"), "--quiet"]
    assert main([*command, "--masks-out", str(tmp_path / "b" / "short"), *options]) == 0
    for file in (tmp_path / "b" / "short").iterdir():
        assert (tmp_path / "a" / "short" / file.name).read_bytes() == file.read_bytes()
    result, _ = load(out / "sequences" / "short.json")
    theirs = published.evaluate(davis / "Annotations", tmp_path / "b", "short")
    assert {score.object: score.j for score in result.scores} == pytest.approx({k: j for k, (j, _) in theirs.items()})
    assert all(score.j > 0.5 for score in result.scores)


def test_a_second_run_goes_on_and_other_settings_are_refused(
    davis: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    evaluate(davis, out, "--model", "null", "--list", "dev.txt")
    file = out / "sequences" / "long.json"
    before = file.stat().st_mtime_ns
    report = evaluate(davis, out, "--model", "null")
    assert file.stat().st_mtime_ns == before
    assert [row["sequence"] for row in report["sequences"]] == ["long", "short"]
    assert main(["eval", str(davis), "--out", str(out), "--model", "null", "--prompt", "box"]) == 2
    assert "results of other settings (prompt differ)" in capfd.readouterr().err
    evaluate(davis, out, "--model", "null", "--prompt", "box", "--overwrite")
    assert load(file)[1] != load(out / "sequences" / "short.json")[1] or file.stat().st_mtime_ns != before


def test_processes_give_what_one_gives(davis: Path, tmp_path: Path) -> None:
    one = evaluate(davis, tmp_path / "one", "--model", "null", "--prompt", "click", "--clicks", "3")
    two = evaluate(davis, tmp_path / "two", "--model", "null", "--prompt", "click", "--clicks", "3", "--jobs", "2")
    assert one["objects"] == two["objects"]
    assert (tmp_path / "one" / "rows.csv").read_bytes() == (tmp_path / "two" / "rows.csv").read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sequences", "none"], "no labelled sequence 'none'; there are 2: long, short"),
        (["--list", "none.txt"], "no such list"),
        (["--clicks", "2"], "belong to --prompt click"),
        (["--jobs", "0"], "--jobs is 0"),
        (["--present-from", "0"], "--present-from is 0.0"),
        (["--layout", "sav"], "JPEGImages_24fps"),
        (["--model", "none.pt"], "none.pt"),
    ],
)
def test_a_mistake_ends_with_one_sentence_and_code_2(
    davis: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    base = ["eval", str(davis), "--out", str(tmp_path / "out"), "--model", "null"]
    code = main([*base, *options])
    errors = capfd.readouterr().err
    assert code == 2
    assert errors.startswith("sam2_ros: error: ") and errors.count("\n") == 1
    assert message in errors
