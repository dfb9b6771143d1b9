"""The subscriber that the README shows reads what the node publishes."""

from __future__ import annotations

import re
import select
import subprocess
import sys
import time

import numpy as np
import pytest
from node_harness import PATIENCE, ROOT


def test_the_subscriber_prints_visible_objects() -> None:
    rclpy = pytest.importorskip("rclpy", reason="needs ROS 2")
    from sam2_ros.msg import TrackedObject, TrackedObjectArray
    from sam2_ros.ros.messages import object_mask
    from sam2_ros.tracking.types import CroppedMask

    (code,) = re.findall(r"```python\n(import rclpy.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)
    seen = TrackedObject(id=3, name="cup", state=TrackedObject.STATE_VISIBLE)
    seen.mask = object_mask(CroppedMask(np.ones((9, 11), bool), 7, 30, 64, 48), "mono8")
    seen.bbox.center.position.x, seen.bbox.center.position.y = 12.0, 34.0
    hidden = TrackedObject(id=4, name="box", state=TrackedObject.STATE_OCCLUDED)
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("readme", context=context)
    publisher = node.create_publisher(TrackedObjectArray, "/tracker/tracks", 10)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        try:
            deadline = time.monotonic() + PATIENCE
            while not select.select([reader.stdout], [], [], 0.1)[0]:
                assert reader.poll() is None and time.monotonic() < deadline
                publisher.publish(TrackedObjectArray(objects=[hidden, seen]))
            assert reader.stdout.readline() == "3 cup at 12, 34: 99 px\n"
        finally:
            reader.kill()
            node.destroy_node()
            context.try_shutdown()
