"""Which reliability a subscription has while publishers come and go."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import rclpy
from node_harness import wait_until
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_msgs.msg import String

from sam2_ros.ros.subscription import FollowingSubscription

RELIABLE, BEST_EFFORT = ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT
TOPIC = "/subscription/image"


@pytest.fixture
def node() -> Iterator[Node]:
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("follower", context=context)
    yield node
    node.destroy_node()
    context.try_shutdown()


def test_it_follows_its_publishers_and_stays_as_it_is_while_there_is_none(node: Node) -> None:
    """A camera that restarts is heard from its first image on; one that is still to come may be best effort."""
    subscription = FollowingSubscription(node, String, TOPIC, lambda _: None, lambda: "auto")
    assert subscription.reliability == BEST_EFFORT, "which connects to every publisher"

    def publish(reliability: ReliabilityPolicy) -> None:
        publisher = node.create_publisher(String, TOPIC, QoSProfile(depth=1, reliability=reliability))
        publishers.append(publisher)
        wait_until(lambda: node.count_publishers(TOPIC) == len(publishers), "the publisher")
        subscription._follow_publishers()

    def leave() -> None:
        node.destroy_publisher(publishers.pop())
        wait_until(lambda: node.count_publishers(TOPIC) == len(publishers), "its end")
        subscription._follow_publishers()

    publishers: list = []
    publish(RELIABLE)
    assert subscription.reliability == RELIABLE
    leave()
    assert subscription.reliability == RELIABLE, "as for the camera that will be back"
    publish(BEST_EFFORT)
    assert subscription.reliability == BEST_EFFORT
    publish(RELIABLE)
    assert subscription.reliability == BEST_EFFORT, "one of two is not reliable"
    leave()
    leave()
    assert subscription.reliability == BEST_EFFORT
    subscription.destroy()


def test_a_chosen_reliability_is_kept(node: Node) -> None:
    choice = ["reliable"]
    subscription = FollowingSubscription(node, String, TOPIC, lambda _: None, lambda: choice[0])
    assert subscription.reliability == RELIABLE
    choice[0] = "best_effort"
    subscription._follow_publishers()
    assert subscription.reliability == BEST_EFFORT
    subscription.destroy()
