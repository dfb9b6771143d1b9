"""``sam2_ros track`` from files to files, with the engine that holds masks still, and its refusals."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from sam2_ros.cli.main import main
from sam2_ros.inference import NullBackend
from sam2_ros.media import clip_outputs, frame_sources, video_writer, whole_files
from sam2_ros.media.label_images import read_labels, write_labels
from sam2_ros.media.rendered_scene import render
from sam2_ros.media.video_writer import VideoWriter
from sam2_ros.media.whole_files import WriteError

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


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Six frames as files, of which a test may spoil one."""
    folder = tmp_path / "images"
    folder.mkdir()
    for index, frame in enumerate(render(6, WIDTH, HEIGHT)):
        cv2.imwrite(str(folder / f"{index:03d}.png"), frame.rgb)
    return folder


BOX = {"frame": 0, "object_id": 1, "box": [10, 20, 50, 60]}


def command(source: Path, folder: Path, *entries: dict[str, object]) -> list[str]:
    return ["track", str(source), "--prompts", prompts(folder, *(entries or (BOX,))), "--model", "null"]


def outputs(folder: Path) -> list[str]:
    """The options for every kind of output, into ``folder``."""
    named = {"masks": "masks", "video": "clip.mp4", "json": "tracks.json", "picture": "story.png"}
    return [word for kind, name in named.items() for word in (f"--{kind}-out", str(folder / name))]


def frames_in(folder: Path) -> tuple[int, int, int]:
    """How many frames label images, video and table hold; the picture can be read."""
    assert cv2.imread(str(folder / "story.png")) is not None
    table = json.loads((folder / "tracks.json").read_text(encoding="utf-8"))
    masks = [path for path in (folder / "masks").iterdir() if read_labels(path).any()]
    return len(masks), len(list(frame_sources.VideoFile(folder / "clip.mp4"))), len(table["frames"])


