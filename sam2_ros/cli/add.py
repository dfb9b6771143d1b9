"""``sam2_ros add``: has a running node track an object."""

from __future__ import annotations

import argparse
from typing import Any

from sam2_ros.ros.node_services import (
    add_prompt_arguments,
    add_verb,
    print_answer,
    print_result,
    prompt_header,
    prompt_message,
    tracker_services,
)


def register(subparsers: Any) -> None:
    parser = add_verb(subparsers, "add", "have a running node track an object")
    add_prompt_arguments(parser, pictures=True)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    with tracker_services(args) as call:
        response = call("add_objects", request_header=prompt_header(args), prompts=[prompt_message(args)])
    return print_result(response.results[0]) if response.results else print_answer(response)
