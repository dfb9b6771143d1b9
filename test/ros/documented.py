"""The node's interface as docs/reference/node.md tells it; test_node_interface.py holds a running node to it."""

from __future__ import annotations

import re

from node_harness import ROOT

DOCUMENT = (ROOT / "docs" / "reference" / "node.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    (found,) = re.findall(rf"^## {title}\n(.*?)(?=^## )", DOCUMENT, re.M | re.S)
    return str(found)


def table(text: str, node: str) -> dict[str, str]:
    """Full name and type of every row ``| `name` | `package/Type`… |``; ``~`` is ``node``, e.g. "/tracker"."""
    rows = re.findall(r"^\| `([~/\w]+)` \| `(\w+)/(\w+)`", text, re.M)
    return {full(name, node): f"{package}/{kind}" for name, package, kind in rows}


def subscribed(node: str) -> dict[str, str]:
    """Topics that the node subscribes to, with their types."""
    return table(section("Topics").split("| published |")[0], node)


def published(node: str) -> dict[str, str]:
    """Topics that the node publishes, with their types."""
    return table(section("Topics").split("| published |")[1].partition("\n\n")[0], node)


def full(name: str, node: str) -> str:
    """The name that ROS gives ``name`` in ``node``, a full name."""
    if name.startswith("~/"):
        return f"{node}/{name[2:]}"
    namespace = node.rpartition("/")[0]
    return name if name.startswith("/") else f"{namespace}/{name}"
