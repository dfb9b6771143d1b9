"""``sam2_ros track`` from files to files, with the engine that holds masks still, and its refusals."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from sam2_ros.cli.main import main
from sam2_ros.media import frame_sources
from sam2_ros.media.label_images import read_labels, write_labels
from sam2_ros.media.rendered_scene import render
from sam2_ros.media.video_writer import VideoWriter

FRAMES, WIDTH, HEIGHT = 12, 160, 120


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    writer = VideoWriter(path, 10.0)
    for frame in render(FRAMES, WIDTH, HEIGHT):
        writer.write(frame.rgb)
    writer.close()
    return path


def prompts(folder: Path, *entries: dict[str, object]) -> str:
    path = folder / "prompts.json"
    path.write_text(json.dumps(entries), encoding="utf-8")
    return str(path)


def test_masks_video_and_json_of_a_clip(clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    first = np.zeros((HEIGHT, WIDTH), np.uint8)
    first[60:90, 100:140] = 1
    write_labels(tmp_path / "first.png", first)
    file = prompts(
        tmp_path,
        {"frame": 0, "object_id": 7, "box": [10, 20, 50, 60], "name": "cup"},
        {"frame": 4, "object_id": 3, "mask": "first.png", "label": "mug"},
        {"frame": 8, "object_id": 7, "box": [20, 20, 60, 60]},
    )
    out = tmp_path / "out"
    outputs = ["--masks-out", str(out / "masks"), "--video-out", str(out / "clip.mp4")]
    outputs += ["--json-out", str(out / "tracks.json"), "--picture-out", str(out / "story.png")]
    code = main(["track", str(clip), "--prompts", file, "--model", "null", *outputs])
    printed, errors = capfd.readouterr()
    assert (code, errors) == (0, "")
    assert "12 frames of 160x120, null" in printed and "cup" in printed

    names = sorted(path.name for path in (out / "masks").iterdir())
    assert names == [f"{index:06d}.png" for index in range(FRAMES)]
    moved = np.zeros((HEIGHT, WIDTH), np.uint8)
    moved[20:60, 10:50] = 7
    assert np.array_equal(read_labels(out / "masks" / "000000.png"), moved)
    moved[60:90, 100:140] = 3
    assert np.array_equal(read_labels(out / "masks" / "000007.png"), moved)
    moved[moved == 7] = 0
    moved[20:60, 20:60] = 7
    assert np.array_equal(read_labels(out / "masks" / "000008.png"), moved)

    picture = np.asarray(cv2.imread(str(out / "story.png")))  # a grid of frames, below it two objects' states
    assert picture.shape[1] > 1000 and picture.shape[0] > 700

    content = json.loads((out / "tracks.json").read_text(encoding="utf-8"))
    assert {key: content[key] for key in ("model", "width", "height", "fps")} == {
        "model": "null", "width": WIDTH, "height": HEIGHT, "fps": 10.0,
    }  # fmt: skip
    assert [frame["frame"] for frame in content["frames"]] == list(range(FRAMES))
    assert [frame["stamp"] for frame in content["frames"]][:2] == [0, 100_000_000]
    assert [[item["id"] for item in frame["objects"]] for frame in content["frames"][3:5]] == [[7], [3, 7]]
    item = content["frames"][8]["objects"][1]
    assert item == {
        "id": 7, "name": "cup", "label": "", "state": "visible", "box": [20, 20, 60, 60], "area": 1600,
        "object_score": 10.0, "predicted_iou": 1.0, "visibility": 1.0, "prompted": True,
    }  # fmt: skip
    assert content["frames"][9]["objects"][1]["prompted"] is False

    capture = cv2.VideoCapture(str(out / "clip.mp4"))
    assert int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) == FRAMES
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(10)
    capture.release()


def test_a_folder_keeps_its_names_and_an_id_above_255_makes_16_bits(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for index, frame in enumerate(render(3, WIDTH, HEIGHT)):
        cv2.imwrite(str(folder / f"{index + 9}.png"), frame.rgb)
    file = prompts(
        tmp_path,
        {"frame": 0, "object_id": 1, "box": [0, 0, 9, 9]},
        {"frame": 2, "object_id": 300, "box": [50, 50, 90, 90]},
    )
    out = tmp_path / "masks"
    assert main(["track", str(folder), "--prompts", file, "--model", "null", "--masks-out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["10.png", "11.png", "9.png"]
    assert all(read_labels(path).dtype == np.uint16 for path in out.iterdir())
    assert np.unique(read_labels(out / "11.png")).tolist() == [0, 1, 300]


@pytest.mark.parametrize(
    ("entry", "options", "message"),
    [
        ({"frame": 0, "object_id": 1, "box": [0, 0, 0, 9]}, [], "entry 0: the box (0, 0, 0, 9)"),
        ({"frame": 12, "object_id": 1, "box": [0, 0, 9, 9]}, [], "a prompt for frame 12"),
        ({"frame": 5, "object_id": 1, "box": [0, 0, 9, 9]}, ["--max-frames", "5"], "--max-frames is 5"),
        ({"frame": 0, "object_id": 1, "box": [0, 0, 9, 9]}, ["--max-frames", "0"], "accepted: more than 0"),
        ({"frame": 1, "object_id": 4, "box": [900, 900, 990, 990]}, [], "object 4 on frame 1: the box (900, "),
        ({"frame": 0, "object_id": 1, "box": [0, 0, 9, 9]}, ["--model", "none.pt"], "none.pt"),
        ({"frame": 0, "object_id": 1, "box": [0, 0, 9, 9]}, ["--video-out", "/dev/null/a.mp4"], "/dev/null"),
    ],
)
def test_a_mistake_ends_with_one_sentence_and_code_2(
    clip: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    entry: dict[str, object],
    options: list[str],
    message: str,
) -> None:
    code = main(["track", str(clip), "--prompts", prompts(tmp_path, entry), "--model", "null", *options])
    errors = capfd.readouterr().err
    assert code == 2
    assert errors.startswith("sam2_ros: error: ") and errors.count("\n") == 1
    assert message in errors


def test_outputs_never_overwrite_inputs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for index, frame in enumerate(render(2, WIDTH, HEIGHT)):
        cv2.imwrite(str(images / f"{index}.png"), frame.rgb)
    (tmp_path / "link").symlink_to(images)
    file = prompts(tmp_path, {"frame": 0, "object_id": 1, "box": [0, 0, 9, 9]})
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    for option, path, what in (
        ("--masks-out", images, "SOURCE"),
        ("--masks-out", tmp_path / "link", "SOURCE"),
        ("--json-out", file, "the --prompts file"),
        ("--video-out", file, "the --prompts file"),
        ("--json-out", images, "SOURCE"),
    ):
        assert main(["track", str(images), "--prompts", file, "--model", "null", option, str(path)]) == 2
        assert f"{option} {path} is {what} itself" in capfd.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


def test_an_output_that_exists_is_replaced_when_the_source_is_no_file(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.mp4"
    out.write_bytes(b"old")
    options = ["--prompts", prompts(tmp_path, {"frame": 0, "object_id": 1, "box": [0, 0, 9, 9]}), "--model", "null"]
    options += ["--video-out", str(out)]
    assert main(["track", "gone.mp4", *options]) == 2
    assert "gone.mp4: no such file or folder; accepted: " in capfd.readouterr().err
    assert out.read_bytes() == b"old"
    monkeypatch.setattr(frame_sources, "Camera", lambda _: frame_sources.VideoFile(clip))
    monkeypatch.chdir(tmp_path)
    assert main(["track", "0", *options]) == 0
    assert len(list(frame_sources.VideoFile(out))) == FRAMES


def test_help_and_version_need_neither_torch_nor_ros() -> None:
    code = (
        "import sys\nfrom sam2_ros.cli.main import main\n"
        "try: main(['track', '--help'])\nexcept SystemExit as end: assert end.code == 0\n"
        "assert not {'torch', 'rclpy', 'cv2', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True)
    version = subprocess.run(
        [sys.executable, "-m", "sam2_ros", "--version"], check=True, timeout=60, capture_output=True, text=True
    )
    assert version.stdout.startswith("sam2_ros 0.")
    unknown = subprocess.run(
        [sys.executable, "-m", "sam2_ros", "fly"], check=False, timeout=60, capture_output=True, text=True
    )
    assert unknown.returncode == 2 and "invalid choice: 'fly'" in unknown.stderr
