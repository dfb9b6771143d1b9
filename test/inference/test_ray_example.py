"""examples/ray_streams.py tracks every stream as this process would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sam2_ros.bench.moving_scene import moving_scene
from sam2_ros.inference import make_backend
from sam2_ros.tracking import Prompt, PromptRequest, TrackerConfig

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "ray_streams.py"
STREAMS, FRAMES = 2, 2


def test_streams_are_tracked_side_by_side(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="an optional extra: pip install 'sam2_ros[ray]'")
    options = ["--streams", str(STREAMS), "--frames", str(FRAMES), "--device", "cpu", "--cpus", "0.5"]
    # Ray keeps a token of its own in the home directory.
    environment = {**os.environ, "HOME": str(tmp_path), "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(EXAMPLE), *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    streams = json.loads(done.stdout.splitlines()[-1])
    assert len({stream["process"] for stream in streams}) == STREAMS
    for index, stream in enumerate(streams):
        scene = moving_scene(index + 1, 320, 240)
        tracker = make_backend("embedded", "cpu", config=TrackerConfig(max_objects=16), threads=1)
        tracker.step(scene.frame(0), 0)
        ids = [result.object_id for result in tracker.add([PromptRequest(Prompt(box=box)) for box in scene.boxes])]
        assert stream["ids"] == ids and len(ids) == index + 1
        for frame in range(1, FRAMES + 1):
            found = {str(known.object_id): known.mask.area for known in tracker.step(scene.frame(frame), frame).objects}
            assert stream["areas"][frame - 1] == found
            assert all(area > 0 for area in found.values())
        tracker.close()
