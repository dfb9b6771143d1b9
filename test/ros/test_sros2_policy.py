"""config/sros2_policy.xml allows the interface of docs/node.md; test_node_interface.py holds a running node to it."""

from __future__ import annotations

from documented import published, section, subscribed, table
from sros2_policy import POLICY, allowed, of_ros, sometimes

NODE = "/tracker"
SERVICES = set(table(section("Services"), NODE))
CALLS = {f"{name}/_service_event" for name in SERVICES}  # what is asked of them: service introspection


def test_the_tracker_has_what_is_documented() -> None:
    assert POLICY.get("version") == "0.2.0" and len(SERVICES) >= 6
    assert allowed("tracker", "topic", "subscribe", NODE) == set(subscribed(NODE)) | sometimes(NODE)
    assert allowed("tracker", "topic", "publish", NODE) == set(published(NODE)) | CALLS | of_ros(NODE)
    assert allowed("tracker", "service", "reply", NODE) > SERVICES  # the others are ROS's own
    assert not allowed("tracker", "service", "request", NODE)


def test_clients_may_use_all_of_the_tracker_and_offer_nothing() -> None:
    read = set(subscribed(NODE)) | set(published(NODE)) | CALLS | of_ros(NODE) | {"/clock"}
    assert allowed("client", "topic", "subscribe", NODE) == read
    assert allowed("client", "topic", "publish", NODE) == {"/rosout", "/parameter_events"}
    assert allowed("client", "service", "request", NODE) == allowed("tracker", "service", "reply", NODE)
    assert allowed("client", "service", "reply", NODE) == {"/*/get_type_description"}
