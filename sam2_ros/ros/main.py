"""The executable ``tracker``."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation

from sam2_ros.allocator import keep_freed_memory
from sam2_ros.ros.node import TrackerNode

_PAUSE_AFTER_FAULT = 0.1  # seconds, so that a repeated fault does not fill the log


def main(args: Sequence[str] | None = None) -> int:
    """Runs the node until SIGINT or SIGTERM; returns the process' exit code."""
    keep_freed_memory()
    try:
        return _run(args)
    except KeyboardInterrupt:  # before rclpy installs its handlers, or after it removes them
        return 0


def _run(args: Sequence[str] | None) -> int:
    try:
        rclpy.init(args=list(args) if args is not None else None)
        node = TrackerNode()
    except rclpy_implementation.RCLError as error:  # a wrong argument, or no security although it is demanded
        print(f"tracker: ROS 2 can't start the node: {error}", file=sys.stderr)
        return 1
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        while rclpy.ok():
            try:
                executor.spin()
            except ExternalShutdownException:
                break
            except Exception as error:  # a fault in one callback must not end the node
                node.get_logger().error(f"a callback failed: {type(error).__name__}: {error}")
                time.sleep(_PAUSE_AFTER_FAULT)
    finally:
        node.close()
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
