"""A short run of ``soak.py``: reproducible, bank constant, record and picture written."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import pytest
import soak

from sam2_ros.tracking.bank import MemoryBank


def run(out: Path, *options: str) -> dict[str, Any]:
    with mock.patch.object(sys, "argv", ["soak.py", "--model", "random", "--out", str(out), *options]):
        assert soak.main() == 0
    return json.loads((out / "soak.json").read_text(encoding="utf-8"))


def test_equal_seeds_give_equal_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (run(tmp_path / str(index), "--frames", "45") for index in range(2))
    other = run(tmp_path / "other", "--frames", "45", "--seed", "1")
    assert first["digest"] == second["digest"] != other["digest"]
    assert first["events"] == second["events"] and first["events"]["added"] > 0
    assert first["frame"] == [0, 20, 40, 44] and len(first["rss"]) == len(first["objects"]) == 4
    assert first["settled_range"] is None
    assert first["bank_bytes"] == 4 * ((4 + 6 + 9) * 64 * 64 * 2 + (4 + 15 + 9) * 256 * 4)
    assert "too few frames to judge" in capsys.readouterr().out
    picture = cv2.imread(str(tmp_path / "0" / "soak.png"))
    assert picture is not None and picture.std() > 1


@pytest.mark.parametrize(("last", "flat"), [(310.0, True), (330.0, False)])
def test_growth_is_told_from_noise(last: float, flat: bool) -> None:
    """Frames before SETTLED do not count."""
    frames = [0, *(soak.SETTLED + more for more in (0, 40, 80))]
    record = soak.Record("random", 0, "float32", frames[-1] + 1, 4, 1, frame=frames, rss=[100.0, 300.0, 303.0, last])
    record.conclude()
    assert (record.flat, record.settled_range) == (flat, last - 300.0)
    assert record.summary().endswith("flat" if flat else "NOT FLAT")


@pytest.mark.parametrize("replace", ["the tensor", "its memory"])
def test_a_bank_that_is_allocated_anew_ends_the_run(tmp_path: Path, replace: str) -> None:
    store = MemoryBank.store_prompted

    def copying(bank: MemoryBank, *arguments: Any) -> int | None:
        if replace == "the tensor":
            bank.pointers = bank.pointers.clone()
        else:
            bank.spatial.data = bank.spatial.clone()
        return store(bank, *arguments)

    with (
        mock.patch.object(MemoryBank, "store_prompted", copying),
        pytest.raises(AssertionError, match="on frame 0 the bank was allocated anew"),
    ):
        run(tmp_path, "--frames", "2")


def test_a_bank_that_grows_ends_the_run(tmp_path: Path) -> None:
    sizes = iter(range(1000, 2000))

    with (
        mock.patch.object(MemoryBank, "nbytes", property(lambda _: next(sizes))),
        pytest.raises(AssertionError, match="the bank had 1000 bytes, on frame 0 1001"),
    ):
        run(tmp_path, "--frames", "2")
