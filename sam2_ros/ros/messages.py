"""Turns the tracker's results into messages and back. Pure functions; the ``.msg`` files define the conventions."""

from __future__ import annotations

import secrets
import time
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from builtin_interfaces.msg import Time
from numpy.typing import NDArray
from sensor_msgs.msg import Image, RegionOfInterest
from std_msgs.msg import Header
from vision_msgs.msg import BoundingBox2D

from sam2_ros.inference.backend import BackendInfo
from sam2_ros.inference.frames import Counters, Processed
from sam2_ros.inference.live_masks import LiveImage
from sam2_ros.msg import MaskCandidate, ObjectEvent, ObjectMask, TrackedObject, TrackedObjectArray
from sam2_ros.msg import PromptResult as PromptResultMessage
from sam2_ros.ros.motion_filter import Motion
from sam2_ros.tracking.types import (
    BoolMask,
    CroppedMask,
    FrameResult,
    ObjectChange,
    ObjectResult,
    ObjectState,
    PromptResult,
)

# Tells the lives of a node apart: clients that hold ids look at it.
INSTANCE = secrets.randbits(64)

# Equal in ObjectResult and TrackedObject.
_SAME_FIELDS = (
    "name", "label", "label_score", "object_score", "visibility", "predicted_iou", "prompted", "frames_since_seen",
    "frames_tracked",
)  # fmt: skip


@dataclass(frozen=True)
class Position:
    """The 3D fields of ``TrackedObject``; ``status`` is one of its DEPTH_* constants."""

    status: int
    reason: str = ""
    frame: str = ""
    position: Sequence[float] = (0.0, 0.0, 0.0)  # metres
    center: Sequence[float] = (0.0, 0.0, 0.0)  # metres, of the box that extent describes
    extent: Sequence[float] = (0.0, 0.0, 0.0)  # metres
    points: int = 0
    area: float = 0.0  # of the visible surface; points times metres squared


