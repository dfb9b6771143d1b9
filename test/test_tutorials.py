"""The tutorials run as they stand in the documents: their commands in one shell, in an empty folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from sam2_ros.tools.masks import read_labels

pytest.importorskip("torch", reason="the embedded model needs torch")

ROOT = Path(__file__).resolve().parent.parent
TUTORIALS = ROOT / "docs" / "tutorials"
MARK = "--- end of block"


def run(tutorial: Path, folder: Path) -> int:
    """Runs every ``bash`` block; what a ``text`` block shows must be what the block before it wrote to stdout."""
    blocks = re.findall(r"^```(bash|text)\n(.*?)^```", tutorial.read_text("utf-8"), re.M | re.S)
    commands = [text for language, text in blocks if language == "bash"]
    script = "set -euo pipefail\n" + "".join(f"{text}echo '{MARK}'\n" for text in commands)
    # no colon in front of the old value where there is none: that would put the working folder on the path
    python_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "PYTHONPATH": python_path}
    done = subprocess.run(["bash", "-c", script], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    outputs = iter(done.stdout.split(f"{MARK}\n"))
    compared, output = 0, ""
    for language, text in blocks:
        if language == "bash":
            output = next(outputs)
        else:
            assert output.endswith(text)
            compared += 1
    return compared


def test_video_file(tmp_path: Path) -> None:
    assert run(TUTORIALS / "video_file.md", tmp_path) == 2
    labels = [read_labels(path) for path in sorted((tmp_path / "masks").glob("*.png"))]
    assert len(labels) == 24
    assert set(np.unique(labels[0])) == {0, 1, 2}
    assert not all((frame == 1).any() for frame in labels)  # the ball was hidden
    assert cv2.VideoCapture(str(tmp_path / "tracked.mp4")).read()[0]
    assert cv2.imread(str(tmp_path / "run.png")) is not None


def test_every_tutorial_is_run() -> None:
    text = Path(__file__).read_text("utf-8")
    assert all(f'"{path.name}"' in text for path in TUTORIALS.glob("*.md"))
