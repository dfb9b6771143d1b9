"""``sam2_ros rename``: changes the name and label of an object."""

from __future__ import annotations

import argparse
from typing import Any

from sam2_ros.media.errors import UserError
from sam2_ros.ros.node_services import add_verb, print_answer, tracker_services


def register(subparsers: Any) -> None:
    parser = add_verb(subparsers, "rename", "change an object's name and label")
    parser.add_argument("object", help="name or id")
    parser.add_argument("--name", help="the new name; '' = none (default: unchanged)")
    parser.add_argument("--label", help="the new label; '' = none (default: unchanged)")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    if args.name is None and args.label is None:
        raise UserError("give the new --name, the new --label, or both")
    with tracker_services(args) as call:
        listed = call("list_objects")
        if not listed.success:
            return print_answer(listed)
        objects = listed.tracks.objects
        kept = {str(obj.id): obj for obj in objects} | {obj.name: obj for obj in objects if obj.name}
        known = kept.get(args.object)  # the node refuses others
        texts = {key: getattr(known, key, "") if (given := getattr(args, key)) is None else given
                 for key in ("name", "label")}  # fmt: skip
        return print_answer(call("rename_object", object_id=args.object, **texts))
