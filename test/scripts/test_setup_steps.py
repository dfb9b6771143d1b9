"""The setup runs what changed, skips the rest, and shows why a command failed."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from unittest import mock

import locks
import pytest
import ros_python
import setup_env
from steps import Console, Step, StepError, digest


@pytest.fixture
def console(tmp_path: Path) -> Console:
    return Console(tmp_path / "log" / "setup.log")


def stamps(folder: Path) -> Path:
    path = folder / "stamps"
    path.mkdir(exist_ok=True)
    return path


def test_a_step_runs_again_only_with_another_key(console: Console, tmp_path: Path) -> None:
    ran: list[str] = []
    source = tmp_path / "source"
    source.write_text("one")

    def steps() -> list[Step]:
        first = digest([source])
        return [
            Step("first", "first", first, lambda: ran.append("first")),
            Step("second", "second", digest([first, "more"]), lambda: ran.append("second")),
            Step("other", "other", digest(["nothing to do with it"]), lambda: ran.append("other")),
        ]

    assert console.run_steps(steps(), stamps(tmp_path), "Setting up.")
    assert ran == ["first", "second", "other"]
    assert not console.run_steps(steps(), stamps(tmp_path), "Setting up.")
    source.write_text("two")
    assert console.run_steps(steps(), stamps(tmp_path), "Setting up.")
    assert ran == ["first", "second", "other", "first", "second"]


def test_a_failed_step_is_run_again(console: Console, tmp_path: Path) -> None:
    attempts: list[int] = []

    def work() -> None:
        attempts.append(1)
        if len(attempts) == 1:
            raise StepError("the first attempt fails")

    step = Step("work", "work", "key", work)
    with pytest.raises(StepError):
        console.run_steps([step], stamps(tmp_path), "Setting up.")
    assert console.run_steps([step], stamps(tmp_path), "Setting up.")
    assert len(attempts) == 2


def test_downloads_are_named_before_anything_runs(
    console: Console, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed_before: list[str] = []
    step = Step("get", "get it", "key", lambda: printed_before.append(capsys.readouterr().out), "a file, 5 MB, BSD")
    console.run_steps([step], stamps(tmp_path), "Setting up.")
    assert "a file, 5 MB, BSD" in printed_before[0]


def test_a_failed_command_shows_the_end_of_its_output(console: Console, tmp_path: Path) -> None:
    console.log.parent.mkdir()
    code = "for n in range(100): print('line', n)\nraise SystemExit(3)"
    with pytest.raises(StepError) as failure:
        console.run([sys.executable, "-c", code], os.environ, tmp_path, hint="Try another one.")
    message = str(failure.value)
    assert "status 3" in message and "line 99" in message and "line 5\n" not in message
    assert "Try another one." in message and str(console.log) in message
    assert "line 5\n" in console.log.read_text()


def test_a_missing_command_says_what_to_install(console: Console, tmp_path: Path) -> None:
    console.log.parent.mkdir()
    with pytest.raises(StepError, match=r"no-such-tool is not installed\. Get it\."):
        console.run(["no-such-tool"], os.environ, tmp_path, hint="Get it.")


def test_beside_a_distribution_the_missing_packages_are_found_on_the_same_index(tmp_path: Path) -> None:
    setup = setup_env.Setup("jazzy", "-test", True, setup_env.TORCH_VERSION, "")
    setup.venv, setup.python, calls = tmp_path, Path(sys.executable), []

    def pip(*words: object, hint: str = "", **_: str) -> None:
        calls.append([str(word) for word in words])
        if "--dry-run" in words:
            missing = {"install": [{"metadata": {"name": "torch"}}]}
            (tmp_path / "torch-cpu-report.json").write_text(json.dumps(missing))

    with mock.patch.object(setup, "pip", pip):
        setup.install_locked("torch-cpu", "--extra-index-url", "https://example.org")
    assert ["--dry-run" in words for words in calls] == [True, False]
    for words in calls:
        assert words[words.index("--extra-index-url") + 1] == "https://example.org"


@pytest.mark.parametrize(
    ("index", "gpu", "options"),
    [
        ("", False, ["--extra-index-url", locks.CPU_INDEX]),
        ("", True, []),
        ("https://example.org", False, ["--index-url", "https://example.org"]),
    ],
)
def test_another_torch_without_a_gpu_is_its_build_for_cpus_too(index: str, gpu: bool, options: list[str]) -> None:
    setup = setup_env.Setup("jazzy", "-test", False, "2.0.1", index)
    setup.gpu = gpu
    with mock.patch.object(setup, "pip") as pip, mock.patch.object(setup_env, "answers", lambda url: True):
        setup.install_torch()
    assert pip.call_args_list[0].args == ("install", *options, "torch==2.0.1")


def test_include_paths_of_another_machine_are_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "share" / "some_msgs" / "cmake"
    folder.mkdir(parents=True)
    exported = folder / "export_some_msgs__rosidl_generator_pyExport.cmake"
    text = (
        'INCLUDES "/opt/p/include/python3.11;/opt/p/lib/python3.11/site-packages/numpy/_core/include;${_P}/include/x"'
    )
    exported.write_text(text)
    assert ros_python.patch_include_paths(tmp_path, "/usr/include/python3.12", "/venv/numpy/include") == 1
    assert exported.read_text() == 'INCLUDES "/usr/include/python3.12;/venv/numpy/include;${_P}/include/x"'
    assert ros_python.patch_include_paths(tmp_path, "/usr/include/python3.12", "/venv/numpy/include") == 0
