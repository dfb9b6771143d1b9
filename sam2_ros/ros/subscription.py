"""A subscription with the reliability that its publishers offer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription

_WATCH_PERIOD = 0.25  # seconds between checks of the publishers
_CHOICES = {"reliable": ReliabilityPolicy.RELIABLE, "best_effort": ReliabilityPolicy.BEST_EFFORT}


class FollowingSubscription:
    """Subscribes to the newest messages of a topic from :meth:`start` to :meth:`stop`.

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
    ) -> None:
        """
        Args:
            topic: as the node resolves it, remapping included.
            choice: returns auto, reliable or best_effort, which may change at any time.
            depth: messages kept while the executor is busy; 1 = only the newest.
        """
        self._node = node
        self._message_type = message_type
        self._name = topic
        self._callback = callback
        self._choice = choice
        self._depth = depth
        self._subscription: Subscription | None = None
        self.reliability = ReliabilityPolicy.BEST_EFFORT
        # A steady clock goes on while a simulation's clock stands still.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._watch = node.create_timer(_WATCH_PERIOD, self._follow_publishers, clock=steady)
        self._watch.cancel()

    @property
    def topic(self) -> str:
        """The full name of the topic, remapping included."""
        return str(self._node.resolve_topic_name(self._name))

    @property
    def running(self) -> bool:
        return self._subscription is not None

    def start(self) -> None:
        self._subscribe(self._wanted())
        self._watch.reset()

    def stop(self) -> None:
        self._watch.cancel()
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None

    def destroy(self) -> None:
        """Stops for good."""
        self.stop()
        self._node.destroy_timer(self._watch)

    def _wanted(self) -> ReliabilityPolicy:
        choice = self._choice()
        if choice != "auto":
            return _CHOICES[choice]
        publishers = self._node.get_publishers_info_by_topic(self.topic)
        all_reliable = all(info.qos_profile.reliability == ReliabilityPolicy.RELIABLE for info in publishers)
        return ReliabilityPolicy.RELIABLE if publishers and all_reliable else ReliabilityPolicy.BEST_EFFORT

    def _follow_publishers(self) -> None:
        if self._choice() == "auto" and not self._node.count_publishers(self.topic):
            return  # the next publisher is probably like the last one
        wanted = self._wanted()
        if wanted != self.reliability:
            self._subscribe(wanted)

    def _subscribe(self, reliability: ReliabilityPolicy) -> None:
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
        qos = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=self._depth, reliability=reliability)
        self.reliability = reliability
        self._subscription = self._node.create_subscription(self._message_type, self._name, self._callback, qos)
        self._node.get_logger().info(f"subscribed to {self.topic}, {reliability.name.lower().replace('_', ' ')}")
