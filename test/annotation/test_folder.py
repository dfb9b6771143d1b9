"""A data set belongs to one program at a time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sam2_ros.annotation.folder import LOCK, in_use
from sam2_ros.media.errors import UserError

_HOLD = """
import sys
from pathlib import Path
from sam2_ros.annotation.folder import in_use
with in_use(Path(sys.argv[1]), "review"):
    print("has it", flush=True)
    sys.stdin.read()
"""


def held(folder: Path) -> subprocess.Popen[str]:
    """Another process that works on the folder until its input ends."""
    command = [sys.executable, "-c", _HOLD, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "has it\n"
    return process


def test_a_second_program_is_told_who_works_on_the_folder(tmp_path: Path) -> None:
    other = held(tmp_path)
    said = rf"is in use by sam2_ros review, process {other.pid} on .+; end that, then run this again"
    for _ in range(2):
        with pytest.raises(UserError, match=said), in_use(tmp_path, "annotate"):
            pass
    other.communicate("")
    with in_use(tmp_path, "annotate"):
        assert (tmp_path / LOCK).read_text().startswith(f"sam2_ros annotate, process {os.getpid()} on ")
    assert not any(tmp_path.iterdir())


def test_a_program_that_was_killed_has_let_go(tmp_path: Path) -> None:
    other = held(tmp_path)
    other.kill()
    other.communicate()
    assert (tmp_path / LOCK).exists()
    with in_use(tmp_path, "review"), pytest.raises(UserError, match="sam2_ros review"), in_use(tmp_path, "annotate"):
        pass


def test_another_user_is_told_too() -> None:
    """In a folder that both may write, where the lock's file belongs to the first."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    other = held(folder)
    (folder / LOCK).chmod(0o444)
    user = os.geteuid()
    try:
        if not user:
            os.seteuid(65534)  # root may open everything
        with pytest.raises(UserError, match="is in use by sam2_ros review"), in_use(folder, "annotate"):
            pass
    finally:
        os.seteuid(user)
        other.communicate("")
        shutil.rmtree(folder)


def test_a_folder_that_is_none_is_told_and_not_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("none", "file"):
        with pytest.raises(UserError, match=f"{name}: no such folder"), in_use(tmp_path / name, "review"):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
