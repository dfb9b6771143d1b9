"""``sam2_ros remove``: has a running node forget an object."""

from __future__ import annotations

from typing import Any

from sam2_ros.ros.node_services import add_verb, ask


def register(subparsers: Any) -> None:
    parser = add_verb(subparsers, "remove", "have a running node forget an object")
    parser.add_argument("object", help="name or id")
    parser.set_defaults(run=lambda args: ask(args, "remove_object", object_id=args.object))
