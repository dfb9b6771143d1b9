"""The command that changes modules counts right: what tests notice, what they do not, and what hangs."""

from __future__ import annotations

import sys
from pathlib import Path

import mutate
import pytest

SOURCE = "def larger(a, b):\n    return a > b\n\n\ndef countdown(n):\n    while n:\n        n -= 1\n    return n\n"
TESTS = (
    "from toy import countdown, larger\n\n\ndef test_toy():\n    assert larger(2, 1)\n    assert countdown(2) == 0\n"
)


def change(old: str, new: str) -> mutate.Mutant:
    return mutate.Mutant("toy.py", 1, f"{old}  ->  {new}", SOURCE.replace(old, new))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "toy.py").write_text(SOURCE)
    (folder / "test_toy.py").write_text(TESTS)
    return folder


def workshop(root: Path, name: str, python: str = sys.executable) -> mutate.Workshop:
    (root.parent / name).mkdir()
    return mutate.Workshop(root, root.parent / name, root.parent / "results.jsonl", python)


def test_changes_are_caught_or_survive(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = workshop(root, "first")
    wrong, unseen, hangs = change("a > b", "a < b"), change("a > b", "a >= b"), change("n -= 1", "n -= 0")
    assert first.is_caught(wrong, ["test_toy.py"])
    assert not first.is_caught(unseen, ["test_toy.py"])
    monkeypatch.setattr(mutate, "LEAST_TIME", 5.0)
    monkeypatch.setattr(mutate, "TIMES_AS_LONG", 0)
    assert first.is_caught(hangs, ["test_toy.py"])
    assert (root / "toy.py").read_text() == (first.folder / "toy.py").read_text() == SOURCE

    # another run knows it already, and starts nothing
    again = workshop(root, "again", python="/no/python")
    assert [again.is_caught(each, ["test_toy.py"]) for each in (wrong, unseen, hangs)] == [True, False, True]

    # until the tests are others
    (root / "test_toy.py").write_text(TESTS + "    assert not larger(1, 1)\n")
    assert workshop(root, "better").is_caught(unseen, ["test_toy.py"])


def test_tests_that_fail_anyway_are_refused(root: Path) -> None:
    (root / "test_toy.py").write_text(TESTS.replace("larger(2, 1)", "larger(1, 2)"))
    with pytest.raises(SystemExit, match=r"toy\.py fail without a change"):
        workshop(root, "first").is_caught(change("a > b", "a < b"), ["test_toy.py"])