def test_an_error_in_the_middle_keeps_what_was_tracked(
    images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (images / "004.png").write_bytes(b"")
    assert main([*command(images, tmp_path), *outputs(tmp_path)]) == 2
    printed, errors = capfd.readouterr()
    assert frames_in(tmp_path) == (4, 4, 4)
    assert "4 frames of 160x120, null" in printed
    said = errors.splitlines()
    assert said[0].startswith("sam2_ros: 4 frames tracked; written: ") and said[0].count(str(tmp_path)) == 4
    assert said[1].startswith("sam2_ros: error: ") and "004.png" in said[1] and len(said) == 2


def test_a_fault_in_the_middle_keeps_what_was_tracked(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = NullBackend.step

    def fail(backend: NullBackend, frame: np.ndarray, stamp: int) -> object:
        if stamp > 80_000_000:
            raise RuntimeError("a fault of the engine")
        return step(backend, frame, stamp)

    monkeypatch.setattr(NullBackend, "step", fail)
    with pytest.raises(RuntimeError, match="a fault of the engine"):
        main([*command(images, tmp_path), *outputs(tmp_path)])
    assert frames_in(tmp_path) == (3, 3, 3)


def test_an_output_that_fails_at_the_end_keeps_the_others(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: Path, *_: object) -> None:
        raise WriteError(f"{path} can't be written: the disk is full")

    monkeypatch.setattr(clip_outputs, "write_tracks", refuse)
    assert main([*command(images, tmp_path), *outputs(tmp_path)]) == 2
    printed, errors = capfd.readouterr()
    assert "tracks.json can't be written: the disk is full" in errors and "tracks.json" not in printed
    assert cv2.imread(str(tmp_path / "story.png")) is not None and len(list((tmp_path / "masks").iterdir())) == 6
    assert len(list(frame_sources.VideoFile(tmp_path / "clip.mp4"))) == 6


def test_a_full_disk_is_said_and_the_video_is_not_called_written(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [*command(images, tmp_path), *outputs(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr(whole_files, "RESERVE_BYTES", 1 << 62)
        assert main(words) == 2
        assert "--video-out: " in (errors := capfd.readouterr().err) and "the disk is full" in errors

    def refuse(path: Path) -> None:
        raise WriteError(f"{path} can't be written: the disk is full")

    monkeypatch.setattr(video_writer, "check_space", refuse)
    assert main(words) == 2
    printed, errors = capfd.readouterr()
    assert "clip.mp4 can't be written: the disk is full" in errors and "clip.mp4" not in printed + errors.split("\n")[0]
    assert len(json.loads((tmp_path / "tracks.json").read_text())["frames"]) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_keeps_what_was_tracked(number: signal.Signals, clip: Path, tmp_path: Path) -> None:
    words = command(clip, tmp_path)
    words[words.index("null")] = "null:800"
    process = subprocess.Popen(
        [sys.executable, "-m", "sam2_ros", *words, *outputs(tmp_path)], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "masks").glob("0*.png"))) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 128 + number, errors
    assert "frames tracked; written: " in errors and "Traceback" not in errors
    masks, video, table = frames_in(tmp_path)
    assert 3 <= masks < FRAMES and masks - 1 <= video <= masks and masks - 1 <= table <= masks


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--json-out", "folder"], "--json-out: folder is a folder; give the path of a file"),
        (["--json-out", "prompts.json/a.json"], "--json-out: prompts.json/a.json can't be written"),
        (["--picture-out", "pic"], "--picture-out is pic; accepted: a name that ends in .png"),
        (["--video-out", "a.txt"], "--video-out is a.txt; accepted: a name that ends in .mp4, .gif, .webp"),
        (["--masks-out", "prompts.json"], "--masks-out prompts.json is the --prompts file itself"),
        (["--masks-out", "file"], "--masks-out file is a file; give the path of a folder"),
        (["--json-out", "a", "--masks-out", "folder/../a"], "--masks-out and --json-out are both folder/../a"),
        (["--picture-out", "images/story.png"], "--picture-out images/story.png would be a frame of SOURCE"),
        (["--json-out", "images/000.png"], "--json-out images/000.png would be a frame of SOURCE"),
        (["--masks-out", "folder"], "--masks-out folder holds a picture of the prompts (mask.png); use another folder"),
        (["--json-out", "folder/mask.png"], "--json-out folder/mask.png is a picture of the prompts itself"),
        (["--fps", "nan"], "--fps is nan; accepted: more than 0"),
        (["--fps", "inf"], "--fps is inf; accepted: more than 0"),
        (["--fps", "1e9"], "--fps is 1e+09; accepted: 0.1 to 1000 frames a second"),
    ],
)
def test_what_cannot_end_well_is_refused_before_the_first_frame(
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    write_labels(tmp_path / "folder" / "mask.png", np.ones((HEIGHT, WIDTH), np.uint8))
    words = command(Path("images"), Path(), {"frame": 0, "object_id": 1, "mask": "folder/mask.png"})
    if options[1].startswith("images/0"):
        words[1] = "images/%03d.png"
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    monkeypatch.setattr(NullBackend, "step", lambda *_: pytest.fail("a frame was tracked"))
    assert main([*words, *options]) == 2
    errors = capfd.readouterr().err
    assert message in errors and errors.count("\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"frame": 4, "object_id": 2, "mask": "small.png"}, "object 2 on frame 4: the mask is 80 x 60 pixels"),
        ({"frame": 4, "object_id": 2, "box": [900, 900, 990, 990]}, "object 2 on frame 4: the box (900, "),
        ({"frame": 4, "object_id": 2, "points": [[5, 5]], "labels": [0]}, "a new object needs a positive point"),
    ],
)
def test_prompts_are_checked_against_the_first_frame(
    images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], entry: dict[str, object], message: str
) -> None:
    write_labels(tmp_path / "small.png", np.ones((60, 80), np.uint8))
    assert main([*command(images, tmp_path, BOX, entry), *outputs(tmp_path)]) == 2
    errors = capfd.readouterr().err
    assert message in errors and errors.count("\n") == 1
    assert not (tmp_path / "tracks.json").exists() and not list((tmp_path / "masks").iterdir())


