"""Mutated recordings, prompts files, images, videos and checkpoints; ``fuzz_files.py`` reads as many as one likes."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz_files import fuzz, silent


@pytest.mark.parametrize(
    ("kind", "inputs", "seed"),
    [("recordings", 200, 1), ("prompts", 1000, 1), ("images", 1500, 1), ("videos", 400, 1), ("checkpoints", 200, 6)],
)
def test_mutated_files_are_used_or_refused(kind: str, inputs: int, seed: int, tmp_path: Path) -> None:
    if kind == "recordings":
        pytest.importorskip("rclpy", reason="recordings need ROS 2")
        pytest.importorskip("mcap", reason="the library that reads recordings")
    with silent():
        seen = fuzz(kind, tmp_path, seed=seed, inputs=inputs)
    assert seen["inputs"] == inputs and seen["outcomes"]["refused"] > inputs // 20
    assert len(seen["outcomes"]) > 1, "some are used"
