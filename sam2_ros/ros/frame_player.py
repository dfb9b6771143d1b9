"""For nodes that play frames: an even rate, the wait for subscribers, and the end of the process."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TypeVar

import rclpy
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.publisher import Publisher

from sam2_ros.ros.shutdown import shut_down

_ACKNOWLEDGE = Duration(seconds=5)  # for subscribers to acknowledge the last frames

F = TypeVar("F")
N = TypeVar("N", bound=Node)


def play(
    node: Node, images: Publisher, frames: Iterable[F], period: float, publish: Callable[[F], None], subscribers: int
) -> int:
    """Publishes ``frames`` every ``period`` seconds, or as fast as they come.

    Args:
        images: waits for ``subscribers`` of its subscribers before the first frame.
        publish: sends one frame.

    Returns:
        The number of frames, once the subscribers of every topic of ``node`` have acknowledged all messages. A process
        that ends earlier takes messages in shared memory with it.
    """
    while rclpy.ok() and images.get_subscription_count() < subscribers:
        rclpy.spin_once(node, timeout_sec=0.05)
    published, due = 0, time.monotonic()
    for frame in frames:
        while rclpy.ok() and time.monotonic() < due:
            rclpy.spin_once(node, timeout_sec=max(0.0, due - time.monotonic()))
        if not rclpy.ok():
            break
        publish(frame)
        published += 1
        due = max(due + period, time.monotonic())
    if rclpy.ok():
        for publisher in node.publishers:
            publisher.wait_for_all_acked(_ACKNOWLEDGE)
    return published


def run(make: Callable[[], N], play: Callable[[N], int], what: str, wrong: tuple[type[Exception], ...]) -> int:
    """Makes a node and plays all its frames, whose number ``play`` returns.

    Returns:
        The exit code of the process, 2 after an exception of ``wrong`` parameters.
    """
    # Ctrl-C is a KeyboardInterrupt before rclpy installs its handlers, and after it removes them.
    with suppress(ExternalShutdownException, KeyboardInterrupt):
        rclpy.init()
        try:
            node = make()
            published = play(node)
            if rclpy.ok():
                node.get_logger().info(f"the {what} has ended after {published} frames")
        except wrong as error:
            print(f"camera: {error}", file=sys.stderr)
            return 2
        finally:
            shut_down()
    return 0
