"""``sam2_ros synthesize``: photographs in, labelled clips in the layout of DAVIS out."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from sam2_ros.cli.main import main
from sam2_ros.evaluation.kinds import KINDS
from sam2_ros.media.errors import UserError
from sam2_ros.training import clip_folder
from sam2_ros.training.clip_folder import check_split
from sam2_ros.training.clips import ClipSettings
from sam2_ros.training.data.draw import open_data


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Two photographs with a square each, in YOLO's polygons."""
    root = tmp_path / "photographs"
    (root / "images").mkdir(parents=True)
    (root / "labels").mkdir()
    for name, color in (("a", (20, 20, 230)), ("b", (20, 230, 20))):
        image = np.full((120, 160, 3), 90, np.uint8)
        image[30:90, 40:120] = color
        cv2.imwrite(str(root / "images" / f"{name}.png"), image)
        (root / "labels" / f"{name}.txt").write_text("0 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75\n")
    return root


def make(out: Path, photographs: Path, *options: str) -> int:
    sizes = ["--clips", "2", "--steps", "8", "--size", "96", "--quiet"]
    return main(["synthesize", str(out), "--photographs", str(photographs), *sizes, *options])


def test_clips_are_written_and_the_seed_decides(photographs: Path, tmp_path: Path) -> None:
    for name, seed in (("one", "5"), ("same", "5"), ("other", "6")):
        assert make(tmp_path / name, photographs, "--seed", seed) == 0
    one = tmp_path / "one"
    for clip in ("clip0000", "clip0001"):
        frames = sorted(path.stem for path in (one / "JPEGImages" / clip).glob("*.jpg"))
        labels = sorted((one / "Annotations" / clip).glob("*.png"))
        assert frames == [path.stem for path in labels] == [f"{t:05d}" for t in range(8)]
        values = {int(v) for path in labels for v in np.unique(np.asarray(Image.open(path)))}
        assert values - {0} and values <= {0, 1, 2, 3, 4}
    assert json.loads((one / "synthesize.json").read_text())["seed"] == 5
    assert cv2.imread(str(one / "preview.png")) is not None
    file = "JPEGImages/clip0001/00002.jpg"
    assert (one / file).read_bytes() == (tmp_path / "same" / file).read_bytes()
    assert (one / file).read_bytes() != (tmp_path / "other" / file).read_bytes()


def test_twins_need_no_photographs_and_eval_counts_their_switches(tmp_path: Path) -> None:
    out = tmp_path / "twins"
    options = ["--twins", "--clips", "1", "--steps", "24", "--size", "160", "--seed", "12", "--quiet"]
    assert main(["synthesize", str(out), *options]) == 0
    assert json.loads((out / "synthesize.json").read_text())["twins"] is True
    assert main(["eval", str(out), "--model", "null", "--out", str(tmp_path / "eval"), "--quiet"]) == 0
    report = json.loads((tmp_path / "eval" / "report.json").read_text())
    assert report["objects_scored"] == 2
    # With this seed each twin ends where the other one began, and these masks stand still.
    assert report["identity_switches"] == 2


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rendered clip of plain shapes, to which two more were added later."""
    pytest.importorskip("mujoco", reason="renders the scenes: pip install mujoco")
    from sam2_ros.simulation.scenes.offscreen import Offscreen

    try:
        Offscreen(16, 16).close()
    except UserError as error:
        pytest.skip(str(error))
    out = tmp_path_factory.mktemp("scenes") / "choose"
    assert render(out, "--clips", "1") == 0
    first = out / "JPEGImages" / "scene00000" / "00002.jpg"
    written = first.stat().st_mtime_ns
    assert render(out, "--clips", "3", "--jobs", "2") == 0
    assert first.stat().st_mtime_ns == written, "a clip that was there was rendered again"
    return out


def render(out: Path, *options: str) -> int:
    small = ["--size", "128", "96", "--steps", "3", "--split", "choose", "--seed", "11", "--quiet"]
    return main(["synthesize", str(out), "--scenes", *small, *options])


def test_scenes_are_the_same_whichever_process_renders_them(scenes: Path, tmp_path: Path) -> None:
    assert render(tmp_path / "again", "--clips", "2") == 0
    for file in ("JPEGImages/scene00001/00002.jpg", "Annotations/scene00001/00002.png", "Scenes/scene00001.json"):
        assert (scenes / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
    assert len(list((scenes / "Annotations").glob("*/*.png"))) == 9
    assert cv2.imread(str(scenes / "preview.png")) is not None


def test_scenes_of_other_settings_are_not_mixed(scenes: Path, capsys: pytest.CaptureFixture) -> None:
    assert render(scenes, "--seed", "12") == 2
    assert "holds clips of other settings (seed differ)" in capsys.readouterr().err


def test_eval_reports_scenes_by_kind(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["eval", str(scenes), "--model", "null", "--out", str(tmp_path / "eval")]) == 0
    report = json.loads((tmp_path / "eval" / "report.json").read_text())
    labelled = [obj for path in (scenes / "Scenes").iterdir() for obj in json.loads(path.read_text())["objects"]]
    kinds = report["kinds"]
    assert sum(kinds[kind]["objects"] for kind in KINDS if kind in kinds) == report["objects_scored"] > 0
    assert report["objects_scored"] <= len(labelled)
    assert "present recall" in capsys.readouterr().out


def test_scenes_to_choose_by_are_not_trained_on(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    settings = ClipSettings(64, length=3)
    with pytest.raises(ValueError, match="split 'choose', which are not for training; accepted: train"):
        open_data(scenes, settings)
    for folder in ("JPEGImages", "Annotations"):
        (tmp_path / folder).symlink_to(scenes / folder)
    (tmp_path / "synthesize.json").write_text('{"split": "train"}')
    clip = open_data(tmp_path, settings).draw(np.random.default_rng(0))
    assert clip is not None and clip.frames.shape == (3, 64, 64, 3) and clip.labels.any()
    check_split(scenes, "--val", "train", "choose")


def test_what_is_there_is_not_overwritten(photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert make(tmp_path / "out", photographs) == 0
    assert make(tmp_path / "out", photographs) == 2
    assert "holds clips already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--steps", "3"], "--steps is 3; accepted: 8 or more"),
        (["--objects", "3", "2"], "--objects MAX is 2; accepted: 3 or more"),
        (["--split", "report"], "--split belongs to --scenes"),
        (["--photographs", "nowhere"], "holds no labelled photographs; accepted: images/ with annotations.json"),
    ],
)
def test_wrong_options_are_refused(
    options: list[str], complaint: str, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert make(tmp_path / "out", photographs, *options) == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_scenes_refuse_options_of_photographs(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["synthesize", str(tmp_path / "out"), "--scenes", "--look-alikes", "1"]) == 2
    assert "--look-alikes belongs to --photographs" in capsys.readouterr().err


def test_an_error_leaves_no_half_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = clip_folder.write_labels

    def fail_late(path: Path, labels: np.ndarray) -> None:
        if path.parts[-2:] == ("clip0001", "00003.png"):
            raise KeyboardInterrupt
        written(path, labels)

    monkeypatch.setattr(clip_folder, "write_labels", fail_late)
    words = ["synthesize", str(tmp_path / "out"), "--twins", "--clips", "3", "--steps", "8", "--size", "96", "--quiet"]
    assert main(words) == 130
    for folder in ("JPEGImages", "Annotations"):
        assert [path.name for path in (tmp_path / "out" / folder).iterdir()] == ["clip0000"]
