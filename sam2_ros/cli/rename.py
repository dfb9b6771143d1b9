"""``sam2_ros rename``: changes the name and label of an object."""

from __future__ import annotations

from typing import Any

from sam2_ros.ros.node_services import add_verb, ask


def register(subparsers: Any) -> None:
    parser = add_verb(subparsers, "rename", "change an object's name and label")
    parser.add_argument("object", help="name or id")
    parser.add_argument("--name", default="", help="the new name (default: none)")
    parser.add_argument("--label", default="", help="the new label (default: none)")
    parser.set_defaults(
        run=lambda args: ask(args, "rename_object", object_id=args.object, name=args.name, label=args.label)
    )
