"""``kill_server.py``: the whole node survives its server's deaths under load."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from node_harness import ROOT

KILLS = 3


def test_the_node_outlives_every_death_with_its_ids(tmp_path: Path) -> None:
    file, picture = tmp_path / "out" / "kills.json", tmp_path / "out" / "kills.png"
    options = ["--kills", str(KILLS), "--quiet", "--json", str(file), "--plot", str(picture)]
    command = [sys.executable, str(ROOT / "test" / "system" / "kill_server.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    measured = json.loads(file.read_text(encoding="utf-8"))
    assert measured["ids_kept"] == KILLS and len(measured["kills"]) == KILLS
    assert (measured["node_starts"], measured["node_crashes"]) == (1, 0) and measured["node_ended_cleanly"]
    # A new process of Python takes longer to start. Its line that it serves may be read after the first tracks.
    assert all(row["recovery_s"] > 0.05 and row["of_which_start_s"] > 0 for row in measured["kills"])
    assert all(row["frames_dropped"] > 0 for row in measured["kills"]), "it was killed under load"
    assert measured["recovery_s"]["p50"] <= measured["recovery_s"]["p90"] <= measured["recovery_s"]["max"]
    assert f"{KILLS} kills: recovery p50" in done.stdout
    assert picture.stat().st_size > 1000
