"""``sam2_ros reset``: has a running node forget every object."""

from __future__ import annotations

from typing import Any

from sam2_ros.ros.node_services import add_verb, ask


def register(subparsers: Any) -> None:
    parser = add_verb(subparsers, "reset", "have a running node forget every object")
    parser.set_defaults(run=lambda args: ask(args, "reset"))
