"""``sam2_ros bench --endpoint`` starts real servers, loads and kills them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from served import LOCAL, ServerProcess

from sam2_ros.cli.main import USER_ERROR, main


def test_measures_the_way_to_servers_of_its_own(tmp_path: Path) -> None:
    """In a process of its own, which never loads torch."""
    file = tmp_path / "out/endpoint.json"
    words = ["bench", "--endpoint", "--quick", "--frames", "10", "--quiet", "--json", str(file)]
    code = f"import sys\nfrom sam2_ros.cli.main import main\ncode = main({words!r})\nassert 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nsys.exit(code)"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    measured = json.loads(file.read_text(encoding="utf-8"))
    ways = {(row["size"], row["way"]) for row in measured["overhead"]}
    sizes = ("640x480", "1280x720")
    assert ways == {(size, way) for size in sizes for way in ("ipc, raw", "ipc, shared memory", "tcp, raw")}
    assert all(row["p50_ms"] <= row["p99_ms"] for row in measured["overhead"])
    shared = measured["streams"]
    assert len(shared["frames_per_second"]) == shared["streams"] == 4 and min(shared["frames_per_second"]) > 0
    assert 0 < shared["fairness_jain"] <= 1 and shared["frame_ms"]["p50"] >= 5
    killed = measured["kills"]
    assert killed["ids_kept"] == killed["kills"] == 2
    assert 0 < killed["recovery_s_median"] <= killed["recovery_s_worst"]
    assert measured["machine"]["cores"] >= 1
    for text in ("| 1280x720", "4 streams", "2 kills of the server: ids kept 2 times"):
        assert text in done.stdout


def test_measures_how_streams_share_a_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "streams.json"
    words = ["--model", "embedded", "--device", "cpu", "--threads", "1", "--seconds", "1", "--json", str(file)]
    assert main(["bench", "--endpoint", "--quick", "--quiet", *words]) == 0
    shared = json.loads(file.read_text(encoding="utf-8"))["streams"]
    assert shared["model"] == "embedded" and len(shared["frames_per_second"]) == shared["streams"] == 4
    assert min(shared["frames_per_second"]) > 0 and 0 < shared["fairness_jain"] <= 1
    frames = sum(int(size) * count for size, count in shared["batches"].items())
    assert frames >= 4 and all(1 <= int(size) <= 4 for size in shared["batches"]), "as the server's metrics tell"
    assert "4 streams, embedded:" in capsys.readouterr().out


def test_measures_a_server_that_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "endpoint.json"
    with ServerProcess("--bind", LOCAL, model="null:3") as server:
        assert main(["bench", "--endpoint", server.endpoint, "--frames", "5", "--quiet", "--json", str(file)]) == 0
    rows = json.loads(file.read_text(encoding="utf-8"))["steps"]
    assert [row["size"] for row in rows] == ["640x480", "1280x720"]
    assert all(row["model"].startswith("null") and 3 <= row["p50_ms"] <= row["p99_ms"] for row in rows)
    assert "1280x720" in capsys.readouterr().out


def test_an_endpoint_that_can_not_be_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--endpoint", "nowhere", "--quiet"]) == USER_ERROR
    assert "nowhere" in capsys.readouterr().err
