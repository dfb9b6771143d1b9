"""The tracker's results once more, as messages that other packages read and draw. Worked out only while subscribed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from rclpy.qos import DurabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from vision_msgs.msg import (
    Detection2D,
    Detection2DArray,
    Detection3D,
    Detection3DArray,
    LabelInfo,
    ObjectHypothesisWithPose,
    VisionClass,
)
from visualization_msgs.msg import MarkerArray

from sam2_ros.inference.worker import Processed
from sam2_ros.media.label_images import MAX_ID, compose_labels
from sam2_ros.msg import TrackedObject
from sam2_ros.ros import drawings
from sam2_ros.ros.messages import bounding_box, byte_array
from sam2_ros.ros.positions import Position
from sam2_ros.tracking.types import FrameResult, ObjectResult

# Creates a publisher of a message type on a topic.
Create = Callable[..., Any]


class Views:
    """Publishers of ``~/label_image``, ``~/label_info``, ``~/detections``, ``~/detections_3d``, ``~/markers`` and
    ``~/annotations`` for one camera.
    """

    def __init__(self, create: Create, prefix: str = "~/") -> None:
        """``prefix`` stands before the topics' names."""
        self._label_image = create(Image, f"{prefix}label_image")
        self._label_info = create(LabelInfo, f"{prefix}label_info", 1, DurabilityPolicy.TRANSIENT_LOCAL)
        self._detections = create(Detection2DArray, f"{prefix}detections")
        self._detections_3d = create(Detection3DArray, f"{prefix}detections_3d")
        self._markers = create(MarkerArray, f"{prefix}markers")
        self._annotations = None
        if drawings.HAS_ANNOTATIONS:
            from foxglove_msgs.msg import ImageAnnotations

            self._annotations = create(ImageAnnotations, f"{prefix}annotations")
        self._classes: list[VisionClass] | None = None  # as they were published last

    @property
    def publishers(self) -> tuple[Any, ...]:
        always = (self._label_image, self._label_info, self._detections, self._detections_3d, self._markers)
        return (*always, self._annotations) if self._annotations else always

    def publish(self, processed: Processed, positions: Mapping[int, Position]) -> None:
        """One frame's results; ``positions`` by object id, empty without depth."""
        result, header = processed.result, processed.frame.source
        # Latched, so that who comes later knows the names too; before the image that needs it.
        classes = vision_classes(result)
        if classes != self._classes:
            self._label_info.publish(LabelInfo(header=header, class_map=classes))
            self._classes = classes
        if self._label_image.get_subscription_count():
            self._label_image.publish(label_image(result, header))
        if self._detections.get_subscription_count():
            self._detections.publish(detections(result, header))
        if self._detections_3d.get_subscription_count():
            self._detections_3d.publish(detections_3d(result, positions, header))
        if self._markers.get_subscription_count():
            self._markers.publish(drawings.markers(result, positions, header))
        if self._annotations and self._annotations.get_subscription_count():
            self._annotations.publish(drawings.image_annotations(result, header))


def vision_classes(result: FrameResult) -> list[VisionClass]:
    """Id and name of every living object that a label image can show."""
    objects = (known for known in result.objects if known.object_id <= MAX_ID)
    return [
        VisionClass(class_id=known.object_id, class_name=known.name or known.label or str(known.object_id))
        for known in objects
    ]


def label_image(result: FrameResult, header: Header) -> Image:
    """A ``mono16`` image: a pixel is the id of the object that is seen there, 0 = none.

    Where masks overlap, the pixel goes to the object with the higher predicted IoU. Ids above 65535 are left out.
    """
    seen = [(known.object_id, known) for known in result.objects if known.object_id <= MAX_ID]
    labels = compose_labels(seen, result.height, result.width, wide=True)
    pixels = byte_array(labels.astype("<u2").view(np.uint8))
    return Image(
        header=header, height=result.height, width=result.width, encoding="mono16", is_bigendian=0,
        step=2 * result.width, data=pixels,
    )  # fmt: skip


def detections(result: FrameResult, header: Header) -> Detection2DArray:
    """A detection for every object that is seen; its id is the object's, in decimal."""
    array = Detection2DArray(header=header)
    for known in result.objects:
        if known.mask.crop.size:
            array.detections.append(
                Detection2D(
                    header=header, results=[_hypothesis(known)], bbox=bounding_box(known.mask.box),
                    id=str(known.object_id),
                )
            )  # fmt: skip
    return array


def detections_3d(result: FrameResult, positions: Mapping[int, Position], header: Header) -> Detection3DArray:
    """A detection for every object whose position is known; headers name the frame of the positions."""
    array = Detection3DArray(header=header)
    for known in result.objects:
        position = positions.get(known.object_id)
        if position is None or position.status != TrackedObject.DEPTH_OK:
            continue
        array.header = Header(stamp=header.stamp, frame_id=position.frame)
        hypothesis = _hypothesis(known)
        detection = Detection3D(header=array.header, results=[hypothesis], id=str(known.object_id))
        place, middle = hypothesis.pose.pose.position, detection.bbox.center.position
        place.x, place.y, place.z = position.position
        middle.x, middle.y, middle.z = position.center
        detection.bbox.size.x, detection.bbox.size.y, detection.bbox.size.z = position.extent
        array.detections.append(detection)
    return array


def _hypothesis(known: ObjectResult) -> ObjectHypothesisWithPose:
    """What it is: label, else name; and how surely it is seen."""
    message = ObjectHypothesisWithPose()
    message.hypothesis.class_id = known.label or known.name
    message.hypothesis.score = float(known.visibility)
    return message
