"""``sam2_ros list``: lists the objects of a running node."""

from __future__ import annotations

import argparse
from typing import Any

from sam2_ros.ros.node_services import add_verb, box_text, print_answer, tracker_services


def register(subparsers: Any) -> None:
    add_verb(subparsers, "list", "list the objects of a running node").set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from sam2_ros.tracking.types import ObjectState

    with tracker_services(args) as call:
        response = call("list_objects")
    if response.success:
        print(f"{'id':>4}  {'name':<16} {'label':<16} {'state':<9} {'visible':>7} {'IoU':>5}  box (x0 y0 x1 y1)")
        for obj in response.tracks.objects:
            state = ObjectState(obj.state).name.lower()
            print(
                f"{obj.id:>4}  {obj.name or '-':<16} {obj.label or '-':<16} {state:<9} {obj.visibility:>7.2f} "
                f"{obj.predicted_iou:>5.2f}  {box_text(obj.bbox) if obj.area else '-'}"
            )
    return print_answer(response)
