"""Figures by the kind of objects, from what a rendered clip says of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sam2_ros.evaluation.kinds import by_kind, kinds_table
from sam2_ros.evaluation.results import Row, SequenceResult
from sam2_ros.media.errors import UserError


def row(obj: int, frame: int, j: float, truth: int = 100, state: str = "visible", **more: object) -> Row:
    made = Row(obj, frame, str(frame), frame == 0, state, 1.0, 1.0, 0.9, 100, truth, j, j, scored=frame > 0)
    return Row(**(vars(made) | more))


def write(root: Path, *objects: dict[str, object]) -> None:
    (root / "Scenes").mkdir()
    (root / "Scenes" / "clip.json").write_text(json.dumps({"objects": objects}))


def test_each_object_counts_in_its_groups(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"id": 1, "kind": "distinct", "hidden_and_back": True, "area": 0.02},
        {"id": 2, "kind": "copy", "hidden_and_back": False, "area": 0.002},
        {"id": 3, "kind": "copy", "hidden_and_back": True, "area": 0.02},
    )
    rows = [
        *(row(1, t, 0.8) for t in range(3)), row(1, 3, 0.0, truth=0), row(1, 4, 1.0, truth=0, state="lost"),
        *(row(2, t, 0.4) for t in range(3)),
        row(3, 0, 0.9), row(3, 1, 0.9), row(3, 2, 0.1, other=2, other_iou=0.8),
    ]  # fmt: skip
    found = by_kind(tmp_path, [SequenceResult("clip", 10, 10, 5, tuple(rows), ())], 0.05)
    assert found is not None
    assert {name: group["objects"] for name, group in found.items()} == {
        "distinct": 1, "copy": 2, "hidden and back": 2, "area below 1 %": 1, "area 1 to 3 %": 2,
    }  # fmt: skip
    assert found["distinct"]["j"] == pytest.approx((0.8 + 0.8 + 0 + 1) / 4)
    assert found["copy"]["j"] == pytest.approx((0.4 + 0.5) / 2)
    assert found["copy"]["identity_switches"] == 1 and found["distinct"]["identity_switches"] == 0
    assert found["distinct"]["absent_recall"] == 0.5 and found["copy"]["absent_recall"] is None
    lines = kinds_table(found).splitlines()
    assert lines[2].split()[:5] == ["copy", "2", "45.0", "45.0", "45.0"]


def test_data_without_kinds_has_none_and_a_damaged_file_is_refused(tmp_path: Path) -> None:
    result = SequenceResult("clip", 10, 10, 1, (row(1, 0, 1.0),), ())
    assert by_kind(tmp_path, [result], 0.05) is None
    write(tmp_path, {"id": 1})
    with pytest.raises(UserError, match="accepted: a file of sam2_ros synthesize --scenes"):
        by_kind(tmp_path, [result], 0.05)
