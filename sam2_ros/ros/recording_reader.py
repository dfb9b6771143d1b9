"""Reads a recording of ``sam2_ros record``: what the tracker processed, in order. Nothing in the file is trusted."""

from __future__ import annotations

import json
import struct
import zlib
from array import array
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image

from sam2_ros import srv
from sam2_ros.media.errors import UserError
from sam2_ros.media.source_frame import note
from sam2_ros.msg import TrackedObjectArray
from sam2_ros.ros.definitions import definition
from sam2_ros.ros.interface import SERVICES
from sam2_ros.ros.mcap_file import McapFile, RecordedMessage
from sam2_ros.ros.messages import to_stamp
from sam2_ros.ros.parameters import PARAMETERS
from sam2_ros.ros.recording_file import METADATA
from sam2_ros.text import counted, printable

_IMAGES = {"sensor_msgs/msg/Image": Image, "sensor_msgs/msg/CompressedImage": CompressedImage}
_TRACKS = "sam2_ros/msg/TrackedObjectArray"
_NEAR = 1000  # frames before the newest one among which a call's frame is looked for
_AHEAD = 10  # frames that may be recorded before the answer to a call that came before them


class PromptCall(NamedTuple):
    """A call of a prompt service."""

    service: str  # AddObjects
    request: Any
    response: Any


@dataclass
class RecordedFrame:
    """An image that the tracker processed, and the calls that came after it."""

    stamp: int  # ns
    order: int  # among all frames that the tracker processed
    image: int  # its place among the recorded images; -1 = not recorded
    packed_tracks: bytes  # the last that were published for it, serialised and compressed
    received: int  # ns, when the tracker received it, by the recorder's clock; roughly
    calls: list[PromptCall] = field(default_factory=list)

    @property
    def tracks(self) -> TrackedObjectArray:
        return deserialize_message(zlib.decompress(self.packed_tracks), TrackedObjectArray)


class Recording:
    """The node's ``parameters`` (model.* and tracker.*, checked) and the ``frames`` in the order of processing."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            UserError: the file is no recording of a tracker, or holds what no tracker writes.
        """
        self._file = McapFile(path)
        about = self._file.metadata(METADATA)
        if about is None or not {"prefix", "image", "parameters"} <= about.keys():
            reason = f" ({self._file.damage})" if self._file.damage else ""
            raise UserError(f"{path} names no tracker; accepted: what 'sam2_ros record' wrote{reason}")
        self._image_topic = about["image"]
        self._tracks_topic = f"{about['prefix']}/tracks"
        self._services = {
            f"{about['prefix']}{service.name.removeprefix('~')}/_service_event": service.type.partition("/")[2]
            for service in SERVICES
        }
        try:
            self.parameters = _checked(json.loads(about["parameters"]))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: its parameters can't be used: {printable(error, 300)}") from None
        self.frames = self._read()
        if self._file.damage:
            note(f"{path}: {self._file.damage}; only what comes before is used, {counted(len(self.frames), 'frame')}")
        if not self.frames:
            raise UserError(f"{path} holds no image with its tracks")

    def played(self) -> Iterator[tuple[RecordedFrame, Any]]:
        """Every frame with its image, ``sensor_msgs/Image`` or ``CompressedImage``.

        Raises:
            UserError: an image is none.
        """
        waiting = iter(self.frames)
        frame = next(waiting, None)
        images = (message for message in self._file.messages() if message.topic == self._image_topic)
        for number, message in enumerate(images):
            if frame is None:
                return
            if number == frame.image:
                yield frame, self._deserialize(message, _IMAGES[message.type])
                frame = next(waiting, None)

    def _read(self) -> list[RecordedFrame]:
        stamps, arrivals = array("q"), array("Q")  # of the images, ns
        frames: dict[tuple[int, int], RecordedFrame] = {}  # by frames_processed and stamp
        requests: dict[tuple[str, bytes, int], Any] = {}
        calls: list[tuple[int | None, int, PromptCall]] = []  # stamp of the frame before it, newest order, call
        instance, before = None, (0, -1)
        for message in self._file.messages():
            if message.topic == self._image_topic:
                stamps.append(self._image_stamp(message))
                arrivals.append(message.log_time)
            elif message.topic == self._tracks_topic:
                tracks = self._deserialize(message, self._known_type(message, _TRACKS, TrackedObjectArray))
                if tracks.instance != (instance if instance is not None else tracks.instance):
                    note(f"{self._file.path}: the tracker was started again; what comes after that is not replayed")
                    break
                instance = tracks.instance
                if _is_hidden(tracks, *before):
                    continue
                before = tracks.frames_processed, tracks.frames_dropped
                key = (tracks.frames_processed, to_stamp(tracks.header.stamp))
                received = message.log_time - tracks.end_time_ns + tracks.receive_time_ns
                frame = frames.setdefault(key, RecordedFrame(key[1], len(frames), -1, b"", received))
                frame.packed_tracks = zlib.compress(message.data, 1)
            elif service := self._services.get(message.topic):
                kind = self._known_type(message, f"sam2_ros/srv/{service}_Event", getattr(srv, service).Event)
                event = self._deserialize(message, kind)
                caller = (service, bytes(event.info.client_gid), event.info.sequence_number)
                if event.info.event_type == event.info.REQUEST_RECEIVED and event.request:
                    requests[caller] = event.request[0]
                elif event.info.event_type == event.info.RESPONSE_SENT and event.response and caller in requests:
                    call = PromptCall(service, requests.pop(caller), event.response[0])
                    calls.append((_applied_after(call.response), len(frames) - 1, call))
        used = self._with_images(list(frames.values()), stamps, arrivals)
        _give_calls(used, calls)
        return used

    def _with_images(
        self, frames: list[RecordedFrame], stamps: array[int], arrivals: array[int]
    ) -> list[RecordedFrame]:
        """The frames whose image was recorded."""
        places: dict[int, list[int]] = defaultdict(list)
        for place, stamp in enumerate(stamps):
            places[stamp].append(place)
        last = -1
        for frame in frames:
            same = places.get(frame.stamp, [])
            if len(same) > 1:  # nearest in time
                times = [arrivals[place] for place in same]
                after = bisect_left(times, frame.received)
                same = sorted(
                    same[max(0, after - 1) : after + 1], key=lambda place: abs(arrivals[place] - frame.received)
                )
            if same and same[0] > last:
                last = frame.image = same[0]
        used = [frame for frame in frames if frame.image >= 0]
        if used and (lost := sum(frame.image < 0 for frame in frames[used[0].order :])):
            note(f"{self._file.path}: {counted(lost, 'frame')} left out, because no image could be assigned")
        return used

    def _image_stamp(self, message: RecordedMessage) -> int:
        """The stamp in the header, which comes first, without the pixels."""
        if message.type not in _IMAGES or len(message.data) < 12:
            raise UserError(f"{self._file.path}: {printable(message.topic)} holds no images; accepted: sensor_msgs")
        seconds, nanoseconds = struct.unpack_from("<iI" if message.data[1] & 1 else ">iI", message.data, 4)
        return int(seconds) * 10**9 + int(nanoseconds)

    def _known_type(self, message: RecordedMessage, name: str, kind: type) -> type:
        if message.type != name or _fields(message.definition) != _own_fields(name):
            raise UserError(
                f"{self._file.path}: {printable(message.topic)} was recorded by a version with other messages; replay "
                "it with that version"
            )
        return kind

    def _deserialize(self, message: RecordedMessage, kind: type) -> Any:
        try:
            return deserialize_message(message.data, kind)
        except Exception:  # rclpy's own, without a common class
            reason = f"a message of {printable(message.topic)} can't be read; it is no {printable(message.type)}"
            raise UserError(f"{self._file.path}: {reason}") from None