def test_a_negative_click_may_correct_an_object(images: Path, tmp_path: Path) -> None:
    correction = {"frame": 2, "object_id": 1, "points": [[5, 5]], "labels": [0], "box": [10, 20, 40, 60]}
    assert main(command(images, tmp_path, BOX, correction)) == 0


def test_a_shorter_run_leaves_no_masks_of_the_one_before(
    images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    masks, words = tmp_path / "masks", command(images, tmp_path)
    assert main([*words, "--masks-out", str(masks)]) == 0
    (masks / ".000.77.part.png").write_bytes(b"of a killed run")
    assert main([*words, "--masks-out", str(masks), "--max-frames", "2"]) == 0
    assert "removed: 6 label images of the run before" in capfd.readouterr().out
    assert sorted(path.name for path in masks.iterdir()) == ["000.png", "001.png"]

    images.rename(tmp_path / "others")  # another source, and an image that someone edited
    assert main([*command(tmp_path / "others", tmp_path), "--masks-out", str(masks)]) == 2
    assert f"holds 000.png, which no earlier run on {tmp_path / 'others'} wrote" in capfd.readouterr().err
    (tmp_path / "others").rename(images)
    write_labels(masks / "001.png", read_labels(masks / "001.png"))
    assert main([*words, "--masks-out", str(masks)]) == 2
    assert "holds 001.png" in capfd.readouterr().err
    assert sorted(path.name for path in masks.iterdir()) == ["000.png", "001.png"]


def test_the_given_frame_rate_replaces_that_of_the_file(clip: Path, tmp_path: Path) -> None:
    table = tmp_path / "tracks.json"
    assert main([*command(clip, tmp_path), "--fps", "4", "--max-frames", "3", "--json-out", str(table)]) == 0
    content = json.loads(table.read_text(encoding="utf-8"))
    assert content["fps"] == 4.0
    assert [frame["stamp"] for frame in content["frames"]] == [0, 250_000_000, 500_000_000]


def test_live_writes_for_every_frame_what_was_known_when_it_came(clip: Path, tmp_path: Path) -> None:
    file = prompts(tmp_path, {"frame": 0, "object_id": 7, "box": [10, 20, 50, 60]})
    out = tmp_path / "tracks.json"
    command = ["track", str(clip), "--prompts", file, "--model", "null", "--json-out", str(out)]
    assert main([*command, "--masks-out", str(tmp_path / "masks"), "--live", "10", "--latency", "0.25"]) == 0
    frames = json.loads(out.read_text(encoding="utf-8"))["frames"]
    assert len(frames) == FRAMES == len(list((tmp_path / "masks").iterdir()))
    # Frame 0 is answered at 0.25 s, so frame 3 is the first one with a mask.
    assert [len(frame["objects"]) for frame in frames] == [0, 0, 0] + [1] * (FRAMES - 3)
    assert not any(item["prompted"] for frame in frames for item in frame["objects"])


def test_live_says_which_prompt_came_too_late(clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    boxes = [{"frame": frame, "object_id": 7, "box": [10, 20, 50, 60]} for frame in (0, FRAMES - 1)]
    command = ["track", str(clip), "--prompts", prompts(tmp_path, *boxes), "--model", "null", "--live", "10"]
    assert main([*command, "--latency", "60"]) == 2
    told = capfd.readouterr().err
    assert f"a prompt for frame {FRAMES - 1}, but {clip} ended before the engine was free for it" in told


@pytest.mark.parametrize(
    ("options", "words"), [(["--latency", "1"], "--latency belongs to --live"), (["--live", "-3"], "--live is -3.0")]
)
def test_live_options_are_checked(
    clip: Path, tmp_path: Path, options: list[str], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    file = prompts(tmp_path, {"frame": 0, "object_id": 7, "box": [10, 20, 50, 60]})
    assert main(["track", str(clip), "--prompts", file, "--model", "null", *options]) == 2
    assert words in capfd.readouterr().err
