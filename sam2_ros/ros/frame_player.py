"""For nodes that play frames: an even rate, the wait for subscribers, and the end of the process."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

import rclpy
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import ReliabilityPolicy

RELIABILITY = {"reliable": ReliabilityPolicy.RELIABLE, "best_effort": ReliabilityPolicy.BEST_EFFORT}
_ACKNOWLEDGE = Duration(seconds=5)  # for subscribers to acknowledge the last frames

F = TypeVar("F")


class Player(Protocol):
    """A node that plays something."""

    def play(self) -> int:
        """Publishes until the frames or the process end; returns the number of frames."""
        ...

    def get_logger(self) -> rclpy.impl.rcutils_logger.RcutilsLogger: ...


def play(
    node: Node, images: Publisher, frames: Iterable[F], period: float, publish: Callable[[F], None], subscribers: int
) -> int:
    """Publishes ``frames`` every ``period`` seconds, or as fast as they come.

    Args:
        images: waits for ``subscribers`` of its subscribers before the first frame, and at the end until all have
            acknowledged everything.
        publish: sends one frame.

    Returns:
        The number of frames.
    """
    while rclpy.ok() and images.get_subscription_count() < subscribers:
        rclpy.spin_once(node, timeout_sec=0.05)
    published = 0
    due = time.monotonic()
    for frame in frames:
        while rclpy.ok() and time.monotonic() < due:
            rclpy.spin_once(node, timeout_sec=max(0.0, due - time.monotonic()))
        if not rclpy.ok():
            break
        publish(frame)
        published += 1
        due = max(due + period, time.monotonic())
    if rclpy.ok():
        images.wait_for_all_acked(_ACKNOWLEDGE)
    return published


def run(make: Callable[[], Player], what: str, wrong: tuple[type[Exception], ...], args: Sequence[str] | None) -> int:
    """Runs a playing node; returns the exit code of the process, 2 after an exception of ``wrong`` parameters."""
    try:
        return _run(make, what, wrong, args)
    except KeyboardInterrupt:  # before rclpy installs its handlers, or after it removes them
        return 0


def _run(make: Callable[[], Player], what: str, wrong: tuple[type[Exception], ...], args: Sequence[str] | None) -> int:
    rclpy.init(args=list(args) if args is not None else None)
    try:
        node = make()
        published = node.play()
        if rclpy.ok():
            node.get_logger().info(f"the {what} has ended after {published} frames")
    except wrong as error:
        print(f"camera: {error}", file=sys.stderr)
        return 2
    except ExternalShutdownException:
        pass
    finally:
        rclpy.try_shutdown()
    return 0
