"""What clients send, as the engine understands it. A prompt that makes no sense becomes a :class:`PromptError`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from vision_msgs.msg import BoundingBox2D, Point2D

from sam2_ros.inference.commands import Asked
from sam2_ros.msg import ObjectPrompt
from sam2_ros.ros.image_conversion import mono8_mask
from sam2_ros.ros.messages import box_edges
from sam2_ros.srv import AddObjects
from sam2_ros.tracking.types import AddRequest, Prompt, PromptCode, PromptError


def from_add_objects(request: AddObjects.Request) -> list[Asked]:
    """Both ways of saying it: first ``prompts``, then one request for each object of the flat fields."""
    return [from_prompt(prompt) for prompt in request.prompts] + _from_flat_fields(request)


def from_prompt(message: ObjectPrompt) -> Asked:
    try:
        prompt = Prompt(
            points=_points(message.points) if message.points else None,
            labels=_labels(message.point_labels, len(message.points)) if message.points else None,
            box=_box(message.box[0]) if message.box else None,
            mask=mono8_mask(message.mask) if message.mask.width else None,
            candidate=message.candidate or None,
            replace=message.replace,
        )
        _check(prompt, message)
    except ValueError as error:
        return PromptError(PromptCode.INVALID_PROMPT, str(error))
    return AddRequest(prompt, message.object_id or None, message.name, message.label, message.label_score)


def _check(prompt: Prompt, message: ObjectPrompt) -> None:
    if message.point_labels and not message.points:
        raise ValueError("there are point_labels without points; accepted: one label for each point")
    if prompt.mask is not None and (prompt.points is not None or prompt.box is not None):
        raise ValueError("a mask excludes points and box; send one or the other")
    nothing = prompt.mask is None and prompt.points is None and prompt.box is None
    if nothing and prompt.candidate is None:
        raise ValueError("the prompt is empty; accepted: points, a box, a box and points, or a mask")


def _from_flat_fields(request: AddObjects.Request) -> list[Asked]:
    """The fields of Isaac ROS Segment Anything 2's clients; a name that has a box and points makes one object."""
    counts = (
        (len(request.bbox_object_ids), len(request.bbox_coords), "bbox_object_ids and bbox_coords"),
        (len(request.point_object_ids), len(request.point_coords), "point_object_ids and point_coords"),
        (len(request.point_object_ids), len(request.point_labels), "point_object_ids and point_labels"),
    )
    for first, second, names in counts:
        if first != second:
            reason = f"{names} have {first} and {second} entries; accepted: equally many"
            return [PromptError(PromptCode.INVALID_PROMPT, reason)]
    objects = dict.fromkeys([*request.bbox_object_ids, *request.point_object_ids])
    return [_from_flat_object(request, name) for name in objects]


def _from_flat_object(request: AddObjects.Request, name: str) -> Asked:
    boxes = [box for owner, box in zip(request.bbox_object_ids, request.bbox_coords, strict=True) if owner == name]
    chosen = [index for index, owner in enumerate(request.point_object_ids) if owner == name]
    try:
        if not name:
            raise ValueError("an object id is empty; accepted: a name for each object")
        if len(boxes) > 1:
            raise ValueError(f"'{name}' has {len(boxes)} boxes; accepted: one")
        points = [request.point_coords[index] for index in chosen]
        labels = [request.point_labels[index] for index in chosen]
        prompt = Prompt(
            points=_points(points) if points else None,
            labels=_labels(labels, len(points)) if points else None,
            box=_box(boxes[0]) if boxes else None,
        )
    except ValueError as error:
        return PromptError(PromptCode.INVALID_PROMPT, str(error))
    return AddRequest(prompt, name=name)


def _points(points: Sequence[Point2D]) -> NDArray[np.float32]:
    coordinates = np.array([[point.x, point.y] for point in points], np.float32)
    if not np.isfinite(coordinates).all():
        raise ValueError("a point is not finite; accepted: pixels of the image")
    return coordinates


def _labels(labels: Sequence[int], count: int) -> NDArray[np.int32]:
    if len(labels) != count:
        raise ValueError(f"{count} points have {len(labels)} point_labels; accepted: one label for each point")
    values = np.array(labels, np.int32)
    if not np.isin(values, (0, 1)).all():
        raise ValueError(f"point_labels are {values.tolist()}; accepted: 1 (on the object) and 0 (not on it)")
    return values


def _box(box: BoundingBox2D) -> NDArray[np.float32]:
    if box.center.theta != 0:
        raise ValueError(f"the box is turned by {box.center.theta:g} rad; accepted: theta 0")
    if not (box.size_x > 0 and box.size_y > 0):
        raise ValueError(f"the box has the size {box.size_x:g} x {box.size_y:g}; accepted: both sides positive")
    edges = np.array(box_edges(box), np.float32)
    if not np.isfinite(edges).all():
        raise ValueError("the box is not finite; accepted: pixels of the image")
    return edges
