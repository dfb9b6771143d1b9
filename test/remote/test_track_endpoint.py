"""``sam2_ros track --endpoint`` writes the same files as a local run, byte for byte."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from served import LOCAL, ServerProcess

from sam2_ros.cli.main import main
from sam2_ros.media.rendered_scene import render

FRAMES = 4


@pytest.mark.parametrize("pixels", ["raw", "shm"])
def test_masks_are_byte_identical(tmp_path: Path, pixels: str) -> None:
    clip = tmp_path / "clip"
    clip.mkdir()
    for index, frame in enumerate(render(FRAMES, 160, 120)):
        Image.fromarray(frame.rgb).save(clip / f"{index:05d}.png")
    prompts = tmp_path / "prompts.json"
    prompts.write_text(
        json.dumps([{"frame": 0, "object_id": 4, "box": [15, 60, 40, 100]}, {"frame": 2, "object_id": 7,
                     "points": [[90, 60]], "labels": [1]}])
    )  # fmt: skip
    command = ["track", str(clip), "--prompts", str(prompts), "--quiet", "--masks-out"]
    assert main([*command, str(tmp_path / "here")]) == 0
    with ServerProcess("--bind", LOCAL, model="embedded") as server:
        options = ["--endpoint", server.endpoint, "--pixels", pixels]
        assert main([*command, str(tmp_path / "there"), *options]) == 0
    here, there = (sorted((tmp_path / name).glob("*.png")) for name in ("here", "there"))
    assert [path.name for path in here] == [path.name for path in there] and len(here) == FRAMES
    assert [path.read_bytes() for path in here] == [path.read_bytes() for path in there]
    assert any(Image.open(path).getbbox() for path in here), "there is something to compare"


def test_a_server_that_is_not_there_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = tmp_path / "prompts.json"
    prompts.write_text('[{"frame": 0, "object_id": 1, "box": [1, 1, 9, 9]}]')
    Image.new("RGB", (32, 32)).save(tmp_path / "0.png")
    command = ["track", str(tmp_path), "--prompts", str(prompts), "--endpoint", f"ipc://{tmp_path}/nobody"]
    assert main(command) == 2
    assert "no inference server" in capsys.readouterr().err
