"""``sam2_ros annotate`` with the embedded model on a rendered scene, measured against its exact masks."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
from bags import Made
from PIL import Image
from pycocotools.coco import COCO

from sam2_ros.cli.main import main
from sam2_ros.evaluation.mask_metrics import jaccard
from sam2_ros.media.errors import UserError
from sam2_ros.media.image_folder import read_image
from sam2_ros.media.rendered_scene import RenderedFrame, bounding_box, render
from sam2_ros.media.video_writer import VideoWriter

pytest.importorskip("torch", reason="the embedded model needs torch")
from sam2_ros.annotation.data_set import open_data_set, read_data_set
from sam2_ros.annotation.engine import EngineSettings
from sam2_ros.annotation.folder import in_use
from sam2_ros.annotation.recordings import Images
from sam2_ros.annotation.results import write_result

FRAMES, WIDTH, HEIGHT = 12, 320, 240
FIRST = 6  # image in which something is detected first
NAMES = {1: "ball", 2: "book"}


@pytest.fixture(scope="module")
def scene() -> list[RenderedFrame]:
    return list(render(FRAMES, WIDTH, HEIGHT, post=False))


@pytest.fixture(scope="module")
def bag(scene: list[RenderedFrame], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rosbag2 folder, in which a detector sees both objects late."""
    path = tmp_path_factory.mktemp("bags") / "run"
    made = Made(path)
    for index, frame in enumerate(scene):
        made.image(index, frame.rgb)
        if index >= FIRST and index % 2 == 0:
            boxes = [(NAMES[key], bounding_box(mask)) for key, mask in frame.masks.items()]
            made.detections(index, [(name, (float(a), float(b), float(c), float(d))) for name, (a, b, c, d) in boxes])
    made.close()
    return path


