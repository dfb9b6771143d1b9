"""A file where a command wants a folder for its outputs: refused before any work, and kept."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from sam2_ros.cli.main import main


@pytest.mark.parametrize(
    "command",
    [
        "segment image.png --box 1,2,30,40 --out FILE",
        "annotate image --detector everything --out FILE",
        "eval davis --model null --prompt box --out FILE",
        "synthesize FILE --twins --clips 1",
        "export embedded --out FILE",
        "train --model embedded --data davis --steps 1 --out FILE",
        "keys new robot --dir FILE",
        "download tiny --dir FILE",
    ],
)
def test_a_file_is_no_folder(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    image = np.zeros((48, 64, 3), np.uint8)
    for name in ("image.png", "image/0.png", "davis/JPEGImages/a/00000.jpg", "davis/Annotations/a/00000.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(name, image + np.uint8(255 * (np.arange(64) > 40))[:, None])
    Path("FILE").write_text("mine")
    assert main(command.split()) == 2
    assert "FILE is a file; give a folder" in capsys.readouterr().err
    assert Path("FILE").read_text() == "mine"
