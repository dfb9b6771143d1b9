"""``sam2_ros track --endpoint`` writes the same files as a local run, byte for byte."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from served import LOCAL, ServerProcess

from sam2_ros.cli import track
from sam2_ros.cli.main import main
from sam2_ros.media.rendered_scene import render
from sam2_ros.remote.client import RemoteBackend

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
    assert main([*command[:-1], "127.0.0.1:5555"]) == 2
    assert "--endpoint is '127.0.0.1:5555'; accepted: tcp://HOST:PORT" in capsys.readouterr().err
    assert main([*command, "--model", "tiny"]) == 2
    assert "--model does not go with --endpoint; give it to the server" in capsys.readouterr().err


def before_call(monkeypatch: pytest.MonkeyPatch, method: str, number: int, act: Callable[[], object]) -> None:
    """Has ``act`` called before the ``number``-th call of a method of the client."""
    original, calls = getattr(RemoteBackend, method), []

    def wrapper(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == number:
            act()
        return original(*args)

    monkeypatch.setattr(RemoteBackend, method, wrapper)


def small_clip(folder: Path) -> list[str]:
    """The words that track eight frames: one object from the first, one from the fifth, which then is corrected."""
    (folder / "clip").mkdir()
    for index, frame in enumerate(render(8, 160, 120)):
        Image.fromarray(frame.rgb).save(folder / "clip" / f"{index}.png")
    boxes = ((0, 4, [15, 60, 40, 100]), (4, 7, [60, 20, 90, 60]), (4, 7, [50, 20, 90, 60]))
    entries = [{"frame": frame, "object_id": number, "box": box} for frame, number, box in boxes]
    (folder / "prompts.json").write_text(json.dumps(entries))
    words = ["track", str(folder / "clip"), "--prompts", str(folder / "prompts.json"), "--quiet"]
    return [*words, "--masks-out", str(folder / "masks"), "--json-out", str(folder / "tracks.json")]


@pytest.mark.parametrize(("method", "number"), [("step", 4), ("add", 1), ("add", 3)])
def test_the_next_server_goes_on_with_the_same_objects(
    method: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = small_clip(tmp_path)
    with ServerProcess("--bind", LOCAL) as first, ServerProcess("--bind", LOCAL) as second:
        before_call(monkeypatch, method, number, first.kill)
        assert main([*words, "--endpoint", first.endpoint, "--endpoint", second.endpoint]) == 0
    frames = json.loads((tmp_path / "tracks.json").read_text())["frames"]
    assert [[obj["id"] for obj in frame["objects"]] for frame in frames] == [[4]] * 4 + [[4, 7]] * 4
    assert {tuple(obj["box"]) for frame in frames for obj in frame["objects"]} == {(15, 60, 40, 100), (50, 20, 90, 60)}
    assert len(list((tmp_path / "masks").iterdir())) == 8


def test_without_another_server_the_tracked_frames_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = small_clip(tmp_path)
    monkeypatch.setattr(track, "SERVER_PATIENCE", 0.5)
    with ServerProcess("--bind", LOCAL) as server:
        before_call(monkeypatch, "step", 4, server.kill)
        assert main([*words, "--endpoint", server.endpoint]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("sam2_ros: 3 frames tracked; written: ")
    assert said[1].startswith("sam2_ros: error: frame 3 (3) was not tracked: no inference server: ") and len(said) == 2
    assert len(json.loads((tmp_path / "tracks.json").read_text())["frames"]) == 3
    assert len(list((tmp_path / "masks").iterdir())) == 3
