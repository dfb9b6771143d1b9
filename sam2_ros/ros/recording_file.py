"""The MCAP file of ``sam2_ros record``: images, prompts and tracks. Needs the library mcap."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image

from sam2_ros import __version__, srv
from sam2_ros.media.errors import UserError
from sam2_ros.msg import TrackedObjectArray
from sam2_ros.ros.definitions import definition
from sam2_ros.ros.interface import EVENTS, SERVICES, TRACKS, VIEWS
from sam2_ros.ros.messages import to_stamp
from sam2_ros.ros.subscription import offered_reliability

_METADATA = "sam2_ros"  # name of the record that holds the node's parameters and topics


class RecordingWriter:
    """Writes serialised messages as they arrive; nothing is decoded."""

    def __init__(
        self,
        node: Node,
        stream: IO[bytes],
        tracker: str,
        image_topic: str,
        compressed: bool,
        parameters: dict[str, Any],
    ) -> None:
        """Subscribes ``node`` to everything. ``tracker`` is the prefix of the tracker's topics and services."""
        from mcap.writer import Writer

        self.counts: Counter[str] = Counter()  # messages by topic
        self._node = node
        self._writer = Writer(stream)
        self._writer.start(profile="ros2", library=f"sam2_ros {__version__}")
        about = {"prefix": tracker, "image": image_topic, "parameters": json.dumps(parameters)}
        self._writer.add_metadata(_METADATA, about)
        self._schemas: dict[str, int] = {}
        self._subscribe(CompressedImage if compressed else Image, image_topic)
        # Markers and annotations, so that Foxglove shows a recording as it shows the live topics.
        drawn = [view for view in VIEWS if view.name in ("~/markers", "~/annotations")]
        for topic in (TRACKS, EVENTS, *drawn):
            if topic.installed:
                self._subscribe(topic.ros_type, tracker + topic.name.removeprefix("~"))
        for service in SERVICES:
            # list_objects changes nothing; Humble has no service introspection
            if service.name != "~/list_objects" and hasattr(service.ros_type, "Event"):
                calls = f"{tracker}{service.name.removeprefix('~')}/_service_event"
                self._subscribe(service.ros_type.Event, calls)

    def close(self) -> None:
        """Completes the file."""
        self._writer.finish()

    def _subscribe(self, message_type: type, topic: str) -> None:
        package, folder, _ = message_type.__module__.split(".")  # sensor_msgs.msg._image
        name = f"{package}/{folder}/{message_type.__name__}"
        if name not in self._schemas:
            self._schemas[name] = self._writer.register_schema(name, "ros2msg", definition(name).encode())
        channel = self._writer.register_channel(topic, "cdr", self._schemas[name])

        def write(data: bytes) -> None:
            now = time.time_ns()
            self._writer.add_message(channel, log_time=now, data=data, publish_time=now)
            self.counts[topic] += 1

        qos = QoSProfile(depth=50, reliability=offered_reliability(self._node, topic))
        self._node.create_subscription(message_type, topic, write, qos, raw=True)


class PromptCall(NamedTuple):
    """A call of a prompt service."""

    service: str  # AddObjects
    request: Any
    response: Any


@dataclass
class RecordedFrame:
    """An image that the tracker processed, its tracks, and the calls that came after it."""

    stamp: int
    image: Any
    tracks: Any = None  # the last that were published for it
    calls: list[PromptCall] = field(default_factory=list)


def read_recording(file: Path) -> tuple[dict[str, Any], list[RecordedFrame]]:
    """The node's parameters, and the frames in the order in which they happened.

    Raises:
        UserError: the file is no recording of a tracker.
    """
    from mcap.exceptions import McapError
    from mcap.reader import make_reader

    with file.open("rb") as stream:
        try:
            reader = make_reader(stream)
            about = next((entry.metadata for entry in reader.iter_metadata() if entry.name == _METADATA), None)
            if about is None:
                raise UserError(f"{file} names no tracker; accepted: what 'sam2_ros record' wrote")
            frames = _frames(reader.iter_messages(log_time_order=True), about)
        except McapError as error:
            raise UserError(f"{file} can't be read as MCAP ({type(error).__name__}: {error})") from None
    if not frames:
        raise UserError(f"{file} holds no image with its tracks")
    return json.loads(about["parameters"]), frames


def _frames(messages: Iterable[Any], about: dict[str, str]) -> list[RecordedFrame]:
    images: dict[int, Any] = {}
    frames: dict[int, RecordedFrame] = {}
    requests: dict[tuple[str, bytes, int], Any] = {}
    calls: list[tuple[int, PromptCall]] = []  # with the newest frame's stamp when it was answered
    for schema, channel, message in messages:
        if channel.topic == about["image"]:
            kind = CompressedImage if schema.name.endswith("CompressedImage") else Image
            image = deserialize_message(message.data, kind)
            images[to_stamp(image.header.stamp)] = image
        elif channel.topic == f"{about['prefix']}/tracks":
            tracks = deserialize_message(message.data, TrackedObjectArray)
            stamp = to_stamp(tracks.header.stamp)
            if stamp in images or stamp in frames:
                frames.setdefault(stamp, RecordedFrame(stamp, images.get(stamp))).tracks = tracks
        elif schema.name.endswith("_Event"):
            name = schema.name.rpartition("/")[2].removesuffix("_Event")
            event = deserialize_message(message.data, getattr(srv, name).Event)
            key = (name, bytes(event.info.client_gid), event.info.sequence_number)
            if event.info.event_type == event.info.REQUEST_RECEIVED and event.request:
                requests[key] = event.request[0]
            elif event.info.event_type == event.info.RESPONSE_SENT and event.response and key in requests:
                call = PromptCall(name, requests.pop(key), event.response[0])
                calls.append((_applied_after(call.response, max(frames, default=0)), call))
    ordered = [frames[stamp] for stamp in sorted(frames)]
    for after, call in calls:
        if frame := next((frame for frame in reversed(ordered) if frame.stamp <= after), None):
            frame.calls.append(call)
        else:
            print(f"sam2_ros: a call of {call.service} came before the first recorded image; left out", file=sys.stderr)
    return ordered


def _applied_after(response: Any, newest: int) -> int:
    """The stamp of the frame that was the newest when a call was carried out."""
    results = [*getattr(response, "results", []), *([response.result] if hasattr(response, "result") else [])]
    for result in results:
        if result.success:  # half a microsecond for the rounding of seconds in a float
            return to_stamp(result.applied_stamp) + round(result.prompt_age * 1e9) + 500
    return newest
