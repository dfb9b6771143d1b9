"""``sam2_ros bench --node``: three real processes, and times that add up."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="the node needs ROS 2")


def test_camera_to_mask_in_another_process(tmp_path: Path) -> None:
    file = tmp_path / "node.json"
    command = [sys.executable, "-m", "sam2_ros", "bench", "--node", "--model", "null", "--objects", "2"]
    done = subprocess.run(
        [*command, "--frames", "20", "--json", str(file)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(file.read_text(encoding="utf-8"))
    assert [run["image"] for run in report["runs"]] == [[640, 480], [1280, 720]]
    for run in report["runs"]:
        assert run["frames"] >= 20 and run["processed"] + run["dropped"] <= run["received"]
        whole = run["ms"]["camera to mask"]
        assert 0 < whole["p50"] <= whole["p99"] <= whole["max"]
        parts = ("to the node", "waiting and decoding", "engine", "to the client")
        assert all(0 <= run["ms"][part]["p50"] <= whole["p50"] for part in parts)
        assert run["ms"]["overhead"]["p50"] <= whole["p50"]
        live = run["live"]
        assert live["images"] >= 100 and 0.5 < live["share"] <= 1.1  # a turn's first and last image may count once more
        assert 0 < live["ms"]["p50"] <= live["ms"]["p99"]
        assert 0 < live["engine_rate"]["with"] <= 45 and -1 < live["engine_slower"] < 1
    assert done.stdout.count("1280x720") == 2 and "live mask" in done.stdout
