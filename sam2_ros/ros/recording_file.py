"""Writes the MCAP file of ``sam2_ros record``: images, prompts and tracks. Needs the library mcap."""

from __future__ import annotations

import json
import os
import pickle
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image

from sam2_ros import __version__
from sam2_ros.ros.definitions import definition
from sam2_ros.ros.interface import EVENTS, SERVICES, TRACKS, VIEWS
from sam2_ros.ros.subscription import FollowingSubscription

if TYPE_CHECKING:
    from mcap.records import ChunkIndex

_CHUNK = 1 << 15  # bytes of messages that are written together, and lost together when the process is killed
_QUEUE = 50  # messages of a topic that may wait
METADATA = "sam2_ros"  # name of the record that holds the node's parameters and topics


class RecordingWriter:
    """Writes serialised messages as they arrive; nothing is decoded.

    Its methods, and the node's callbacks, raise an OSError if the disk is full.
    """

    def __init__(
        self,
        node: Node,
        path: Path,
        tracker: str,
        image_topic: str,
        compressed: bool,
        parameters: dict[str, Any],
    ) -> None:
        """Makes the file and subscribes ``node`` to everything.

        Args:
            path: of a file that does not exist.
            tracker: prefix of the tracker's topics and services.
        """
        from mcap.writer import Writer

        self.counts: Counter[str] = Counter()  # messages by topic
        self._node = node
        self._file = _DirectFile(path)
        self._writer = Writer(cast(IO[bytes], self._file), chunk_size=_CHUNK)
        self._index = _StoredIndex(path.parent)
        if hasattr(self._writer, "_Writer__chunk_indices"):  # a list, which would grow by 2 MiB a minute
            self._writer._Writer__chunk_indices = self._index
        self._writer.start(profile="ros2", library=f"sam2_ros {__version__}")
        about = {"prefix": tracker, "image": image_topic, "parameters": json.dumps(parameters)}
        self._writer.add_metadata(METADATA, about)
        self._schemas: dict[str, int] = {}
        self._subscribe(CompressedImage if compressed else Image, image_topic)
        # Markers and annotations, so that Foxglove shows a recording as it shows the live topics.
        drawn = [view for view in VIEWS if view.name in ("~/markers", "~/annotations")]
        for topic in (TRACKS, EVENTS, *drawn):
            if topic.installed:
                self._subscribe(topic.ros_type, tracker + topic.name.removeprefix("~"))
        for service in SERVICES:
            if service.recorded and hasattr(service.ros_type, "Event"):  # Humble has no service introspection
                calls = f"{tracker}{service.name.removeprefix('~')}/_service_event"
                self._subscribe(service.ros_type.Event, calls)

    def close(self) -> None:
        """Completes the file, unless writing failed before."""
        try:
            if not self._file.failed:
                self._writer.finish()
        finally:
            self._file.close()  # first, since the other may find a full disk
            self._index.close()

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

        FollowingSubscription(self._node, message_type, topic, write, lambda: "auto", depth=_QUEUE, raw=True)


class _DirectFile:
    """A new file without a buffer in this process, which would be lost with it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb", buffering=0)
        self.failed = False

    def write(self, data: bytes | bytearray | memoryview) -> int:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            self.failed = True
            raise
        return len(data)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        """Returns once the file is on the disk."""
        try:
            os.fsync(self._file.fileno())
        finally:
            self._file.close()


class _StoredIndex:
    """The index entries of all chunks, which the library writes at the end, in a file without a name."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115

    def append(self, entry: ChunkIndex) -> None:
        pickle.dump(entry, self._file)

    def __iter__(self) -> Iterator[ChunkIndex]:
        self._file.seek(0)
        with suppress(EOFError):
            while True:
                yield pickle.load(self._file)

    def close(self) -> None:
        self._file.close()
