"""``sam2_ros synthesize``: photographs in, labelled clips in the layout of DAVIS out."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from sam2_ros.cli.main import main


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
    file = "JPEGImages/clip0001/00003.jpg"
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


def test_what_is_there_is_not_overwritten(photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert make(tmp_path / "out", photographs) == 0
    assert make(tmp_path / "out", photographs) == 2
    assert "holds clips already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--steps", "3"], "--steps is 3; accepted: 8 or more"),
        (["--objects", "3", "2"], "--objects MAX is 2; accepted: 3 or more"),
        (["--photographs", "nowhere"], "holds no labelled photographs; accepted: images/ with annotations.json"),
    ],
)
def test_wrong_options_are_refused(
    options: list[str], complaint: str, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert make(tmp_path / "out", photographs, *options) == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