def to_time(stamp: int) -> Time:
    """Nanoseconds as a message."""
    return Time(sec=stamp // 10**9, nanosec=stamp % 10**9)


def to_stamp(time: Time) -> int:
    """A message's stamp in nanoseconds."""
    return int(time.sec) * 10**9 + int(time.nanosec)


def byte_array(values: NDArray[np.uint8]) -> array[int]:
    """Bytes for a ``uint8[]`` field. Of every other container rclpy checks and copies each element."""
    filled = array("B")
    filled.frombytes(np.ascontiguousarray(values).data.cast("B"))
    return filled


def run_lengths(mask: BoolMask) -> NDArray[np.uint32]:
    """Run lengths of ``mask`` (``bool [H, W]``), row by row from the top left, background first."""
    flat = mask.ravel()
    if flat.size == 0:
        return np.zeros(0, np.uint32)
    borders = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(borders, prepend=0, append=flat.size)
    return np.concatenate([[0], counts] if flat[0] else [counts]).astype(np.uint32)


def object_mask(mask: CroppedMask, encoding: str) -> ObjectMask:
    """``encoding`` is mono8 or rle."""
    height, width = mask.crop.shape
    message = ObjectMask(
        image_width=mask.width, image_height=mask.height, x=mask.x, y=mask.y, width=width, height=height,
        encoding=ObjectMask.RLE if encoding == "rle" else ObjectMask.MONO8,
    )  # fmt: skip
    if width == 0:
        return message
    if encoding == "rle":
        counts = array("I")
        counts.frombytes(run_lengths(mask.crop).tobytes())
        message.counts = counts
    else:
        message.data = byte_array(mask.crop.view(np.uint8) * np.uint8(255))
    return message


def cropped_mask(message: ObjectMask) -> CroppedMask:
    shape = (message.height, message.width)
    if message.encoding == ObjectMask.RLE:
        counts = np.asarray(message.counts, np.int64)
        crop = np.repeat(np.arange(counts.size) % 2 == 1, counts).reshape(shape)
    else:
        crop = np.frombuffer(message.data, np.uint8).reshape(shape) > 0
    return CroppedMask(crop, message.x, message.y, message.image_width, message.image_height)


def full_mask(message: ObjectMask) -> BoolMask:
    """The mask of a message in the size of its image: ``bool [image_height, image_width]``."""
    return cropped_mask(message).full()


def bounding_box(box: Sequence[float]) -> BoundingBox2D:
    """From edges x0, y0, x1, y1."""
    x0, y0, x1, y1 = box
    message = BoundingBox2D(size_x=float(x1 - x0), size_y=float(y1 - y0))
    message.center.position.x = (x0 + x1) / 2
    message.center.position.y = (y0 + y1) / 2
    return message


def box_edges(box: BoundingBox2D) -> tuple[float, float, float, float]:
    """Edges (x0, y0, x1, y1) of a box that is not turned."""
    x, y, half_width, half_height = box.center.position.x, box.center.position.y, box.size_x / 2, box.size_y / 2
    return x - half_width, y - half_height, x + half_width, y + half_height


def region(window: Sequence[int], width: int, height: int) -> RegionOfInterest:
    """From edges x0, y0, x1, y1; all zero for a whole image of ``width`` x ``height`` pixels, and without a window."""
    if not window or tuple(window) == (0, 0, width, height):
        return RegionOfInterest()
    x0, y0, x1, y1 = window
    return RegionOfInterest(x_offset=x0, y_offset=y0, width=x1 - x0, height=y1 - y0)


def region_edges(region: RegionOfInterest) -> tuple[int, ...]:
    """Edges x0, y0, x1, y1; empty if the region is all zero."""
    x0, y0 = region.x_offset, region.y_offset
    return (x0, y0, x0 + region.width, y0 + region.height) if region.width else ()


def tracked_object(result: ObjectResult, encoding: str, with_mask: bool = True) -> TrackedObject:
    mask = result.mask
    message = TrackedObject(
        id=result.object_id, state=int(result.state), bbox=bounding_box(mask.box), area=mask.area,
        window=region(result.window, mask.width, mask.height),
        first_seen=to_time(result.first_seen), last_seen=to_time(result.last_seen), carry_confidence=1.0,
        **{field: getattr(result, field) for field in _SAME_FIELDS},
    )  # fmt: skip
    if with_mask:
        message.mask = object_mask(mask, encoding)
    return message


def tracked_objects(
    result: FrameResult, header: Header, counters: Counters, info: BackendInfo, encoding: str, with_masks: bool = True
) -> TrackedObjectArray:
    return TrackedObjectArray(
        header=header, network_stamp=header.stamp, instance=INSTANCE,
        image_width=result.width, image_height=result.height,
        objects=[tracked_object(obj, encoding, with_masks) for obj in result.objects],
        frames_received=counters.received, frames_processed=counters.processed,
        frames_dropped=counters.dropped, frames_failed=counters.failed,
        bank_bytes=info.bank_bytes, max_objects=info.max_objects,
    )  # fmt: skip


def processed_tracks(
    processed: Processed,
    info: BackendInfo,
    encoding: str,
    positions: Mapping[int, Position] | None = None,
    motions: Mapping[int, Motion] | None = None,
) -> TrackedObjectArray:
    """The message for ``~/tracks``. The frame's ``source`` becomes its header; positions and motions are by id."""
    message = tracked_objects(processed.result, processed.frame.source, processed.counters, info, encoding)
    for obj in message.objects:
        locate(obj, positions or {}, motions or {})
    message.receive_time_ns = processed.frame.receive_time
    message.start_time_ns = processed.start_time
    message.end_time_ns = processed.end_time
    return message


def locate(obj: TrackedObject, positions: Mapping[int, Position], motions: Mapping[int, Motion]) -> None:
    """Fills what is known of an object in space; both are by object id."""
    if (position := positions.get(obj.id)) is not None:
        obj.depth_status, obj.depth_reason = position.status, position.reason
        obj.position_frame, obj.depth_points = position.frame, position.points
        obj.position.x, obj.position.y, obj.position.z = position.position
        obj.extent.x, obj.extent.y, obj.extent.z = position.extent
    if (motion := motions.get(obj.id)) is not None:
        obj.motion_valid, obj.position_frame = True, motion.frame
        obj.motion_covariance = motion.covariance.ravel()
        where, speed = obj.filtered_position, obj.velocity
        where.x, where.y, where.z = motion.position.tolist()
        speed.x, speed.y, speed.z = motion.velocity.tolist()


def live_tracks(live: LiveImage, counters: Counters, info: BackendInfo, encoding: str) -> TrackedObjectArray:
    """The message for ``~/tracks_live``; without objects before the engine's first answer."""
    header = live.frame.source
    if live.carried is None:
        height, width = live.image.shape[:2]
        message = tracked_objects(FrameResult(0, 0, width, height, ()), header, counters, info, encoding)
        message.network_stamp = Time()
    else:
        message = tracked_objects(live.carried.result, header, counters, info, encoding)
        message.network_stamp = to_time(live.carried.network_stamp)
        message.frames_carried = live.carried.frames
        for obj in message.objects:
            obj.carry_confidence = live.carried.confidence[obj.id]
    message.receive_time_ns = live.frame.receive_time
    message.start_time_ns = live.start_time
    message.end_time_ns = time.monotonic_ns()
    return message


def frame_result(tracks: TrackedObjectArray) -> FrameResult:
    """The result that a ``~/tracks`` message was made from."""
    objects = tuple(
        ObjectResult(
            object_id=obj.id, mask=cropped_mask(obj.mask), state=ObjectState(obj.state),
            first_seen=to_stamp(obj.first_seen), last_seen=to_stamp(obj.last_seen), window=region_edges(obj.window),
            **{field: getattr(obj, field) for field in _SAME_FIELDS},
        )
        for obj in tracks.objects
    )  # fmt: skip
    index = int(tracks.frames_processed) - 1
    return FrameResult(index, to_stamp(tracks.header.stamp), tracks.image_width, tracks.image_height, objects)


def object_event(change: ObjectChange, header: Header) -> ObjectEvent:
    return ObjectEvent(
        header=header, instance=INSTANCE,
        event=int(change.event), id=change.object_id, name=change.name, label=change.label,
        previous_state=int(change.previous_state or 0), state=int(change.state or 0),
        object_score=change.object_score, visibility=change.visibility, last_seen=to_time(change.last_seen),
        reason=change.reason,
    )  # fmt: skip


def prompt_result(result: PromptResult, encoding: str) -> PromptResultMessage:
    message = PromptResultMessage(
        code=int(result.code), success=result.success, message=result.message, object_id=result.object_id,
        name=result.name, applied_stamp=to_time(result.applied_stamp), prompt_age=result.prompt_age,
        frames_caught_up=result.frames_caught_up, stamp_difference=result.stamp_difference,
        stability=result.stability,
    )  # fmt: skip
    message.candidates = [
        MaskCandidate(
            index=candidate.index, predicted_iou=candidate.predicted_iou, stability=candidate.stability,
            bbox=bounding_box(candidate.mask.box), area=candidate.mask.area, mask=object_mask(candidate.mask, encoding),
        )
        for candidate in result.candidates
    ]  # fmt: skip
    if result.result is not None:
        message.object_score = result.result.object_score
        message.predicted_iou = result.result.predicted_iou
        message.bbox = bounding_box(result.result.mask.box)
        message.area = result.result.mask.area
        message.mask = object_mask(result.result.mask, encoding)
    return message


def ids_and_indices(objects: Sequence[ObjectResult]) -> tuple[list[str], list[int]]:
    """``object_ids`` (the name, else the decimal id) and ``object_indices`` (the id) of a response."""
    return [obj.name or str(obj.object_id) for obj in objects], [obj.object_id for obj in objects]


def image_message(pixels: NDArray, header: Header, encoding: str = "rgb8") -> Image:
    """``pixels`` (``[H, W]`` or ``[H, W, channels]``, little-endian) as a message."""
    height, width = pixels.shape[:2]
    data = byte_array(np.ascontiguousarray(pixels).view(np.uint8))
    return Image(header=header, height=height, width=width, encoding=encoding, step=pixels.nbytes // height, data=data)
