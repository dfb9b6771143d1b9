"""Recordings as ``sam2_ros record`` writes them, made without a node."""

from __future__ import annotations

import json
from array import array
from pathlib import Path
from typing import Any

import numpy as np
from mcap.writer import CompressionType, Writer
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from sam2_ros import srv
from sam2_ros.msg import ObjectMask, TrackedObject, TrackedObjectArray
from sam2_ros.ros.definitions import definition
from sam2_ros.ros.interface import SERVICES
from sam2_ros.ros.messages import byte_array, image_message, to_time
from sam2_ros.ros.parameters import PARAMETERS
from sam2_ros.srv import AddObjects

WIDTH, HEIGHT = 32, 24
BOX = (4, 6, 16, 18)  # what the null engine answers for it: a filled box
PARAMETERS_OF_NULL = {p.name: p.default for p in PARAMETERS if p.name.startswith(("model.", "tracker."))} | {
    "model.name": "null",
    "tracker.max_objects": 4,
}


class Made:
    """Writes a recording message by message; the log's clock and the tracker's go on by a second with each image."""

    def __init__(
        self, path: Path, parameters: Any = PARAMETERS_OF_NULL, compression: Any = CompressionType.ZSTD
    ) -> None:
        self._file = path.open("wb")
        self._writer = Writer(self._file, chunk_size=4096, compression=compression)
        self._writer.start(profile="ros2")
        about = {"prefix": "/tracker", "image": "/image", "parameters": json.dumps(parameters)}
        self._writer.add_metadata("sam2_ros", about)
        self._channels: dict[str, int] = {}
        self.now, self.processed, self.dropped = 10**18, 0, 0  # ns; frames

    def write(self, topic: str, kind: str, data: bytes, text: str = "") -> None:
        """``text`` replaces the definition of the type ``kind``."""
        if topic not in self._channels:
            schema = self._writer.register_schema(kind, "ros2msg", (text or definition(kind)).encode())
            self._channels[topic] = self._writer.register_channel(topic, "cdr", schema)
        self._writer.add_message(self._channels[topic], self.now, data, self.now)

    def image(self, stamp: int, message: Image | None = None) -> None:
        self.now += 10**9
        rgb = np.full((HEIGHT, WIDTH, 3), stamp % 256, np.uint8)
        image = message or image_message(rgb, Header(stamp=to_time(stamp)))
        self.write("/image", "sensor_msgs/msg/Image", serialize_message(image))

    def tracks(
        self, stamp: int, *objects: TrackedObject, again: bool = False, hidden: bool = False, instance: int = 7
    ) -> None:
        """Of the newest image, received as it was recorded; ``again`` for the same frame, ``hidden`` for an image that
        no server answered."""
        self.processed += not (again or hidden)
        self.dropped += hidden
        steady = self.now % 10**12
        message = TrackedObjectArray(
            header=Header(stamp=to_time(stamp)), instance=instance, image_width=WIDTH, image_height=HEIGHT,
            objects=[*objects], frames_processed=self.processed, frames_dropped=self.dropped, receive_time_ns=steady,
            end_time_ns=steady,
        )  # fmt: skip
        self.write("/tracker/tracks", "sam2_ros/msg/TrackedObjectArray", serialize_message(message))

    def add(self, applied: int, age: float = 0.0, object_id: int = 1) -> None:
        """A call of ``add_objects`` with a box, applied to the frame of this stamp when it was ``age`` seconds old."""
        from sam2_ros.msg import ObjectPrompt, PromptResult
        from sam2_ros.ros.messages import bounding_box

        request = AddObjects.Request(prompts=[ObjectPrompt(box=[bounding_box(BOX)])])
        result = PromptResult(success=True, object_id=object_id, applied_stamp=to_time(applied), prompt_age=age)
        self.call("AddObjects", request, AddObjects.Response(success=True, results=[result]), object_id)

    def call(self, service: str, request: Any, response: Any, number: int, kinds: tuple[int, int] = (1, 2)) -> None:
        """A call of a service, ``AddObjects``; ``number`` is the client's own. None: that half was not recorded.

        ``kinds`` are the types of its two events: REQUEST_RECEIVED and RESPONSE_SENT, as a server tells them.
        """
        event_type = getattr(srv, service).Event
        topic = "/tracker" + next(s.name for s in SERVICES if s.type.endswith(f"/{service}")).removeprefix("~")
        for kind, half in zip(kinds, ({"request": request}, {"response": response}), strict=True):
            event = event_type(**{name: [value] for name, value in half.items() if value is not None})
            event.info.event_type, event.info.sequence_number = kind, number
            if any(value is not None for value in half.values()):
                self.write(f"{topic}/_service_event", f"sam2_ros/srv/{service}_Event", serialize_message(event))

    def close(self) -> None:
        self._writer.finish()
        self._file.close()


def tracked(object_id: int = 1) -> TrackedObject:
    """An object whose mask fills BOX."""
    x0, y0, x1, y1 = BOX
    mask = ObjectMask(
        image_width=WIDTH, image_height=HEIGHT, x=x0, y=y0, width=x1 - x0, height=y1 - y0,
        encoding=ObjectMask.MONO8, data=byte_array(np.full((y1 - y0) * (x1 - x0), 255, np.uint8)),
    )  # fmt: skip
    return TrackedObject(id=object_id, mask=mask)


def run_lengths(*counts: int) -> TrackedObject:
    """An object with these run lengths, whatever they are."""
    obj = tracked()
    obj.mask.encoding, obj.mask.data, obj.mask.counts = ObjectMask.RLE, array("B"), array("I", counts)
    return obj


def small_recording(path: Path, frames: int = 6, step: int = 10**8) -> Path:
    """An object that is added in the second frame; ``step`` nanoseconds from one stamp to the next."""
    made = Made(path)
    for number in range(frames):
        stamp = number * step
        made.image(stamp)
        made.tracks(stamp, *([tracked()] if number > 1 else []))
        if number == 1:
            made.add(stamp)
            made.tracks(stamp, tracked(), again=True)
    made.close()
    return path
