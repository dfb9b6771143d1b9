"""Calls a running node's services for verbs of the command line. Imports no ROS 2 before a verb runs."""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam2_ros.media.errors import UserError
from sam2_ros.ros.interface import SERVICES
from sam2_ros.text import printable

if TYPE_CHECKING:
    from std_msgs.msg import Header
    from vision_msgs.msg import BoundingBox2D

    from sam2_ros.msg import ObjectPrompt, PromptResult

REFUSED = 1  # exit code: the node answered, and said no


def add_verb(subparsers: Any, name: str, description: str) -> argparse.ArgumentParser:
    """Adds the parser of a verb that talks to a node."""
    parser: argparse.ArgumentParser = subparsers.add_parser(name, help=description)
    parser.add_argument(
        "--node", type=node_name, default="/tracker", metavar="NAME",
        help="the node, or a camera of it, /tracker/left (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--timeout", type=seconds, default=5.0, metavar="S", help="seconds to wait (default: %(default)s)"
    )
    return parser


def node_name(text: str) -> str:
    """The full name of a node, or of one of its cameras.

    Raises:
        argparse.ArgumentTypeError: ``text`` can be none.
    """
    name = "/" + text.strip("/")
    if not re.fullmatch(r"(/[A-Za-z_]\w*)+", name, re.ASCII):
        raise argparse.ArgumentTypeError(f"'{printable(text)}' is no node's name; accepted: such as /robot/tracker")
    return name


def seconds(text: str) -> float:
    """
    Raises:
        ValueError: ``text`` is no number from 0 on.
    """
    value = float(text)
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(text)
    return value


def add_prompt_arguments(parser: argparse.ArgumentParser, pictures: bool = False) -> None:
    """``pictures``: a picture of an object that is yet to come is accepted, too."""
    parser.add_argument("--box", nargs=4, type=float, metavar=("X0", "Y0", "X1", "Y1"), help="edges in pixels")
    pixel: dict[str, Any] = {"nargs": 2, "type": float, "action": "append", "default": [], "metavar": ("X", "Y")}
    parser.add_argument("--point", **pixel, help="a pixel of the object")
    parser.add_argument("--negative", **pixel, help="a pixel beside it")
    parser.add_argument("--mask", type=Path, metavar="PNG", help="the object's mask, > 0 = object")
    if pictures:
        parser.add_argument(
            "--like", type=Path, metavar="FILE",
            help="a picture of the object (JPEG or PNG), which is tracked when something that looks like it appears; "
            "--box or --mask then say where the object is in the picture",
        )  # fmt: skip
    parser.add_argument("--name", default="", help="a name for the object")
    parser.add_argument("--label", default="", help="its class")
    parser.add_argument(
        "--stamp", type=stamp_in_seconds, default=0, metavar="S",
        help="stamp of the image that the coordinates belong to, in seconds such as 12.340000000; 0 = the newest image",
    )  # fmt: skip


def stamp_in_seconds(text: str) -> int:
    """A stamp in nanoseconds.

    Raises:
        ValueError: ``text`` is no number of seconds from 0 on.
    """
    match = re.fullmatch(r"(\d+)(?:\.(\d{1,9}))?", text)
    if match is None:
        raise ValueError(text)
    return int(match[1]) * 10**9 + int((match[2] or "").ljust(9, "0"))


def prompt_header(args: argparse.Namespace) -> Header:
    """The header that names the image of ``--stamp``."""
    from std_msgs.msg import Header

    from sam2_ros.ros.messages import to_time

    return Header(stamp=to_time(args.stamp))


@contextmanager
def tracker_services(args: argparse.Namespace) -> Iterator[Callable[..., Any]]:
    """Yields ``call(service, **fields)``, which sends a request to the node ``args.node`` and returns the response.

    Raises:
        UserError: ROS 2 is missing, the node is not there, or it does not answer in time.
    """
    try:
        import rclpy

        from sam2_ros.ros.client_node import client_node, tracker_client
    except ImportError as error:
        raise UserError(f"this verb needs ROS 2 ({error}); source its setup file first") from None
    types = {service.name: service.ros_type for service in SERVICES}
    with client_node("sam2_ros_client", start_parameter_services=False) as node:

        def call(service: str, /, **fields: Any) -> Any:
            service_type = types[f"~/{service}"]
            client = tracker_client(node, service_type, args.node, service, args.timeout)
            future = client.call_async(service_type.Request(**fields))
            rclpy.spin_until_future_complete(node, future, timeout_sec=args.timeout)
            if not future.done():
                raise UserError(f"{client.srv_name} gave no answer within {args.timeout:g} s (--timeout waits longer)")
            return future.result()

        yield call


def prompt_message(args: argparse.Namespace) -> ObjectPrompt:
    """The prompt that :func:`add_prompt_arguments` describe.

    Raises:
        UserError: it can't be used, or the mask can't be read.
    """
    from sam2_ros.media.label_images import read_mask
    from sam2_ros.media.prompt_pictures import read_picture, shrunk
    from sam2_ros.media.prompts_file import read_prompt
    from sam2_ros.ros.prompt_messages import to_message
    from sam2_ros.tracking.prompt_checks import check_request
    from sam2_ros.tracking.types import PromptError, PromptRequest

    like = getattr(args, "like", None)
    if not (args.box or args.point or args.negative or args.mask or like):
        raise UserError("nothing says where the object is; give --box, --point or --mask")
    labels = [1] * len(args.point) + [0] * len(args.negative)
    given = {"box": args.box, "points": [*args.point, *args.negative] or None, "labels": labels}
    try:
        prompt = read_prompt(given, read_mask(args.mask) if args.mask else None)
        if like:
            prompt = shrunk(replace(prompt, like=read_picture(like)))
        request = PromptRequest(prompt, None, args.name, args.label)
        check_request(request)
    except PromptError as error:
        raise UserError(str(error)) from error
    return to_message(request)


def ask(args: argparse.Namespace, service: str, /, **fields: Any) -> int:
    """Calls one service and prints its message; returns the exit code."""
    with tracker_services(args) as call:
        return print_answer(call(service, **fields))


def print_answer(response: Any) -> int:
    """Prints the message of a response or result; returns the exit code."""
    print(response.message, file=sys.stdout if response.success else sys.stderr)
    return 0 if response.success else REFUSED


def print_result(result: PromptResult) -> int:
    """Prints what a prompt made; returns the exit code."""
    if not (result.success and result.area):
        return print_answer(result)
    name = f" '{result.name}'" if result.name else ""
    print(
        f"{result.message}: object {result.object_id}{name}, {result.area} px, box {box_text(result.bbox)}, "
        f"predicted IoU {result.predicted_iou:.2f}"
    )
    return 0


def box_text(box: BoundingBox2D) -> str:
    """The edges ``x0 y0 x1 y1``."""
    from sam2_ros.ros.messages import box_edges

    return " ".join(f"{edge:g}" for edge in box_edges(box))
