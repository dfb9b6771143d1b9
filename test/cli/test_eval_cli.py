"""``sam2_ros eval`` from a data set to its files, with the engine that holds masks still and the embedded model."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import clips
import cv2
import numpy as np
import psutil
import published
import pytest

from sam2_ros.cli.main import main
from sam2_ros.evaluation.results import load
from sam2_ros.media.figures import write_png
from sam2_ros.media.label_images import read_labels, write_labels
from sam2_ros.media.rendered_scene import bounding_box, render
from sam2_ros.model.weight_files import EMBEDDED


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


@pytest.mark.parametrize(
    "chosen, setting, budget, edges",
    [
        ([], "auto", 1.0, "auto"),
        (["--no-windows", "--no-edges"], "off", 1.0, "off"),
        (["--windows", "--window-budget", "0.5", "--edges"], "on", 0.5, "on"),
    ],
    ids=["auto", "whole", "windows"],
)
def test_eval_and_track_give_the_same_masks_and_the_same_j(
    chosen: list[str], setting: str, budget: float, edges: str, tmp_path: Path
) -> None:
    pytest.importorskip("torch", reason="the embedded model needs torch")
    scene = list(render(8, 320, 240, post=False))[:4]  # more than an object's size a frame would leave its window
    davis = tmp_path / "davis"
    clips.write_davis(davis, "short", [clips.labels_of(frame.masks, (240, 320)) for frame in scene])
    for index, frame in enumerate(scene):
        write_png(davis / "JPEGImages" / "short" / f"{index:05d}.png", frame.rgb)
        (davis / "JPEGImages" / "short" / f"{index:05d}.jpg").unlink()
    options = ["--dtype", "float32", "--threads", "1", "--device", "cpu", *chosen]
    out = tmp_path / "eval"
    evaluate(davis, out, "--prompt", "box", "--masks-out", str(tmp_path / "a"), *options)
    boxes = [{"frame": 0, "object_id": one, "box": list(bounding_box(mask))} for one, mask in scene[0].masks.items()]
    (tmp_path / "prompts.json").write_text(json.dumps(boxes), encoding="utf-8")
    command = ["track", str(davis / "JPEGImages" / "short"), "--prompts", str(tmp_path / "prompts.json"), "--quiet"]
    assert main([*command, "--masks-out", str(tmp_path / "b" / "short"), *options]) == 0
    for file in (tmp_path / "b" / "short").iterdir():
        tracked, evaluated = read_labels(file), read_labels(tmp_path / "a" / "short" / file.name)
        assert tracked.dtype == evaluated.dtype and np.array_equal(tracked, evaluated)
    settings = json.loads((out / "report.json").read_text())["settings"]
    assert (settings["window"], settings["window_budget"], settings["edges"]) == (setting, budget, edges)
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
    assert file.stat().st_mtime_ns == before
    report = evaluate(davis, out, "--model", "null", "--prompt", "box", "--overwrite")
    assert file.stat().st_mtime_ns != before and report["settings"]["prompt"] == "box"
    # Masks that are wanted only now are a reason to run again.
    evaluate(davis, out, "--model", "null", "--prompt", "box", "--masks-out", str(tmp_path / "masks"))
    assert len(list((tmp_path / "masks" / "long").iterdir())) == 7


def test_processes_give_what_one_gives(davis: Path, tmp_path: Path) -> None:
    one = evaluate(davis, tmp_path / "one", "--model", "null", "--prompt", "click", "--clicks", "3")
    two = evaluate(davis, tmp_path / "two", "--model", "null", "--prompt", "click", "--clicks", "3", "--jobs", "2")
    assert one["objects"] == two["objects"]
    assert (tmp_path / "one" / "rows.csv").read_bytes() == (tmp_path / "two" / "rows.csv").read_bytes()


def test_an_object_that_enters_late_is_prompted_there_and_overlaps_are_kept_apart(tmp_path: Path) -> None:
    data = tmp_path / "sav"
    clips.write_frames(data / "JPEGImages_24fps" / "v", clips.two_squares(13))
    for one, start in (("000", 0), ("002", 4)):
        folder = data / "Annotations_6fps" / "v" / one
        folder.mkdir(parents=True)
        for t in range(start, 13, 4):
            write_labels(folder / f"{t:05d}.png", clips.square(30, 20 + 2 * int(one)).astype(np.uint8))
    masks = tmp_path / "masks"
    report = evaluate(data, tmp_path / "out", "--model", "null", "--masks-out", str(masks))
    # Masks that stand still on labels that stand still, though both objects share most of their pixels.
    assert {(one["object"], one["frames"], one["jf"]) for one in report["objects"]} == {(1, 2, 1.0), (3, 1, 1.0)}
    assert sorted(path.name for path in (masks / "v").iterdir()) == ["000", "002"]
    assert len(list((masks / "v" / "002").iterdir())) == 9
    assert np.array_equal(read_labels(masks / "v" / "002" / "00012.png") > 0, clips.square(30, 24))


def test_labels_that_only_say_what_to_track_measure_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    labels = clips.two_squares(6)
    clips.write_frames(tmp_path / "data" / "JPEGImages" / "a", labels)
    clips.write_label_images(tmp_path / "data" / "Annotations" / "a", {0: labels[0]})
    masks = tmp_path / "masks"
    report = evaluate(tmp_path / "data", tmp_path / "out", "--model", "null", "--masks-out", str(masks))
    assert report["objects_scored"] == 0 and report["mean_over_objects"]["j"] is None
    assert report["visibility"]["frames_present"] == 0
    assert "nothing was measured" in capfd.readouterr().err
    assert len(list((masks / "a").iterdir())) == 6


def test_pictures_and_rows_are_left(davis: Path, tmp_path: Path) -> None:
    report = evaluate(davis, tmp_path, "--model", "null", "--threads", "3")
    for name in ("j_over_time.png", "reliability.png", "failures.png"):
        assert cv2.imread(str(tmp_path / name)) is not None
    result, _ = load(tmp_path / "sequences" / "long.json")
    worst = min(result.extra["worst"], key=lambda one: one["j"])
    least = min(row.j for row in result.rows if row.j is not None)
    assert worst["j"] == least and (tmp_path / "worst" / worst["file"]).is_file()
    lines = (tmp_path / "rows.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + 2 * (5 + 7)
    assert {"object_score", "predicted_iou", "visibility", "state", "j", "truth_area", "area"} <= set(
        lines[0].split(",")
    )
    assert report["machine"]["processor"]
    assert (report["engine"]["model"], report["engine"]["threads"]) == ("null", 3)
    assert report["speed"]["fps"] > 0


def test_several_models_and_an_earlier_report(davis: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    evaluate(davis, tmp_path / "mask", "--model", "null")
    command = ["eval", str(davis), "--model", "null", "null:0", "--prompt", "box", "--out", str(tmp_path / "models")]
    command += ["--json", str(tmp_path / "all.json"), "--compare", str(tmp_path / "mask" / "report.json")]
    assert main(command) == 0
    printed = capfd.readouterr().out
    assert "not the same measurement: prompt differ" in printed and "mean over 4 objects" in printed
    assert "before: null" in printed and "now: null:0" in printed
    models = json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))["models"]
    assert [one["settings"]["model"] for one in models] == ["null", "null:0"]
    assert models[0]["objects"] == models[1]["objects"]


@pytest.mark.parametrize("second", ["none.pt", "text.pt", "used"])
def test_a_mistake_in_the_second_model_is_found_before_the_first_is_evaluated(
    second: str, davis: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch", reason="checkpoints are read by torch")
    monkeypatch.chdir(tmp_path)
    Path("text.pt").write_text("no weights")
    if second == "used":  # a folder with results of other settings
        second = "null:0"
        evaluate(davis, Path("out/null-0"), "--model", second, "--prompt", "box")
    assert main(["eval", str(davis), "--out", "out", "--model", "null", second]) == 2
    errors = capfd.readouterr().err
    assert second in errors.replace("null-0", "null:0") and errors.count("\n") == 1
    assert not Path("out/null/sequences").exists()


def test_models_of_one_file_name_have_folders_of_their_own(davis: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the embedded model needs torch")
    files = [tmp_path / name / "best.pt" for name in ("one", "two")]
    for file in files:
        file.parent.mkdir()
        shutil.copy(EMBEDDED, file)
    command = ["eval", str(davis), "--list", "dev.txt", "--out", str(tmp_path / "out"), "--quiet", "--overwrite"]
    assert main([*command, "--device", "cpu", "--threads", "1", "--model", *map(str, files)]) == 0
    reports = [json.loads(file.read_text()) for file in (tmp_path / "out").glob("*/report.json")]
    assert {one["settings"]["model"] for one in reports} == set(map(str, files))


@pytest.mark.parametrize("protocol", ["offline", "online", "noc"])
def test_the_clicking_protocols_from_the_command_line(
    protocol: str, davis: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["eval", str(davis), "--model", "null", "--protocol", protocol, "--out", str(tmp_path)]
    assert main([*command, "--interactions", "3", "--clicks", "1"]) == 0
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    if protocol == "noc":
        assert (report["noc"]["objects"], report["noc"]["noc90"], report["noc"]["failures90"]) == (4, 1.0, 1.0)
        assert "never reached" in capfd.readouterr().out
    else:
        curve = report["interactive"]
        assert curve["objects"] == 4 and len(curve["jf"]) == 3
        assert curve["jf_mean"] == pytest.approx(np.mean(curve["jf"]))


@pytest.mark.parametrize(("jobs", "first"), [("1", "long"), ("2", "short")])
def test_an_interrupted_run_keeps_what_is_finished(jobs: str, first: str, davis: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sam2_ros", "eval", str(davis), "--model", "null:300", "--out", str(tmp_path)]
    process = subprocess.Popen([*command, "--jobs", jobs], stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "sequences" / f"{first}.json").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: to every process
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "the same command continues" in errors and "Traceback" not in errors
    assert [path.name for path in (tmp_path / "sequences").iterdir()] == [f"{first}.json"]
    evaluate(davis, tmp_path, "--model", "null:300", "--jobs", jobs)
    assert len(list((tmp_path / "sequences").iterdir())) == 2


def test_processes_end_with_the_one_that_started_them(davis: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sam2_ros", "eval", str(davis), "--model", "null:9000", "--out", str(tmp_path)]
    process = subprocess.Popen([*command, "--jobs", "2"], stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 60
    while len(children := psutil.Process(process.pid).children()) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait(timeout=10)
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive


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
        (["--protocol", "noc", "--prompt", "box"], "it is made of clicks"),
        (["--protocol", "online", "--masks-out", "m"], "accepted with vos"),
        (["--interactions", "65"], "up to 64"),
        (["--compare", "none.json"], "no such report"),
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


def test_live_counts_every_image_and_compares_with_no_latency(davis: Path, tmp_path: Path) -> None:
    out = tmp_path / "live"
    report = evaluate(
        davis, out, "--model", "null", "--live", "10", "--latency", "0.2", "--deadline", "0", "--sequences", "long"
    )
    live = report["live"]
    # Images 0, 2 and 4 are worked on, and known two images later. Of 7 images the first and the last do not count.
    assert live["latency"] == pytest.approx(0.2)
    assert live["images"] == 2 * 5 and live["without_mask"] == pytest.approx(1 / 5)
    assert [(row["age"], row["images"]) for row in live["by_age"]] == [(2, 4), (3, 4)]
    # The null engine holds masks still: what was right on image 0 is wrong on the image where it is known.
    rows = {
        (row["object"], row["frame"]): row for row in load(out / "sequences" / "long.json")[0].extra["live"]["rows"]
    }
    assert rows[1, 1]["age"] is None and rows[1, 1]["network_j"] == 0
    assert rows[1, 1]["carried_j"] > 0.9, "the mask of the prompt"
    overlap = 24 - 5 * 2
    assert rows[1, 2]["network_j"] == pytest.approx(overlap / (48 - overlap))
    assert rows[1, 2]["carried_j"] > rows[1, 2]["network_j"] + 0.2
    assert live["carried"]["j"] == pytest.approx(report["mean_over_objects"]["j"])
    assert (out / "j_over_age.png").is_file()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--latency", "0.1"], "--latency belongs to --live RATE"),
        (["--live", "0"], "--live is 0.0; accepted: 0.1 to 1000"),
        (["--live", "nan"], "--live is nan"),
        (["--live", "10", "--deadline", "-1"], "--deadline is -1.0"),
        (["--live", "10", "--prompt", "click", "--clicks", "3"], "one prompt with vos"),
    ],
)
def test_live_options_that_can_not_be_are_refused(
    davis: Path, options: list[str], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(davis), "--model", "null", *options]) == 2
    assert words in capfd.readouterr().err
