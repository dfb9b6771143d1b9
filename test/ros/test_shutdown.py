"""The end of a process whose signals rclpy handles."""

import pytest

pytest.importorskip("rclpy", reason="ROS 2")

import rclpy
from rclpy.impl.implementation_singleton import rclpy_implementation

from sam2_ros.ros.shutdown import shut_down


def test_a_shutdown_by_the_handler_of_a_signal_at_the_same_moment_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes after rclpy looked whether the context is valid, and before its own shutdown."""
    context = rclpy.Context()
    rclpy.init(context=context)
    context.shutdown()
    monkeypatch.setattr(rclpy, "try_shutdown", context.shutdown)
    with pytest.raises(rclpy_implementation.RCLError, match="already called"):
        rclpy.try_shutdown()
    shut_down()