def _is_hidden(tracks: TrackedObjectArray, processed: int, dropped: int) -> bool:
    """Whether the tracks are of an image that no server answered; ``processed`` and ``dropped`` are the counters of the
    newest frame before it. What a prompt changed comes with that frame's own counters."""
    return bool(tracks.frames_processed == processed and tracks.frames_dropped > dropped)


def _give_calls(frames: list[RecordedFrame], calls: list[tuple[int | None, int, PromptCall]]) -> None:
    """Adds each call to the frame after which it was carried out."""
    orders = [frame.order for frame in frames]
    shared = Counter(frame.stamp for frame in frames)
    for stamp, newest, call in calls:
        known = bisect_left(orders, newest + 1)
        near = frames[max(0, known - _NEAR) : known]
        if stamp is not None:
            coming = frames[known : known + _AHEAD]
            near = [f for f in (*near, *(f for f in coming if shared[f.stamp] == 1)) if f.stamp <= stamp]
        if near:
            near[-1].calls.append(call)
        else:
            note(f"a call of {call.service} came before the first recorded image; left out")


def _applied_after(response: Any) -> int | None:
    """The stamp of the frame that was the newest when a call was carried out; None if the response does not say."""
    results = [*getattr(response, "results", []), *([response.result] if hasattr(response, "result") else [])]
    for result in results:
        if result.success and 0 <= result.prompt_age < 1e9:
            return to_stamp(result.applied_stamp) + round(result.prompt_age * 1e9)
    return None


def _checked(values: Any) -> dict[str, Any]:
    """The engine's parameters, each with an accepted value; a default where an older version had none.

    Raises:
        ValueError: one has another value.
    """
    if not isinstance(values, dict):
        raise ValueError("accepted: a JSON object")
    engine = [parameter for parameter in PARAMETERS if parameter.name.startswith(("model.", "tracker."))]
    found = {parameter.name: values.get(parameter.name, parameter.default) for parameter in engine}
    for parameter in engine:
        parameter.check(found[parameter.name])
    return found


@cache
def _own_fields(name: str) -> str:
    return _fields(definition(name))


@lru_cache(16)
def _fields(text: str) -> str:
    """A definition without comments and space."""
    lines = (line.partition("#")[0].split() for line in text.splitlines())
    return "\n".join(" ".join(words) for words in lines if words)
