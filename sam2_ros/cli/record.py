"""``sam2_ros record``: images, tracks, events and prompts of a running tracker, as MCAP."""

from __future__ import annotations

import argparse
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam2_ros.cli.options import RECORDING_CURE, require_modules
from sam2_ros.media.errors import UserError
from sam2_ros.ros.interface import to_activate
from sam2_ros.ros.node_services import node_name, seconds

if TYPE_CHECKING:
    from rclpy.node import Node

    from sam2_ros.ros.recording_file import RecordingWriter
    from sam2_ros.viewer.discovery import Source

PATIENCE_S = 10.0
SETTLE_S = 5.0  # after this the recorder says that it runs, whatever it receives
INPUT_SIDE = "image size [px]"  # in the node's diagnostics


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "record",
        help="record images, tracks and prompts of a running tracker",
        description="Records a tracker into an MCAP file until Ctrl-C: images, tracks, events, "
        "and the prompts that its services answer. Foxglove and ros2 bag open it; 'sam2_ros replay' tracks it "
        "again, also if the recorder was killed.",
    )
    parser.add_argument("file", type=Path, help="such as run.mcap")
    parser.add_argument(
        "--node", type=node_name, default="/tracker", metavar="NAME", help="the node, or a camera of it, /tracker/left"
    )
    parser.add_argument(
        "--seconds", type=seconds, default=0.0, metavar="S", help="end after so long (default: at Ctrl-C)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.file.exists():
        raise UserError(f"{args.file} exists; name another file or remove it")
    if not args.file.parent.is_dir():
        raise UserError(f"{args.file.parent}: no such folder; make it first")
    require_modules(("mcap", "rclpy"), RECORDING_CURE)
    from rclpy.logging import LoggingSeverity

    from sam2_ros.media.signals import signals_unwind
    from sam2_ros.ros.client_node import client_node
    from sam2_ros.ros.dds_environment import environment

    os.environ.update(environment())
    with client_node("sam2_ros_recorder", start_parameter_services=False) as node, signals_unwind():
        node.get_logger().set_level(LoggingSeverity.WARN)  # a line for each subscription is no news
        return _record(node, args)


def _record(node: Node, args: argparse.Namespace) -> int:
    from sam2_ros.media.signals import signals_wait
    from sam2_ros.ros.recording_file import RecordingWriter

    source = _find(node, args.node)
    parameters = _parameters(node, source.node)
    writer = RecordingWriter(node, args.file, source.prefix, source.image_topic, source.compressed, parameters)
    try:
        try:
            _receive(node, source, writer, args)
        except KeyboardInterrupt:  # a signal is the usual end
            pass
        finally:
            with suppress(KeyboardInterrupt), signals_wait():
                writer.close()
    except OSError as error:
        raise UserError(
            f"{args.file}: {error.strerror or error}; the recording has ended, and 'sam2_ros replay' can use what was "
            f"written before: {_listed(writer)}"
        ) from None
    print(f"sam2_ros: {args.file}: {_listed(writer)}")
    return 0


def _receive(node: Node, source: Source, writer: RecordingWriter, args: argparse.Namespace) -> None:
    """Records until ``--seconds`` are over."""
    import rclpy

    _settle(node, source, writer)
    print(f"sam2_ros: recording {source.prefix} and {source.image_topic} into {args.file}; Ctrl-C ends it", flush=True)
    end = time.monotonic() + args.seconds if args.seconds else None
    while end is None or time.monotonic() < end:
        rclpy.spin_once(node, timeout_sec=0.1)


def _listed(writer: RecordingWriter) -> str:
    return ", ".join(f"{count} {topic}" for topic, count in sorted(writer.counts.items())) or "nothing was published"


def _settle(node: Node, source: Source, writer: RecordingWriter) -> None:
    """Waits until tracker, camera and recorder know each other, if the camera sends at all.

    The verb then says that it records. A prompt that is given from then on is in the file, with its frame.
    """
    import rclpy

    from sam2_ros.ros.client_node import server_knows_clients

    def turn() -> None:
        rclpy.spin_once(node, timeout_sec=0.1)

    server_knows_clients(node, source.node, SETTLE_S, turn)
    deadline = time.monotonic() + SETTLE_S
    counts, tracks = writer.counts, f"{source.prefix}/tracks"
    while source.image_topic not in counts and time.monotonic() < deadline:
        turn()
    enough = counts.get(tracks, 0) + 2  # the next may still be of an image before the first
    while source.image_topic in counts and counts.get(tracks, 0) < enough and time.monotonic() < deadline:
        turn()


def _find(node: Node, name: str) -> Source:
    import rclpy

    from sam2_ros.ros.client_node import is_tracker, other_trackers, owner_of
    from sam2_ros.viewer.discovery import find_sources

    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        sources = [source for source in find_sources(node, name) if source.image_topic]
        if len(sources) > 1:
            cameras = ", ".join(source.prefix for source in sources)
            raise UserError(f"{name} has several cameras; choose one with --node: {cameras}")
        if sources:
            return sources[0]
        rclpy.spin_once(node, timeout_sec=0.2)
    owner = owner_of(node, name)
    if owner and is_tracker(node, owner) and not any(source.image_topic for source in find_sources(node, owner)):
        raise UserError(f"{owner} is not active; run: {to_activate(owner, 'configure')}")
    raise UserError(f"no tracker {name} within {PATIENCE_S:g} s; {other_trackers(node, name)}")


def _parameters(node: Node, owner: str) -> dict[str, Any]:
    """The engine's settings, so that a replay can use the same."""
    import rclpy
    from rcl_interfaces.srv import GetParameters
    from rclpy.parameter import parameter_value_to_python

    from sam2_ros.ros.client_node import tracker_client
    from sam2_ros.ros.parameters import PARAMETERS

    names = [parameter.name for parameter in PARAMETERS if parameter.name.startswith(("model.", "tracker."))]
    client = tracker_client(node, GetParameters, owner, "get_parameters", PATIENCE_S)
    future = client.call_async(GetParameters.Request(names=names))
    rclpy.spin_until_future_complete(node, future, timeout_sec=PATIENCE_S)
    if not future.done():
        raise UserError(f"{owner} did not answer get_parameters within {PATIENCE_S:g} s")
    values = dict(zip(names, map(parameter_value_to_python, future.result().values), strict=True))
    values["model.image_size"] = values["model.image_size"] or _input_side(node, owner)
    return values


def _input_side(node: Node, owner: str) -> int:
    """The side of the network's input that ``owner`` chose, by its diagnostics; 0: it says none in time."""
    import rclpy
    from diagnostic_msgs.msg import DiagnosticArray

    sides: list[int] = []

    def read(message: DiagnosticArray) -> None:
        told = (value for status in message.status if status.hardware_id == owner for value in status.values)
        sides.extend(int(value.value) for value in told if value.key == INPUT_SIDE and value.value.isdigit())

    subscription = node.create_subscription(DiagnosticArray, "/diagnostics", read, 10)
    deadline = time.monotonic() + SETTLE_S
    while not sides and time.monotonic() < deadline:
        rclpy.spin_once(node, timeout_sec=0.1)
    node.destroy_subscription(subscription)
    return sides[0] if sides else 0
