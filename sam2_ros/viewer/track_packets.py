"""A picture of a topic with its tracks as one message for the browser (layout: ``packets``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam2_ros.media import label_images
from sam2_ros.msg import ObjectMask, TrackedObject, TrackedObjectArray
from sam2_ros.ros.image_conversion import decode_compressed, to_rgb
from sam2_ros.ros.messages import box_edges, cropped_mask, region_edges, to_stamp
from sam2_ros.viewer.packets import css_color, finite, jpeg, pack

STATES = {
    TrackedObject.STATE_VISIBLE: "visible",
    TrackedObject.STATE_OCCLUDED: "occluded",
    TrackedObject.STATE_LOST: "lost",
}
_ORIENTATION_TAGS = (b"Exif\0\0", b"eXIf")  # of JPEG and PNG: a browser would turn the picture, but not the contours


def packet(image: Any, tracks: TrackedObjectArray | None, max_side: int, extra: Mapping[str, object]) -> bytes:
    """One message for the browser.

    Args:
        image: ``sensor_msgs/Image`` or ``CompressedImage``.
        tracks: the objects to draw on it; None where there are none yet.
        max_side: pixels; larger pictures are scaled down. Contours stay in pixels of the image.
        extra: further fields of the header.

    Raises:
        ValueError: the image can't be decoded.
    """
    picture, width, height = encode(image, max_side)
    points: list[NDArray[np.int16]] = []
    header = {
        "stamp": str(to_stamp(image.header.stamp)),  # nanoseconds; a number would lose digits in JavaScript
        "width": width,
        "height": height,
        "tracks": None if tracks is None else describe(tracks, points),
        **extra,
    }
    return pack(header, points, picture)


def encode(image: Any, max_side: int) -> tuple[bytes, int, int]:
    """The picture for the browser, and the image's own width and height in pixels.

    Raises:
        ValueError: the image can't be decoded.
    """
    if hasattr(image, "format"):
        data = bytes(image.data)
        rgb = decode_compressed(data, image.format)
        height, width = rgb.shape[:2]
        if max(height, width) <= max_side and not any(tag in data for tag in _ORIENTATION_TAGS):
            return data, width, height
    else:
        rgb = to_rgb(image)
        height, width = rgb.shape[:2]
    return jpeg(rgb, max_side), width, height


def describe(tracks: TrackedObjectArray, points: list[NDArray[np.int16]]) -> dict[str, object]:
    """A message as JSON. Appends every contour to ``points``, ``int16 [n, 2]``."""
    return {
        "stamp": str(to_stamp(tracks.header.stamp)),
        "objects": [_object(obj, points) for obj in tracks.objects],
        "received": tracks.frames_received,
        "processed": tracks.frames_processed,
        "dropped": tracks.frames_dropped,
        "failed": tracks.frames_failed,
        "waited_ms": (tracks.start_time_ns - tracks.receive_time_ns) / 1e6,
        "engine_ms": (tracks.end_time_ns - tracks.start_time_ns) / 1e6,
        "bank_bytes": tracks.bank_bytes,
        "max_objects": tracks.max_objects,
    }


def _object(obj: TrackedObject, points: list[NDArray[np.int16]]) -> dict[str, object]:
    found = contours(obj.mask)
    points.extend(found)
    described: dict[str, object] = {
        "id": obj.id, "name": obj.name, "label": obj.label, "state": STATES.get(obj.state, "lost"),
        "visibility": finite(obj.visibility, 4), "predicted_iou": finite(obj.predicted_iou, 4),
        "object_score": finite(obj.object_score, 3), "prompted": obj.prompted, "area": obj.area,
        "box": [finite(edge, 2) for edge in box_edges(obj.bbox)], "color": css_color(obj.id),
        "contours": [len(contour) for contour in found],
    }  # fmt: skip
    if window := region_edges(obj.window):
        described["window"] = window
    if obj.depth_status == TrackedObject.DEPTH_OK:
        described["position"] = [finite(axis, 3) for axis in (obj.position.x, obj.position.y, obj.position.z)]
        described["position_frame"] = obj.position_frame
    return described


def contours(mask: ObjectMask) -> list[NDArray[np.int16]]:
    """The contours of a mask and of its holes (:func:`sam2_ros.media.label_images.contours`)."""
    if not mask.width:
        return []
    return [contour for contour, _ in label_images.contours(cropped_mask(mask).crop, mask.x, mask.y)]
