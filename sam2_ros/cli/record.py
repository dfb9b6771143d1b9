"""``sam2_ros record``: images, tracks, events and prompts of a running tracker, as MCAP."""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

from sam2_ros.media.errors import UserError

PROMPT_SERVICES = ("add_objects", "refine_object", "remove_object", "rename_object", "reset")
METADATA = "sam2_ros"  # name of the record that holds the node's parameters and topics
PATIENCE_S = 10.0
SETTLE_S = 5.0  # until a recorder says that it runs, whatever it hears


def register(subparsers: Any) -> None:
    """Adds the verb to the command line."""
    parser = subparsers.add_parser(
        "record",
        help="record images, tracks and prompts of a running tracker",
        description="Writes what a tracker sees and does into an MCAP file, until Ctrl-C: images, tracks, events, "
        "and the prompts that its services answer. Foxglove and ros2 bag open it; 'sam2_ros replay' tracks it again.",
    )
    parser.add_argument("file", type=Path, help="such as run.mcap")
    parser.add_argument("--node", default="/tracker", metavar="NAME", help="the node, or a camera of it, /tracker/left")
    parser.add_argument("--seconds", type=float, default=0.0, help="end after so long (default: at Ctrl-C)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the verb; returns the exit code.

    Raises:
        UserError: ROS 2 or the library is missing, the tracker is not there, or the file exists.
    """
    if args.file.exists():
        raise UserError(f"{args.file} exists; name another file or remove it")
    try:
        import mcap  # noqa: F401
        import rclpy  # noqa: F401
    except ImportError as error:
        raise UserError(f"this verb needs ROS 2 and the library mcap ({error}): python3 -m pip install mcap") from None
    from sam2_ros.media.child_process import signals_unwind
    from sam2_ros.ros.client_node import client_node
    from sam2_ros.ros.dds_environment import environment

    os.environ.update(environment())
    with client_node("sam2_ros_recorder", start_parameter_services=False) as node, signals_unwind():
        return _record(node, args)


def _record(node: Any, args: argparse.Namespace) -> int:
    import rclpy

    source = _find(node, args.node)
    parameters = _parameters(node, source.node)
    with args.file.open("wb") as stream:
        recorder = Recorder(node, stream, source, parameters)
        _settle(node, source, recorder)
        print(
            f"sam2_ros: recording {source.prefix} and {source.image_topic} into {args.file}; Ctrl-C ends it", flush=True
        )
        end = time.monotonic() + args.seconds if args.seconds else None
        try:
            while end is None or time.monotonic() < end:
                rclpy.spin_once(node, timeout_sec=0.1)
        except (KeyboardInterrupt, SystemExit):
            pass
        recorder.close()
    counts = ", ".join(f"{count} {topic}" for topic, count in sorted(recorder.counts.items()))
    print(f"sam2_ros: {args.file}: {counts or 'nothing was published'}")
    return 0


def _settle(node: Any, source: Any, recorder: Recorder) -> None:
    """Until the recorder is heard by the tracker and hears both it and its camera, if the camera sends at all.

    Whoever is told that the recording runs may give a prompt; its frame and the call itself are then in the file.
    """
    import rclpy

    from sam2_ros.ros.client_node import is_acquainted

    def turn() -> None:
        rclpy.spin_once(node, timeout_sec=0.1)

    is_acquainted(node, source.node, SETTLE_S, turn)
    deadline = time.monotonic() + SETTLE_S
    counts, tracks = recorder.counts, f"{source.prefix}/tracks"
    while source.image_topic not in counts and time.monotonic() < deadline:
        turn()
    enough = counts.get(tracks, 0) + 2  # the next may still be of an image before the first
    while source.image_topic in counts and counts.get(tracks, 0) < enough and time.monotonic() < deadline:
        turn()


def _find(node: Any, name: str) -> Any:
    import rclpy

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
    raise UserError(f"no active tracker {name} within {PATIENCE_S:g} s; is it running? (--node names another one)")


def _parameters(node: Any, owner: str) -> dict[str, Any]:
    """What the engine is set to, so that a replay can be set alike."""
    from rcl_interfaces.srv import GetParameters
    from rclpy.parameter import parameter_value_to_python

    from sam2_ros.ros.client_node import tracker_client
    from sam2_ros.ros.parameters import PARAMETERS

    names = [each.name for each in PARAMETERS if each.name.startswith(("model.", "tracker."))]
    client = tracker_client(node, GetParameters, owner, "get_parameters", PATIENCE_S)
    future = client.call_async(GetParameters.Request(names=names))
    import rclpy

    rclpy.spin_until_future_complete(node, future, timeout_sec=PATIENCE_S)
    if not future.done():
        raise UserError(f"{owner} does not tell its parameters within {PATIENCE_S:g} s")
    return dict(zip(names, map(parameter_value_to_python, future.result().values), strict=True))


class Recorder:
    """Writes serialised messages as they arrive; nothing is decoded."""

    def __init__(self, node: Any, stream: Any, source: Any, parameters: dict[str, Any]) -> None:
        from mcap.writer import Writer
        from sensor_msgs.msg import CompressedImage, Image

        from sam2_ros import __version__
        from sam2_ros.ros.interface import EVENTS, TRACKS, VIEWS
        from sam2_ros.srv import AddObjects, RefineObject, RemoveObject, RenameObject, Reset

        self.counts: dict[str, int] = {}
        self._node = node
        self._writer = Writer(stream)
        self._writer.start(profile="ros2", library=f"sam2_ros {__version__}")
        about = {"prefix": source.prefix, "image": source.image_topic, "parameters": json.dumps(parameters)}
        self._writer.add_metadata(METADATA, about)
        self._schemas: dict[str, int] = {}
        self._subscribe(CompressedImage if source.compressed else Image, source.image_topic)
        # Markers and annotations, so that Foxglove shows a recording as it shows the live topics.
        drawn = [view for view in VIEWS if view.name in ("~/markers", "~/annotations")]
        for topic in (TRACKS, EVENTS, *drawn):
            if topic.installed:
                self._subscribe(topic.message_type, source.prefix + topic.name.removeprefix("~"))
        types = (AddObjects, RefineObject, RemoveObject, RenameObject, Reset)
        for service, name in zip(types, PROMPT_SERVICES, strict=True):
            if hasattr(service, "Event"):  # Humble has no service introspection
                kind = f"sam2_ros/srv/{service.__name__}_Event"
                self._subscribe(service.Event, f"{source.prefix}/{name}/_service_event", kind)

    def close(self) -> None:
        self._writer.finish()

    def _subscribe(self, message_type: type, topic: str, type_name: str = "") -> None:
        from rclpy.qos import QoSProfile, ReliabilityPolicy

        from sam2_ros.ros.definitions import definition

        package = message_type.__module__.partition(".")[0]
        name = type_name or f"{package}/msg/{message_type.__name__}"
        if name not in self._schemas:
            self._schemas[name] = self._writer.register_schema(name, "ros2msg", definition(name).encode())
        channel = self._writer.register_channel(topic, "cdr", self._schemas[name])
        offers = self._node.get_publishers_info_by_topic(topic)
        reliable = bool(offers) and all(o.qos_profile.reliability == ReliabilityPolicy.RELIABLE for o in offers)
        reliability = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT

        def write(data: bytes) -> None:
            now = time.time_ns()
            self._writer.add_message(channel, log_time=now, data=data, publish_time=now)
            self.counts[topic] = self.counts.get(topic, 0) + 1

        qos = QoSProfile(depth=50, reliability=reliability)
        self._node.create_subscription(message_type, topic, write, qos, raw=True)
