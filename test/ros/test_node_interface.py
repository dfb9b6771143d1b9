"""The declared interface is the one that documents name and a running node has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from documented import REFERENCE, diagnostics_keys, published, section, services, subscribed, table
from node_harness import running
from rclpy.action import get_action_server_names_and_types_by_node
from sros2_policy import allowed, sometimes

from sam2_ros.msg import TrackedObjectArray
from sam2_ros.ros.interface import TRACK_OBJECT
from sam2_ros.ros.parameter import Change
from sam2_ros.ros.parameters import PARAMETERS

NODE = "/interface/tracker"
OF_ROS = ("rcl_interfaces/", "lifecycle_msgs/", "type_description_interfaces/", "rosgraph_msgs/")
ACTION = "/_action/"  # in the names of an action's topics and services
SHARED = "/diagnostics"  # under the name that every node uses


def own(listed: list[tuple[str, list[str]]]) -> dict[str, str]:
    """What a node has of its own, as ``package/Type`` by name; what rclpy adds to each service is not."""
    return {
        name: re.sub("/(msg|srv)/", "/", types[0])
        for name, types in listed
        if not types[0].startswith(OF_ROS) and not name.endswith("/_service_event") and ACTION not in name
    }


def test_topics_services_and_diagnostics(folder: Path) -> None:
    file = folder / "interface.yaml"
    file.write_text(
        "/**:\n  ros__parameters:\n    model.name: 'null'\n    depth.enabled: true\n    detections.enabled: true\n"
        "    output: {masks: [NAME], clouds: [NAME]}\n"
    )
    with running(folder, namespace="/interface", params_file=str(file)) as peer:
        peer.wait_for_state("active")
        at = ("tracker", "/interface")
        # The graph may learn of the node after its services have answered.
        peer.wait_until(lambda: at in peer.node.get_node_names_and_namespaces(), "the node in the graph")

        def same(list_of: Any, documented: dict[str, str]) -> None:
            assert len(documented) >= 4
            try:
                peer.wait_until(lambda: own(list_of(*at)) == documented, "the documented names")
            finally:
                assert own(list_of(*at)) == documented

        expected = subscribed(NODE)
        for other in ("image/compressed", "depth/image/compressedDepth"):  # in place of the raw ones
            del expected[f"/interface/{other}"]
        same(peer.node.get_subscriber_names_and_types_by_node, expected)
        same(peer.node.get_publisher_names_and_types_by_node, published(NODE))
        assert SHARED in published(NODE)
        same(peer.node.get_service_names_and_types_by_node, services(NODE))

        offered = get_action_server_names_and_types_by_node(peer.node, *at)
        assert own(offered) == {f"{NODE}/track_object": TRACK_OBJECT.type.replace("/", "/action/")}

        peer.node.create_subscription(TrackedObjectArray, "/interface/tracker/tracks_live", lambda _: None, 10)
        measured = {"age of masks p50 [ms]", "live latency p50 [ms]"}
        peer.wait_until(lambda: peer.track() and measured <= set(peer.status()), "live tracks")
        documented = diagnostics_keys()
        assert set(peer.status()) - {"level", "message"} == set().union(*documented.values()) - documented["server"]

        # config/sros2_policy.xml lists these and all that ROS adds to them, and nothing else.
        def names(list_of: Any) -> set[str]:
            return {name for name, _ in list_of(*at) if ACTION not in name}

        subscribes = allowed("tracker", "topic", "subscribe", NODE) - sometimes(NODE)
        assert names(peer.node.get_subscriber_names_and_types_by_node) == subscribes
        publishes = allowed("tracker", "topic", "publish", NODE)
        assert names(peer.node.get_publisher_names_and_types_by_node) == publishes
        assert names(peer.node.get_service_names_and_types_by_node) == allowed("tracker", "service", "reply", NODE)


def test_the_document_lists_the_interface() -> None:
    assert table(section("topics.md", "Subscribed"), NODE) == subscribed(NODE)
    assert table(section("topics.md", "Published"), NODE) == published(NODE)
    assert table(section("services.md", "Services"), NODE) == services(NODE)


def test_when_parameters_may_be_set() -> None:
    marks = {"start": Change.AT_START, "unconfigured": Change.UNCONFIGURED, "": Change.ANY_TIME}
    text = (REFERENCE / "parameters.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z_.]+)`(?: \*\((start|unconfigured)\)\*)? \|", text, re.M)
    assert {name: marks[mark] for name, mark in rows} == {each.name: each.change for each in PARAMETERS}


def test_every_state_has_its_transitions() -> None:
    rows = re.findall(r"^\| (\w+) \|", section("node.md", "Lifecycle"), re.M)
    assert rows == ["transition", "configure", "activate", "deactivate", "cleanup"]
