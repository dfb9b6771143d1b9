"""What a cleanup leaves behind, in a process of its own."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

MIB = 2**20
CYCLES = 4
SCRIPT = f"""
import gc, json, time
import numpy as np, rclpy
from pathlib import Path
from std_msgs.msg import Header
from sam2_ros.allocator import keep_freed_memory
from sam2_ros.inference.frames import Frame
from sam2_ros.ros.node import TrackerNode
from sam2_ros.tracking.types import Prompt, PromptRequest

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

def work(cycle):
    worker = node._cameras[0]._active_worker()
    box = PromptRequest(Prompt(box=np.array([10, 10, 90, 90], np.float32)))
    for stamp in range(1, 4):
        worker.submit(Frame(stamp, lambda: np.full((120, 160, 3), 40 * stamp, np.uint8), 0, Header()))
        worker.call_on_frame(lambda backend: backend.add([box]), stamp, 60).result()

keep_freed_memory()
rclpy.init(args=["--ros-args", "-p", "model.name:=embedded", "-p", "model.image_size:=256", "-r", "__ns:=/memory"])
node, told = TrackerNode(), []
for cycle in range({CYCLES}):
    node.trigger_configure(), node.trigger_activate()
    work(cycle)
    active = resident()
    node.trigger_deactivate(), node.trigger_cleanup()
    told.append((active, resident()))
import torch
tensors = sum(isinstance(each, torch.Tensor) for each in gc.get_objects())
node.close()
print(json.dumps([told, tensors]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep what they like")
def test_a_cleanup_gives_the_memory_of_the_model_back(tmp_path: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT], capture_output=True, text=True, check=False, env=clean,
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told, tensors = json.loads(done.stdout.splitlines()[-1])
    assert tensors == 0, "nothing holds the network any more"
    cleaned = [after for _, after in told]
    assert all(after < active - 200 * MIB for active, after in told), told
    # Gaps between blocks may cost a step of some ten MiB, also in a later cycle.
    assert max(cleaned) < cleaned[0] + 128 * MIB, told
