"""Bags as rosbag2 writes them, made by rosbags without ROS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

START = 1_700_000_000 * 10**9  # ns
STEP = 10**8
_VISION = {
    "vision_msgs/msg/Point2D": "float64 x\nfloat64 y",
    "vision_msgs/msg/Pose2D": "vision_msgs/Point2D position\nfloat64 theta",
    "vision_msgs/msg/BoundingBox2D": "vision_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y",
    "vision_msgs/msg/ObjectHypothesis": "string class_id\nfloat64 score",
    "vision_msgs/msg/ObjectHypothesisWithPose": (
        "vision_msgs/ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose"
    ),
    "vision_msgs/msg/Detection2D": (
        "std_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\nvision_msgs/BoundingBox2D bbox\n"
        "string id"
    ),
    "vision_msgs/msg/Detection2DArray": "std_msgs/Header header\nvision_msgs/Detection2D[] detections",
}
Box = tuple[float, float, float, float]


class Made:
    """Writes a bag; ``types`` has the classes of its messages."""

    def __init__(self, path: Path, mcap: bool = False) -> None:
        self.store = get_typestore(Stores.ROS2_JAZZY)
        for name, text in _VISION.items():
            self.store.register(get_types_from_msg(text, name))
        self.types: Mapping[str, Any] = self.store.types
        self._writer = Writer(path, version=9, storage_plugin=StoragePlugin.MCAP if mcap else StoragePlugin.SQLITE3)
        self._writer.open()
        self._topics: dict[str, Any] = {}

    def write(self, topic: str, kind: str, message: Any, stamp: int) -> None:
        if topic not in self._topics:
            self._topics[topic] = self._writer.add_connection(topic, kind, typestore=self.store)
        self._writer.write(self._topics[topic], stamp + 1000, self.store.serialize_cdr(message, kind))

    def header(self, stamp: int) -> Any:
        time = self.types["builtin_interfaces/msg/Time"](sec=stamp // 10**9, nanosec=stamp % 10**9)
        return self.types["std_msgs/msg/Header"](stamp=time, frame_id="camera")

    def image(self, index: int, rgb: NDArray[np.uint8], topic: str = "/image", jpeg: bool = False) -> None:
        stamp = START + index * STEP
        bgr = np.ascontiguousarray(rgb[..., ::-1])
        if jpeg:
            data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].ravel()
            kind = "sensor_msgs/msg/CompressedImage"
            message = self.types[kind](header=self.header(stamp), format="jpeg", data=data)
        else:
            kind = "sensor_msgs/msg/Image"
            message = self.types[kind](
                header=self.header(stamp), height=rgb.shape[0], width=rgb.shape[1], encoding="bgr8", is_bigendian=0,
                step=3 * rgb.shape[1], data=bgr.ravel(),
            )  # fmt: skip
        self.write(topic, kind, message, stamp)

    def detections(self, index: int, boxes: Sequence[tuple[str, Box]], topic: str = "/detections") -> None:
        t, stamp = self.types, START + index * STEP
        found = []
        for label, (x0, y0, x1, y1) in boxes:
            middle = t["vision_msgs/msg/Point2D"](x=(x0 + x1) / 2, y=(y0 + y1) / 2)
            box = t["vision_msgs/msg/BoundingBox2D"](
                center=t["vision_msgs/msg/Pose2D"](position=middle, theta=0.0), size_x=x1 - x0, size_y=y1 - y0
            )
            pose = t["geometry_msgs/msg/PoseWithCovariance"](
                pose=t["geometry_msgs/msg/Pose"](
                    position=t["geometry_msgs/msg/Point"](x=0.0, y=0.0, z=0.0),
                    orientation=t["geometry_msgs/msg/Quaternion"](x=0.0, y=0.0, z=0.0, w=1.0),
                ),
                covariance=np.zeros(36),
            )
            guess = t["vision_msgs/msg/ObjectHypothesisWithPose"](
                hypothesis=t["vision_msgs/msg/ObjectHypothesis"](class_id=label, score=0.9), pose=pose
            )
            found.append(t["vision_msgs/msg/Detection2D"](self.header(stamp), [guess], box, ""))
        kind = "vision_msgs/msg/Detection2DArray"
        self.write(topic, kind, t[kind](header=self.header(stamp), detections=found), stamp)

    def close(self) -> None:
        self._writer.close()
