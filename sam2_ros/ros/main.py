"""The executable ``tracker``."""

from __future__ import annotations

from collections.abc import Sequence

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor

from sam2_ros.ros.node import TrackerNode


def main(args: Sequence[str] | None = None) -> int:
    """Runs the node until SIGINT or SIGTERM; returns the process' exit code."""
    rclpy.init(args=list(args) if args is not None else None)
    node = TrackerNode()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        while rclpy.ok():
            try:
                executor.spin()
            except (KeyboardInterrupt, ExternalShutdownException):
                break
            except Exception as error:  # a fault in one callback must not end the node
                node.get_logger().error(f"a callback failed: {type(error).__name__}: {error}")
    finally:
        node.close()
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
