"""The end of ROS 2 in a process whose signals rclpy handles."""

from __future__ import annotations

from contextlib import suppress

import rclpy
from rclpy.impl.implementation_singleton import rclpy_implementation


def shut_down() -> None:
    """Shuts the default context down, also while rclpy's handler of a signal does so in a thread of its own."""
    with suppress(rclpy_implementation.RCLError):
        rclpy.try_shutdown()
