"""``sam2_ros add|list|remove|refine|rename|reset``: the node's services in the terminal."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam2_ros.media.errors import UserError

if TYPE_CHECKING:
    from sam2_ros.msg import ObjectPrompt, PromptResult, TrackedObject

REFUSED = 1  # exit code: the node answered, and said no

Call = Callable[[type, str, Any], Any]  # service type, name, request -> response


def register(subparsers: Any) -> None:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--node", default="/tracker", metavar="NAME", help="the node (default: %(default)s)")
    common.add_argument(
        "--timeout", type=float, default=5.0, metavar="S", help="seconds to wait (default: %(default)s)"
    )

    add = subparsers.add_parser("add", parents=[common], help="have a running node track an object")
    _add_prompt_arguments(add)
    add.set_defaults(run=_run_add)

    refine = subparsers.add_parser("refine", parents=[common], help="correct an object of a running node")
    refine.add_argument("object", help="name or id")
    _add_prompt_arguments(refine)
    refine.set_defaults(run=_run_refine)

    remove = subparsers.add_parser("remove", parents=[common], help="have a running node forget an object")
    remove.add_argument("object", help="name or id")
    remove.set_defaults(run=_run_remove)

    rename = subparsers.add_parser("rename", parents=[common], help="change an object's name and label")
    rename.add_argument("object", help="name or id")
    rename.add_argument("--name", default="", help="the new name (default: none)")
    rename.add_argument("--label", default="", help="the new label (default: none)")
    rename.set_defaults(run=_run_rename)

    listing = subparsers.add_parser("list", parents=[common], help="list the objects of a running node")
    listing.set_defaults(run=_run_list)

    reset = subparsers.add_parser("reset", parents=[common], help="have a running node forget every object")
    reset.set_defaults(run=_run_reset)


def _add_prompt_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--box", nargs=4, type=float, metavar=("X0", "Y0", "X1", "Y1"), help="edges in pixels")
    parser.add_argument(
        "--point", nargs=2, type=float, action="append", default=[], metavar=("X", "Y"), help="a pixel of the object"
    )
    parser.add_argument(
        "--negative", nargs=2, type=float, action="append", default=[], metavar=("X", "Y"), help="a pixel beside it"
    )
    parser.add_argument("--mask", type=Path, metavar="PNG", help="the object's mask, > 0 = object")
    parser.add_argument("--name", default="", help="a name for the object")
    parser.add_argument("--label", default="", help="its class")


def _run_add(args: argparse.Namespace) -> int:
    from sam2_ros.srv import AddObjects

    request = AddObjects.Request(prompts=[_prompt(args)])
    with _client(args) as call:
        response = call(AddObjects, "add_objects", request)
    return _tell_result(response.results[0]) if response.results else _tell(response)


def _run_refine(args: argparse.Namespace) -> int:
    from sam2_ros.srv import ListObjects, RefineObject

    prompt = _prompt(args)
    with _client(args) as call:
        prompt.object_id = _id_of(args.object, call(ListObjects, "list_objects", ListObjects.Request()))
        response = call(RefineObject, "refine_object", RefineObject.Request(prompt=prompt))
    return _tell_result(response.result)


def _run_remove(args: argparse.Namespace) -> int:
    from sam2_ros.srv import RemoveObject

    with _client(args) as call:
        return _tell(call(RemoveObject, "remove_object", RemoveObject.Request(object_id=args.object)))


def _run_rename(args: argparse.Namespace) -> int:
    from sam2_ros.srv import RenameObject

    request = RenameObject.Request(object_id=args.object, name=args.name, label=args.label)
    with _client(args) as call:
        return _tell(call(RenameObject, "rename_object", request))


def _run_list(args: argparse.Namespace) -> int:
    from sam2_ros.srv import ListObjects

    with _client(args) as call:
        response = call(ListObjects, "list_objects", ListObjects.Request())
    if not response.success:
        return _tell(response)
    print(f"{'id':>4}  {'name':<16} {'label':<16} {'state':<9} {'visible':>7} {'IoU':>5}  box (x0 y0 x1 y1)")
    for known in response.tracks.objects:
        print(_row(known))
    return _tell(response)


def _run_reset(args: argparse.Namespace) -> int:
    from sam2_ros.srv import Reset

    with _client(args) as call:
        return _tell(call(Reset, "reset", Reset.Request()))


@contextmanager
def _client(args: argparse.Namespace) -> Iterator[Call]:
    """Gives a function that calls a service of the node and waits for its answer.

    Raises:
        UserError: ROS 2 is missing, the node is not there, or it does not answer in time.
    """
    try:
        import rclpy

        from sam2_ros.ros.client_node import client_node, tracker_client
    except ImportError as error:
        raise UserError(f"this verb needs ROS 2 ({error}); source its setup file first") from None
    with client_node("sam2_ros_client", start_parameter_services=False) as node:

        def call(service_type: type, name: str, request: Any) -> Any:
            client = tracker_client(node, service_type, args.node, name, args.timeout)
            future = client.call_async(request)
            rclpy.spin_until_future_complete(node, future, timeout_sec=args.timeout)
            if not future.done():
                raise UserError(f"{client.srv_name} gave no answer within {args.timeout:g} s (--timeout waits longer)")
            return future.result()

        yield call


def _prompt(args: argparse.Namespace) -> ObjectPrompt:
    from vision_msgs.msg import BoundingBox2D, Point2D

    from sam2_ros.msg import ObjectPrompt

    prompt = ObjectPrompt(name=args.name, label=args.label)
    if args.box is not None:
        x0, y0, x1, y1 = args.box
        box = BoundingBox2D(size_x=x1 - x0, size_y=y1 - y0)
        box.center.position.x, box.center.position.y = (x0 + x1) / 2, (y0 + y1) / 2
        prompt.box = [box]
    prompt.points = [Point2D(x=x, y=y) for x, y in [*args.point, *args.negative]]
    prompt.point_labels = [1] * len(args.point) + [0] * len(args.negative)
    if args.mask is not None:
        prompt.mask = _mask_image(args.mask)
    if not (prompt.box or prompt.points or args.mask):
        raise UserError("nothing says where the object is; give --box, --point or --mask")
    return prompt


def _mask_image(path: Path) -> Any:
    import numpy as np
    from sensor_msgs.msg import Image

    from sam2_ros.media.label_images import read_mask
    from sam2_ros.ros.messages import byte_array

    mask = read_mask(path)
    height, width = mask.shape
    data = byte_array(mask.view(np.uint8) * np.uint8(255))
    return Image(height=height, width=width, encoding="mono8", step=width, data=data)


def _id_of(name_or_id: str, listed: Any) -> int:
    if not listed.success:
        raise UserError(listed.message)
    objects = listed.tracks.objects
    for known in objects:
        if known.name == name_or_id:
            return int(known.id)
    if name_or_id.isdecimal() and int(name_or_id) > 0:
        return int(name_or_id)
    living = ", ".join(known.name or str(known.id) for known in objects) or "none"
    raise UserError(f"no object has the name or id '{name_or_id}'; living: {living}")


def _tell(response: Any) -> int:
    print(response.message, file=sys.stdout if response.success else sys.stderr)
    return 0 if response.success else REFUSED


def _tell_result(result: PromptResult) -> int:
    if not result.success:
        return _tell(result)
    name = f" '{result.name}'" if result.name else ""
    print(
        f"{result.message}: object {result.object_id}{name}, {result.area} px, box {_box(result.bbox)}, "
        f"predicted IoU {result.predicted_iou:.2f}"
    )
    return 0


def _row(known: TrackedObject) -> str:
    state = {known.STATE_VISIBLE: "visible", known.STATE_OCCLUDED: "occluded", known.STATE_LOST: "lost"}[known.state]
    return (
        f"{known.id:>4}  {known.name or '-':<16} {known.label or '-':<16} {state:<9} {known.visibility:>7.2f} "
        f"{known.predicted_iou:>5.2f}  {_box(known.bbox) if known.area else '-'}"
    )


def _box(box: Any) -> str:
    x, y = box.center.position.x, box.center.position.y
    edges = (x - box.size_x / 2, y - box.size_y / 2, x + box.size_x / 2, y + box.size_y / 2)
    return " ".join(f"{edge:g}" for edge in edges)
