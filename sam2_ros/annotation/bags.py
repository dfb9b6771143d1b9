"""Reads images and detections of rosbag2 folders and MCAP files without ROS, by the library rosbags."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from sam2_ros.inference.detections import MAX_DETECTIONS, problem_of
from sam2_ros.inference.matching import Detection
from sam2_ros.media.errors import UserError
from sam2_ros.media.source_frame import Frame, Rgb, note
from sam2_ros.ros.detection_message import from_message
from sam2_ros.ros.image_conversion import decode_compressed, to_rgb
from sam2_ros.ros.mcap_file import McapFile
from sam2_ros.text import counted, printable

_RAW, _COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
_DETECTIONS = "vision_msgs/msg/Detection2DArray"
_VISION = {  # bags of ROS 2 Humble hold no definitions, and rosbags knows the types of sensor_msgs, not these
    "Point2D": "float64 x\nfloat64 y",
    "Pose2D": "vision_msgs/Point2D position\nfloat64 theta",
    "BoundingBox2D": "vision_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y",
    "ObjectHypothesis": "string class_id\nfloat64 score",
    "ObjectHypothesisWithPose": "vision_msgs/ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose",
    "Detection2D": (
        "std_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\nvision_msgs/BoundingBox2D bbox\n"
        "string id"
    ),
    "Detection2DArray": "std_msgs/Header header\nvision_msgs/Detection2D[] detections",
}


class Bag:
    """The images of one topic in the order in which they were recorded, stamped by their headers. An MCAP file that is
    cut gives those before the cut.

    Args:
        topic: of the images; empty: the only one that has any.

    Raises:
        UserError: no bag, or a damaged one; no such topic, or several; also while iterating, when it is damaged
            further on or the images change their size.
    """

    def __init__(self, path: Path, topic: str = "") -> None:
        self._path = path
        with self._opened() as bag:
            counts = self._counts(bag, (_RAW, _COMPRESSED))
            others = self._counts(bag, ())
        shown = ", ".join(f"{printable(name)} ({count})" for name, count in sorted(counts.items()))
        if not others:
            raise UserError(f"{path}: an empty bag: no message was recorded")
        if not counts:
            raise UserError(f"{path}: no images in this bag; it holds {', '.join(map(printable, sorted(others)))}")
        if topic and topic not in counts:
            raise UserError(f"{path}: no images on {printable(topic)}; there are {shown}")
        if not topic and len(counts) > 1:
            raise UserError(f"{path}: images on several topics, {shown}; choose one with --topic")
        self._topic = topic or next(iter(counts))
        self.length: int | None = counts[self._topic]

    def __iter__(self) -> Iterator[Frame]:
        size: tuple[int, ...] | None = None
        broken: list[str] = []
        index = 0
        for kind, time, message in self._messages(self._topic, (_RAW, _COMPRESSED)):
            try:
                rgb = _decode(kind, message)
            except ValueError as error:
                broken.append(str(error))
                continue
            if size not in (None, rgb.shape):
                raise UserError(
                    f"{self._path}: after {counted(index, 'image')} their size changes; accepted: images of one size"
                )
            size = rgb.shape
            yield Frame(index, f"{index:06d}", _stamp(message) or time, rgb)
            index += 1
        if broken and not index:
            raise UserError(f"{self._path}: no image can be read: {broken[0]}")
        if broken:
            note(f"{self._path}: {counted(len(broken), 'image')} left out, because unreadable: {broken[0]}")

    def detections(self, topic: str) -> dict[int, list[Detection]]:
        """The usable boxes of ``vision_msgs/Detection2DArray`` messages by the stamp of their image.

        Raises:
            UserError: there are none on this topic.
        """
        with self._opened() as bag:
            counts = self._counts(bag, (_DETECTIONS,))
        if topic not in counts:
            there = ", ".join(map(printable, sorted(counts))) or "none"
            raise UserError(f"{self._path}: no {_DETECTIONS} on {printable(topic)}; topics of this type: {there}")
        found: dict[int, list[Detection]] = {}
        with suppress(_Cut):  # which the images tell
            for _, _, message in self._messages(topic, (_DETECTIONS,)):
                boxes = [from_message(each) for each in message.detections[:MAX_DETECTIONS]]
                found.setdefault(_stamp(message), []).extend(box for box in boxes if not problem_of(box))
        return found

    def _messages(self, topic: str, kinds: Sequence[str]) -> Iterator[tuple[str, int, Any]]:
        """Type, time in ns and message, in the order of recording."""
        with self._opened() as bag:
            wanted = [c for c in bag.connections if c.topic == topic and c.msgtype in kinds]
            for connection, time, data in bag.messages(wanted):
                yield connection.msgtype, time, bag.deserialize(data, connection.msgtype)

    @staticmethod
    def _counts(bag: Any, kinds: Sequence[str]) -> dict[str, int]:
        """Messages by topic, of these types or of all; a topic has a connection for each of its publishers."""
        found: Counter[str] = Counter()
        for connection in bag.connections:
            if not kinds or connection.msgtype in kinds:
                found[connection.topic] += connection.msgcount
        return dict(+found)

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        try:
            from rosbags.highlevel import AnyReader
            from rosbags.typesys import Stores, get_types_from_msg, get_typestore
        except ImportError:
            raise UserError("bags are read by rosbags: python3 -m pip install rosbags") from None
        types = get_typestore(Stores.ROS2_HUMBLE)
        for name, text in _VISION.items():
            types.register(get_types_from_msg(text, f"vision_msgs/msg/{name}"))
        try:
            with ExitStack() as stack:
                try:
                    bag: Any = stack.enter_context(AnyReader([self._path], default_typestore=types))
                except Exception:
                    bag = _CutBag(self._path, types)
                    if not bag.connections:
                        raise
                yield bag
        except (UserError, GeneratorExit):
            raise
        except Exception as error:  # of many kinds, from several libraries
            reason = printable(error, 200) or type(error).__name__
            raise UserError(f"{self._path}: damaged, cut, or no bag ({reason})") from None


class _Cut(UserError):
    """The end of what can be read of a bag."""


class _Connection(NamedTuple):
    topic: str
    msgtype: str
    msgcount: int


class _CutBag:
    """What rosbags' reader gives, of MCAP files without an intact end."""

    def __init__(self, path: Path, types: Any) -> None:
        self._types = types
        self._files: list[McapFile] = []
        with suppress(UserError):  # it is no MCAP file
            self._files = [McapFile(file) for file in (_in_order(path.glob("*.mcap")) if path.is_dir() else [path])]
        counts: Counter[tuple[str, str]] = Counter()
        with suppress(_Cut):
            counts.update((connection.topic, connection.msgtype) for connection, _, _ in self.messages())
        self.connections = [_Connection(*key, count) for key, count in counts.items()]

    def messages(self, wanted: Sequence[_Connection] = ()) -> Iterator[tuple[_Connection, int, bytes]]:
        """
        Raises:
            _Cut: at the end.
        """
        known = {(connection.topic, connection.msgtype): connection for connection in wanted}
        for file in self._files:
            for message in file.messages():
                key = (message.topic, message.type)
                if key in known or not wanted:
                    yield known.get(key) or _Connection(*key, 0), message.log_time, message.data
            if file.damage:
                raise _Cut(f"{file.path}: {file.damage}")

    def deserialize(self, data: bytes, kind: str) -> Any:
        return self._types.deserialize_cdr(data, kind)


def _in_order(files: Iterable[Path]) -> list[Path]:
    """The files of a bag, ``run_0.mcap`` to ``run_10.mcap``, as they were recorded."""
    return sorted(files, key=lambda file: (len(file.name), file.name))


def _decode(kind: str, message: Any) -> Rgb:
    return decode_compressed(bytes(message.data), message.format) if kind == _COMPRESSED else to_rgb(message)


def _stamp(message: Any) -> int:
    stamp = message.header.stamp
    return int(stamp.sec) * 10**9 + int(stamp.nanosec)
