"""The executable ``tracker``."""

from __future__ import annotations

import signal
import sys
import time

import cv2
import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation

from sam2_ros.allocator import keep_freed_memory
from sam2_ros.ros.node import TrackerNode
from sam2_ros.ros.shutdown import shut_down

_PAUSE_AFTER_FAULT = 0.1  # seconds, so that a repeated fault does not fill the log


def main() -> int:
    """Runs the node until SIGINT or SIGTERM, which may come at any moment; returns the process' exit code."""
    keep_freed_memory()
    cv2.setNumThreads(1)  # more would take the processors from the network
    told: list[int] = []  # signals. rclpy's own handlers, which shut its context down, call these too
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: told.append(received))
    started = False
    try:
        rclpy.init()
        started = True
        if told:  # before rclpy had handlers
            return 0
        node = TrackerNode()
    except Exception as error:
        # rclpy's handler has shut the context down, perhaps before Python has called ours
        if told or (started and not rclpy.ok()):
            return 0
        if not isinstance(error, rclpy_implementation.RCLError):
            raise
        # a wrong argument, or no security although it is demanded
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
                if rclpy.ok():
                    node.get_logger().error(f"a callback failed: {type(error).__name__}: {error}")
                    time.sleep(_PAUSE_AFTER_FAULT)
    finally:
        node.close()
        executor.shutdown()
        node.destroy_node()
        shut_down()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
