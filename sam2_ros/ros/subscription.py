"""A subscription with the reliability that its publishers offer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy

_WATCH_PERIOD = 0.25  # seconds between checks of the publishers
RELIABILITY = {"reliable": ReliabilityPolicy.RELIABLE, "best_effort": ReliabilityPolicy.BEST_EFFORT}


def _offered_reliability(node: Node, topic: str) -> ReliabilityPolicy:
    """Reliable if there are publishers and all of them are, else best effort, which connects to every publisher."""
    offers = {info.qos_profile.reliability for info in node.get_publishers_info_by_topic(topic)}
    return ReliabilityPolicy.RELIABLE if offers == {ReliabilityPolicy.RELIABLE} else ReliabilityPolicy.BEST_EFFORT


class FollowingSubscription:
    """Subscribes to the newest messages of a topic until :meth:`destroy`.

    Best effort connects to every publisher, but Fast DDS's default transport loses large best-effort messages. So the
    subscription is reliable while every publisher is, and changes when they change.
    """

    def __init__(
        self,
        node: Node,
        message_type: type,
        topic: str,
        callback: Callable[[Any], None],
        choice: Callable[[], str],
        depth: int = 1,
        raw: bool = False,
    ) -> None:
        """
        Args:
            choice: returns auto, reliable or best_effort, which may change at any time.
            depth: messages kept while the executor is busy; 1 = only the newest.
            raw: ``callback`` gets the serialized message, so that a large one need not be made.
        """
        self.topic = str(node.resolve_topic_name(topic))  # full name, remapping included
        self._node = node
        self._message_type = message_type
        self._name = topic
        self._callback = callback
        self._choice = choice
        self._depth = depth
        self._raw = raw
        self._subscribe(self._wanted())
        # A steady clock goes on while a simulation's clock stands still.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._watch = node.create_timer(_WATCH_PERIOD, self._follow_publishers, clock=steady)

    def destroy(self) -> None:
        self._node.destroy_timer(self._watch)
        self._node.destroy_subscription(self._subscription)

    def _wanted(self) -> ReliabilityPolicy:
        return RELIABILITY.get(self._choice()) or _offered_reliability(self._node, self.topic)

    def _follow_publishers(self) -> None:
        if self._choice() == "auto" and not self._node.count_publishers(self.topic):
            return  # the next publisher is probably like the last one
        wanted = self._wanted()
        if wanted != self.reliability:
            self._node.destroy_subscription(self._subscription)
            self._subscribe(wanted)

    def _subscribe(self, reliability: ReliabilityPolicy) -> None:
        qos = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=self._depth, reliability=reliability)
        self.reliability = reliability
        self._subscription = self._node.create_subscription(
            self._message_type, self._name, self._callback, qos, raw=self._raw
        )
        self._node.get_logger().info(f"subscribed to {self.topic}, {reliability.name.lower().replace('_', ' ')}")