@pytest.fixture
def photos(scene: list[RenderedFrame], tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, frame in enumerate(scene[:2]):
        height = HEIGHT - 20 * index  # sizes may differ
        cv2.imwrite(str(folder / f"{index}.png"), frame.rgb[:height, :, ::-1])
    return folder


def annotate(*arguments: object) -> int:
    return main(["annotate", *map(str, arguments), "--device", "cpu"])


def test_what_a_bag_detects_late_has_masks_from_the_first_image_on(
    bag: Path, scene: list[RenderedFrame], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert annotate(bag, "--detector", "recorded:/detections", "--out", out) == 0
    found = COCO(str(out / "annotations.json"))
    names = {each["id"]: each["name"] for each in found.dataset["categories"]}
    assert set(names.values()) == {"ball", "book"} and len(found.imgs) == FRAMES
    seen: dict[str, dict[int, float]] = {"ball": {}, "book": {}}
    for annotation in found.anns.values():
        image, name = found.imgs[annotation["image_id"]], names[annotation["category_id"]]
        truth = scene[image["frame_id"]].masks[next(key for key, known in NAMES.items() if known == name)]
        seen[name][image["frame_id"]] = jaccard(found.annToMask(annotation).astype(np.bool_), truth)
        assert 0 < annotation["score"] <= 0.9 and annotation["detection_score"] == 0.9
    for by_frame in seen.values():  # one object each, with one mask in each image
        assert sorted(by_frame) == list(range(FRAMES)) and min(by_frame.values()) > 0.75
    assert len({annotation["track_id"] for annotation in found.anns.values()}) == 2
    for index, frame in enumerate(scene):
        saved = read_image(out / "images" / found.imgs[index + 1]["file_name"])
        assert np.abs(saved.astype(int) - frame.rgb).mean() < 3
    capsys.readouterr()
    # A second run has nothing to do; it writes the same data set.
    before = (out / "annotations.json").read_bytes()
    (out / "annotations.json").unlink()
    assert annotate(bag, "--detector", "recorded:/detections", "--out", out) == 0
    assert "1 of 1 recordings were finished by an earlier run and are skipped" in capsys.readouterr().out
    assert (out / "annotations.json").read_bytes() == before
    # What a person has corrected meanwhile stays.
    (done,) = read_data_set(out).recordings
    write_result(out, replace(done, masks=done.masks[1:], corrected=[(0, done.masks[0].object_id)]))
    assert annotate(bag, "--detector", "recorded:/detections", "--out", out) == 0
    assert len(COCO(str(out / "annotations.json")).anns) == 2 * FRAMES - 1
    assert read_data_set(out).recordings[0].corrected == [(0, done.masks[0].object_id)]
    # Images that are gone are written again, and nothing else changes.
    image = out / "images" / "run" / done.images[0].name
    before = image.read_bytes()
    image.unlink()
    with pytest.raises(UserError, match="no such file; 'sam2_ros annotate' writes it again"):
        Images(image.parent, done.images).read(0)
    capsys.readouterr()
    assert annotate(bag, "--detector", "recorded:/detections", "--out", out) == 0
    assert "run: images were missing; they are written again" in capsys.readouterr().out
    assert image.read_bytes() == before and read_data_set(out).recordings[0].corrected
    # One that a command does not name is kept, but no longer in the data set.
    capsys.readouterr()
    shutil.copytree(bag, tmp_path / "other" / "second")
    assert annotate(tmp_path / "other" / "second", "--detector", "recorded:/detections", "--out", out) == 0
    assert "1 recording of earlier commands left out: run; name them too" in capsys.readouterr().out


def test_what_is_detected_twice_is_one_object_in_all_images(scene: list[RenderedFrame], tmp_path: Path) -> None:
    """And what is detected only once is none."""
    made = Made(tmp_path / "run")
    for index, frame in enumerate(scene[:7]):
        made.image(index, frame.rgb)
        if index in (2, 4):
            x0, y0, x1, y1 = map(float, bounding_box(frame.masks[2]))
            alone = (1.0, 1.0, 30.0, 20.0)
            made.detections(index, [("book", (x0, y0, x1, y1)), *([("lid", alone)] if index == 4 else [])])
    made.close()
    assert annotate(tmp_path / "run", "--detector", "recorded:/detections", "--out", tmp_path / "out") == 0
    found = COCO(str(tmp_path / "out" / "annotations.json"))
    assert [each["name"] for each in found.dataset["categories"]] == ["book"]
    assert [(each["object_id"], each["image_id"]) for each in found.dataset["annotations"]] == [
        (1, 1 + index) for index in range(7)
    ]  # fmt: skip
    for each in found.anns.values():
        truth = scene[each["image_id"] - 1].masks[2]
        assert jaccard(found.annToMask(each).astype(np.bool_), truth) > 0.75


def test_prompts_of_a_video_and_ids(scene: list[RenderedFrame], tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "clip.mp4", 10.0)
    for frame in scene:
        writer.write(frame.rgb)
    writer.close()
    boxes = [bounding_box(scene[index].masks[key]) for index, key in ((5, 1), (0, 2))]
    prompts = [
        {"frame": 5, "object_id": 7, "box": boxes[0], "label": "ball"},
        {"frame": 0, "object_id": 3, "box": boxes[1]},
        {"frame": 8, "object_id": 3, "points": [[1, 1]], "labels": [0]},  # a correction, not where backwards begins
    ]
    (tmp_path / "prompts.json").write_text(json.dumps(prompts))
    out = tmp_path / "out"
    arguments = (tmp_path / "clip.mp4", "--detector", tmp_path / "prompts.json", "--out", out, "--format", "davis",
                 "--windows")  # fmt: skip
    assert annotate(*arguments) == 0
    files = sorted((out / "Annotations" / "clip").glob("*.png"))
    assert [file.stem for file in files] == [file.stem for file in sorted((out / "JPEGImages" / "clip").iterdir())]
    for file, frame in zip(files, scene, strict=True):
        labels = np.asarray(Image.open(file))
        assert set(np.unique(labels)) == {0, 3, 7}
        assert jaccard(labels == 7, frame.masks[1]) > 0.75 and jaccard(labels == 3, frame.masks[2]) > 0.75


def test_everything_in_stills(photos: Path, scene: list[RenderedFrame], tmp_path: Path) -> None:
    assert annotate(photos, "--detector", "everything", "--stills", "--out", tmp_path / "out") == 0
    found = COCO(str(tmp_path / "out" / "annotations.json"))
    assert [(image["height"], image["file_name"]) for image in found.imgs.values()] == [
        (HEIGHT, "photos/0.jpg"), (HEIGHT - 20, "photos/1.jpg"),
    ]  # fmt: skip
    for image in found.imgs.values():
        masks = [found.annToMask(each).astype(np.bool_) for each in found.imgToAnns[image["id"]]]
        for truth in scene[image["frame_id"]].masks.values():
            assert max(jaccard(mask, truth[: image["height"]]) for mask in masks) > 0.75


def test_a_bad_recording_is_named_and_does_not_stop_the_rest(
    bag: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.mcap").write_bytes(b"\x89MCAP0\r\n")
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    video = tmp_path / "text.mp4"
    video.write_text("no video")
    out = tmp_path / "out"
    sources = (tmp_path / "broken.mcap", photos, tmp_path / "empty", bag, video)
    assert annotate(*sources, "--detector", "recorded:/detections", "--out", out) == 1
    shown, said = capsys.readouterr()
    assert f"masks in 1 recording; 0 images to look at: sam2_ros review {out}\n" in shown
    assert f"sam2_ros: {tmp_path / 'broken.mcap'}: damaged, cut, or no bag" in said
    assert "sam2_ros: photos: recorded:/detections needs a bag" in said
    assert f"sam2_ros: {tmp_path / 'empty'}: no images there" in said
    assert f"its folders are not searched: give one, or several to 'annotate' ({tmp_path / 'empty'}/*)" in said
    assert f"sam2_ros: {video}: not a video" in said
    found = COCO(str(out / "annotations.json"))
    assert [video["name"] for video in found.dataset["videos"]] == ["run"] and len(found.anns) == 2 * FRAMES
    assert [path.name for path in (out / "images").iterdir()] == ["run"]


def test_where_nothing_could_be_read_there_is_nothing_to_review(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert annotate(tmp_path / "empty", "--detector", "recorded:/detections", "--out", tmp_path / "out") == 1
    shown, said = capsys.readouterr()
    assert "1 of 1 recordings failed" in shown and "look at" not in shown
    assert "no images there" in said


def test_a_folder_of_other_files_or_settings_is_left_alone(
    bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    arguments = (bag, "--detector", "recorded:/detections")
    assert annotate(*arguments, "--out", tmp_path) == 2
    assert "holds other files; give a new or an empty folder" in capsys.readouterr().err
    out = tmp_path / "out"
    out.mkdir()
    (out / "settings.json").write_text(json.dumps({"detector": "everything"}))
    assert annotate(*arguments, "--out", out) == 2
    assert "was made with other settings (detector: 'everything', format, " in capsys.readouterr().err
    (out / "settings.json").write_text("[" * 100_000)
    assert annotate(*arguments, "--out", out) == 2
    assert "settings.json can't be read (lists within lists, too deep)" in capsys.readouterr().err
    (out / "settings.json").write_text(json.dumps({"detector": "everything"}))
    with in_use(out, "review"):
        assert annotate(*arguments, "--out", out) == 2
    assert f"{out} is in use by sam2_ros review, process {os.getpid()} on " in capsys.readouterr().err
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps([{"frame": 0, "object_id": 1, "box": [0, 0, 5, 5]}]))
    (tmp_path / "other").mkdir()
    for _ in range(2):
        open_data_set(tmp_path / "other", EngineSettings(str(prompts), "coco"))
    prompts.write_text(json.dumps([{"frame": 0, "object_id": 1, "box": [0, 0, 5, 6]}]))
    open_data_set(tmp_path / "other", EngineSettings(str(prompts), "yolo"))  # where nothing is finished
    (tmp_path / "other" / "recordings").mkdir()
    (tmp_path / "other" / "recordings" / "run.json").write_text("")
    open_data_set(tmp_path / "other", EngineSettings(str(prompts), "yolo"))
    prompts.write_text(json.dumps([{"frame": 0, "object_id": 1, "box": [0, 0, 5, 7]}]))
    with pytest.raises(UserError, match=r"was made with other settings \(content of detector\)"):
        open_data_set(tmp_path / "other", EngineSettings(str(prompts), "yolo"))


def test_a_model_in_the_home_folder_is_known_by_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (out := tmp_path / "out").mkdir()
    settings = EngineSettings("everything", "coco", model="~/model.pt")
    (tmp_path / "model.pt").write_text("one")
    for _ in range(2):
        open_data_set(out, settings)
    (out / "recordings").mkdir()
    (out / "recordings" / "run.json").write_text("")
    (tmp_path / "model.pt").write_text("another")
    with pytest.raises(UserError, match=r"was made with other settings \(content of model\)"):
        open_data_set(out, settings)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--detector", "cats"), "--detector cats: accepted: a detector's ONNX file, people"),
        (("--detector", "none.onnx"), "none.onnx: no such file"),
        (("--detector", "everything", "--every", "0"), "--every is 0; accepted: 1 or more"),
        (("--detector", "everything", "--min-score", "2"), "--min-score is 2; accepted: 0 to 1"),
        (("--detector", "recorded:/d", "--stills"), "--stills needs a detector that looks at images"),
        (("--detector", "everything", "--stills", "--format", "davis"), "--format davis is for sequences"),
        (("--detector", "everything", "--labels", "l.txt"), "--labels names the classes of an ONNX file"),
    ],
)
def test_bad_options(
    options: tuple[str, ...], said: str, bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert annotate(bag, *options, "--out", tmp_path / "out") == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_an_interruption_keeps_finished_recordings(bag: Path, tmp_path: Path) -> None:
    """Ctrl-C in the second of two recordings; then the same command again."""
    second = tmp_path / "again"
    shutil.copytree(bag, second)
    command = [
        sys.executable, "-m", "sam2_ros", "annotate", str(bag), str(second), "--detector", "recorded:/detections",
        "--out", str(tmp_path / "out"), "--device", "cpu",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    assert process.stdout is not None
    assert process.stdout.readline() == "detections of the recordings\n"
    assert process.stdout.readline().startswith("run: 12 images, 2 objects")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130 and "1 of 2 recordings are finished" in said
    found = COCO(str(tmp_path / "out" / "annotations.json"))
    assert len(found.imgs) == FRAMES and [p.name for p in (tmp_path / "out" / "images").iterdir()] == ["run"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0 and "1 of 2 recordings were finished" in done.stdout
    assert "12 images of 1 recording in " in done.stdout and "failed" not in done.stdout
    whole = COCO(str(tmp_path / "out" / "annotations.json"))
    assert len(whole.imgs) == 2 * FRAMES and len(whole.anns) == 2 * len(found.anns)


def test_a_ray_cluster_gives_the_same_and_begins_again_what_a_worker_leaves(bag: Path, tmp_path: Path) -> None:
    """The first worker that tracks is killed."""
    pytest.importorskip("ray", reason="an optional extra: pip install 'sam2_ros[ray]'")
    broken = tmp_path / "broken.mcap"
    broken.write_bytes(b"no bag")
    shutil.copytree(bag, tmp_path / "again")
    sources = (bag, broken, tmp_path / "again")
    arguments = [*map(str, sources), "--detector", "recorded:/detections", "--threads", "1"]
    out = tmp_path / "ray"
    # Ray keeps a token of its own in the home directory, and its sockets need a short path.
    environment = {**os.environ, "HOME": str(tmp_path), "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, "-m", "sam2_ros", "annotate", *arguments, "--device", "cpu", "--out", str(out), "--ray"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    victim = None
    while victim is None and process.poll() is None:
        time.sleep(0.05)
        with suppress(psutil.Error):  # processes come and go
            running = (
                psutil.Process(process.pid).children(recursive=True) if any(out.glob("images/*/000005.jpg")) else []
            )
            victim = next((each for each in running if "ray::annotate_recording" in " ".join(each.cmdline())), None)
    assert victim is not None
    victim.kill()
    shown, said = process.communicate(timeout=600)
    assert process.returncode == 1 and "broken.mcap: " in said and "Traceback" not in said, said
    assert annotate(*arguments, "--out", tmp_path / "alone") == 1
    for name in ("annotations.json", "review.json"):
        assert (out / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    assert shown.count(": 12 images, 2 objects, 24 masks") == 2
    assert re.search(r"^24 images of 2 recordings in \d+ s: \d+\.\d a second\n1 of 3 recordings failed$", shown, re.M)


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_ends_it_with_one_sentence(bag: Path, full_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert annotate(bag, "--detector", "recorded:/detections", "--out", full_disk / "out") == 2
    said = capsys.readouterr().err
    assert "can't be written: the disk is full; free space, or choose another disk" in said
    assert "0 of 1 recordings are finished" in said
