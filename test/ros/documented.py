"""The node's interface as declared and documented; test_node_interface.py holds a running node to both."""

from __future__ import annotations

import re

from node_harness import ROOT

from sam2_ros.ros.interface import SERVICES, TOPICS

REFERENCE = ROOT / "docs" / "reference"


def section(page: str, title: str) -> str:
    text = (REFERENCE / page).read_text(encoding="utf-8")
    (found,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    return str(found)


def table(text: str, node: str) -> dict[str, str]:
    """Full name and type of every row ``| `name` | `package/Type`… |``; ``~`` is ``node``, e.g. "/tracker"."""
    rows = re.findall(r"^\| `([~/\w]+)` \| `(\w+)/(\w+)`", text, re.M)
    return {full(name, node): f"{package}/{kind}" for name, package, kind in rows}


def diagnostics_keys() -> dict[str, set[str]]:
    """The documented keys of ``/diagnostics`` by group, e.g. "depth"."""
    rows = re.findall(r"^- ([^:`]+): (.*(?:\n  .*)*)", section("node.md", "Diagnostics"), re.M)
    return {group: set(re.findall(r"`([^`]+)`", keys)) for group, keys in rows}


def subscribed(node: str) -> dict[str, str]:
    """Topics that the node subscribes to, with their types."""
    return {full(topic.name, node): topic.type for topic in TOPICS if not topic.published}


def published(node: str) -> dict[str, str]:
    """Topics that the node publishes, with their types."""
    return {full(topic.name, node): topic.type for topic in TOPICS if topic.published}


def services(node: str) -> dict[str, str]:
    """Services that the node offers, with their types."""
    return {full(service.name, node): service.type for service in SERVICES}


def full(name: str, node: str) -> str:
    """The name that ROS gives ``name`` in ``node``, a full name."""
    if name.startswith("~/"):
        return f"{node}/{name[2:]}"
    namespace = node.rpartition("/")[0]
    return name if name.startswith("/") else f"{namespace}/{name}"
