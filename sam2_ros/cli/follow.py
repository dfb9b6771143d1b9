"""``sam2_ros follow``: follows one object of a running node and prints what happens to it."""

from __future__ import annotations

import argparse
import functools
import math
from typing import TYPE_CHECKING, Any

from sam2_ros.media.errors import UserError
from sam2_ros.ros.node_services import add_prompt_arguments, add_verb, prompt_header, prompt_message, seconds

if TYPE_CHECKING:
    from rclpy.node import Node

_UNKNOWN, _SUCCEEDED = 0, 4  # action_msgs/GoalStatus
_ANSWER = 10.0  # seconds for the result after a cancellation


def register(subparsers: Any) -> None:
    parser = add_verb(subparsers, "follow", "follow one object of a running node until something ends it")
    add_prompt_arguments(parser, pictures=True)
    parser.add_argument("--object", default="", metavar="NAME|ID", help="a living object, instead of a prompt")
    parser.add_argument("--wait-for", default="", metavar="NAME|LABEL", help="the first object of this name or label")
    limits = (
        ("find-timeout", "seconds until the object must have been seen"),
        ("lost-timeout", "seconds that it may be out of sight"),
        ("time-limit", "seconds to follow it"),
    )
    for name, text in limits:
        parser.add_argument(f"--{name}", type=seconds, default=0.0, metavar="S", help=f"{text}; 0 = no limit")
    parser.add_argument("--remove", action="store_true", help="forget the object at the end")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    given = bool(args.box or args.point or args.negative or args.mask or args.like)
    if given + bool(args.object) + bool(args.wait_for) != 1:
        raise UserError("give one of: a prompt (--box, --point, --mask, --like), --object, --wait-for")
    try:
        import rclpy
        from rclpy.action import ActionClient

        from sam2_ros.action import TrackObject
        from sam2_ros.ros.client_node import client_node, other_trackers, server_knows_clients
    except ImportError as error:
        raise UserError(f"this verb needs ROS 2 ({error}); source its setup file first") from None
    from sam2_ros.msg import ObjectPrompt

    prompt = prompt_message(args) if given else ObjectPrompt()
    if args.object.isdecimal():
        prompt.object_id = int(args.object)
    elif args.object:
        prompt.name = args.object
    goal = TrackObject.Goal(
        request_header=prompt_header(args), prompt=prompt, wait_for=args.wait_for, find_timeout=args.find_timeout,
        lost_timeout=args.lost_timeout, time_limit=args.time_limit, remove_at_end=args.remove,
    )  # fmt: skip
    turn = functools.partial(rclpy.spin_once, timeout_sec=0.5)
    with client_node("sam2_ros_follow", start_parameter_services=False) as node:
        name = f"{args.node.rstrip('/')}/track_object"
        client = ActionClient(node, TrackObject, name)
        if not client.wait_for_server(args.timeout):
            raise UserError(f"no action {name} within {args.timeout:g} s; {other_trackers(node, args.node)}")
        if not server_knows_clients(node, args.node, args.timeout, lambda: turn(node)):
            raise UserError(f"{name} gave no answer within {args.timeout:g} s (--timeout waits longer)")
        sent = client.send_goal_async(goal, lambda message: _print(message.feedback))
        rclpy.spin_until_future_complete(node, sent, timeout_sec=args.timeout)
        if not sent.done() or not sent.result().accepted:
            raise UserError(f"{name} did not take the goal; too many may be running")
        answers, servers = [sent.result().get_result_async()], _servers(node, name)
        try:
            while not any(answer.done() for answer in answers):
                turn(node)
                before, servers = servers, _servers(node, name)
                if before - servers:  # if it was ours, a respawned one does not know the goal, and says so
                    answers.append(sent.result().get_result_async())
                if not client.server_is_ready():
                    break
        except KeyboardInterrupt:
            sent.result().cancel_goal_async()
            rclpy.spin_until_future_complete(node, answers[0], timeout_sec=_ANSWER)
            raise
        answer = next((answer.result() for answer in answers if answer.done()), None)
    if answer is None or answer.status == _UNKNOWN:
        raise UserError(f"{name} is gone; the node has ended")
    print(answer.result.message)
    return 0 if answer.status == _SUCCEEDED else 1


def _servers(node: Node, action: str) -> set[bytes]:
    """The processes that offer an action; a killed one counts for up to 20 s."""
    infos = node.get_publishers_info_by_topic(f"{action}/_action/status")
    return {bytes(info.endpoint_gid) for info in infos}


def _print(feedback: Any) -> None:
    from sam2_ros.tracking.types import ObjectState

    obj, box = feedback.object, feedback.object.bbox
    where = f"middle {box.center.position.x:.0f} {box.center.position.y:.0f}, {obj.area} px" if obj.area else "no mask"
    if obj.position_frame:
        place = obj.filtered_position if obj.motion_valid else obj.position
        where += f", at {place.x:.3f} {place.y:.3f} {place.z:.3f} m"
    state = ObjectState(obj.state).name.lower()
    name = f" {obj.name}" if obj.name else ""
    age = f"mask {feedback.mask_age:.2f} s old" if math.isfinite(feedback.mask_age) else "never seen"
    print(f"{obj.id}{name} {state} {obj.visibility:.2f}, {where}, {age}", flush=True)
