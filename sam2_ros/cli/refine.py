"""``sam2_ros refine``: corrects an object of a running node."""

from __future__ import annotations

import argparse
from typing import Any

from sam2_ros.media.errors import UserError
from sam2_ros.ros.node_services import (
    add_prompt_arguments,
    add_verb,
    print_answer,
    print_result,
    prompt_header,
    prompt_message,
    tracker_services,
)
from sam2_ros.text import printable


def register(subparsers: Any) -> None:
    parser = add_verb(subparsers, "refine", "correct an object of a running node")
    parser.add_argument("object", help="name or id")
    add_prompt_arguments(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    with tracker_services(args) as call:
        prompt = prompt_message(args)
        listed = call("list_objects")
        if not listed.success:
            return print_answer(listed)
        prompt.object_id = _find_id(args.object, listed)
        return print_result(call("refine_object", request_header=prompt_header(args), prompt=prompt).result)


def _find_id(name_or_id: str, listed: Any) -> int:
    """
    Raises:
        UserError: no living object has this name, and it is no id.
    """
    from sam2_ros.tracking.prompt_checks import MAX_ID

    ids = {obj.name: int(obj.id) for obj in reversed(listed.tracks.objects)}
    if name_or_id in ids:
        return ids[name_or_id]
    if name_or_id.isdecimal() and 0 < (number := int(name_or_id[:20])) <= MAX_ID:
        return number
    living = ", ".join(obj.name or str(obj.id) for obj in listed.tracks.objects) or "none"
    raise UserError(f"no object has the name or id '{printable(name_or_id)}'; living: {living}")
