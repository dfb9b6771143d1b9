"""All that the setup downloads is pinned and hashed, and can be compared with advisories without a network."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import audit
import locks
import pytest

ALL = [*locks.LOCKS, locks.CPU_LOCK]
FILES = [*map(locks.path_of, ALL), *(locks.REQUIREMENTS / f"{name}.txt" for name in audit.BY_HAND)]


@pytest.mark.parametrize("lock", ALL)
def test_a_lock_belongs_to_its_requirements(lock: str) -> None:
    assert locks.is_current(lock), "run: make lock"
    names = {re.split(r"[^A-Za-z0-9._-]", line)[0] for line in locks.requirements(lock)}
    assert {locks.normalised(name) for name in names} <= {entry.name for entry in locks.entries(locks.path_of(lock))}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_package_is_pinned_and_hashed(file: Path) -> None:
    joined = re.sub(r"\s*\\\n\s*", " ", file.read_text())
    lines = [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]
    assert lines
    for line in lines:
        assert re.match(r"[A-Za-z0-9._-]+==[^\s;]+( ;.*?)?( --hash=sha256:[0-9a-f]{64})+$", line), line[:80]


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    chosen = locks.entries(locks.path_of("torch"))
    locks.write(tmp_path / "lock.txt", chosen, "# first line")
    assert locks.entries(tmp_path / "lock.txt") == chosen
    assert (tmp_path / "lock.txt").read_text().splitlines()[1:] == locks.path_of("torch").read_text().splitlines()[1:]


def test_the_lock_for_cpus_has_torch_only_as_the_build_for_cpus() -> None:
    chosen = locks.entries(locks.path_of(locks.CPU_LOCK))
    assert not any(entry.name.startswith(("nvidia-", "cuda-", "triton")) for entry in chosen)
    torch = {entry.version: entry.text for entry in chosen if entry.name == "torch"}
    (plain,) = (version for version in torch if "+" not in version)
    assert set(torch) == {plain, f"{plain}+cpu"}
    assert "sys_platform == 'linux'" in torch[f"{plain}+cpu"] and "sys_platform != 'linux'" in torch[plain]


def advisory(name: str, number: str = "PYSEC-1", **affected: Any) -> dict[str, Any]:
    return {"id": number, "summary": "bad", "affected": [{"package": {"ecosystem": "PyPI", "name": name}, **affected}]}


def ranges(*events: dict[str, str]) -> list[dict[str, Any]]:
    return [{"type": "ECOSYSTEM", "events": list(events)}]


@pytest.mark.parametrize(
    ("affected", "is_named"),
    [
        ({"versions": ["2.13.0"]}, True),
        ({"versions": ["2.12.0"]}, False),
        ({"ranges": ranges({"introduced": "0"}, {"fixed": "2.10.0"})}, False),
        ({"ranges": ranges({"introduced": "0"}, {"fixed": "2.13.1"})}, True),
        ({"ranges": ranges({"introduced": "0"}, {"last_affected": "2.13.0"})}, True),
        ({"ranges": ranges({"introduced": "0"}, {"last_affected": "2.12.9"})}, False),
        ({"ranges": ranges({"introduced": "0"}, {"fixed": "2.6"}, {"introduced": "2.13"}, {"fixed": "3"})}, True),
        ({"ranges": ranges({"introduced": "0"})}, True),
        ({"ranges": ranges({"introduced": "2.13.1"})}, False),
        ({"ranges": [{"type": "GIT", "events": [{"introduced": "0"}]}]}, False),
    ],
)
def test_ranges_of_versions(affected: dict[str, Any], is_named: bool) -> None:
    locked = [locks.Entry("torch", "2.13.0+cpu", "")]
    assert bool(audit.audit(locked, [advisory("Torch", **affected)])) is is_named
    assert not audit.audit(locked, [advisory("other", **affected)])
    assert not audit.audit(locked, [advisory("torch", **affected) | {"withdrawn": "2026-01-01T00:00:00Z"}])


@pytest.mark.parametrize("kind", ["file", "folder", "zip", "yaml"])
def test_advisories_come_in_a_file(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    everything = [advisory("numpy", "PYSEC-7", ranges=ranges({"introduced": "0"})), advisory("numpy-like", "PYSEC-8")]
    folder = tmp_path / "vulns"
    folder.mkdir()
    for number, record in enumerate(everything):
        (folder / f"{number}.{'yaml' if kind == 'yaml' else 'json'}").write_text(json.dumps(record))
    path = folder
    if kind == "file":
        path = tmp_path / "all.json"
        path.write_text(json.dumps(everything))
    elif kind == "zip":
        path = tmp_path / "all.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for file in folder.iterdir():
                archive.write(file, file.name)
    assert audit.main([str(path)]) == 1
    said = capsys.readouterr().out
    assert said.startswith("numpy ") and "PYSEC-7: bad" in said and "PYSEC-8" not in said
    assert audit.main([str(path), "--ignore", "PYSEC-7"]) == 0


@pytest.mark.parametrize(
    ("text", "words"), [(None, "can't be read"), ("[]", "no advisories"), ("[3]", "OSV's format"), ("{", "no advisory")]
)
def test_what_is_no_advisory_is_said(
    tmp_path: Path, text: str | None, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "all.json"
    if text is not None:
        path.write_text(text)
    assert audit.main([str(path)]) == 2
    assert words in capsys.readouterr().err
