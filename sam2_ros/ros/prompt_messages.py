"""Prompts as messages: what clients send, as the engine understands it, and the way back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from vision_msgs.msg import BoundingBox2D, Point2D

from sam2_ros.inference.commands import Asked
from sam2_ros.media.picture_decoder import check_size
from sam2_ros.media.prompt_pictures import shrunk
from sam2_ros.msg import ObjectPrompt
from sam2_ros.ros.image_conversion import mono8_mask, to_rgb
from sam2_ros.ros.messages import bounding_box, box_edges, image_message
from sam2_ros.srv import AddObjects
from sam2_ros.text import printable
from sam2_ros.tracking.prompt_checks import (
    MAX_POINTS,
    MAX_PROMPTS,
    MAX_REQUEST_POINTS,
    check_count,
    check_request,
)
from sam2_ros.tracking.types import Prompt, PromptCode, PromptError, PromptRequest


def from_add_objects(request: AddObjects.Request) -> list[Asked]:
    """The requests of ``prompts``, then one for each object of the flat fields; one refusal for a call that is too
    large."""
    try:
        check_count("prompts", len(request.prompts), MAX_PROMPTS)
        prompts = [*request.prompts, *_from_flat_fields(request)]
        check_count("prompts", len(prompts), MAX_PROMPTS)
    except PromptError as error:
        return [error]
    return [prompt if isinstance(prompt, PromptError) else from_prompt(prompt) for prompt in prompts]


def from_prompt(message: ObjectPrompt) -> Asked:
    """What the message asks for, checked; or why it can't be done."""
    try:
        check_count("points", len(message.points), MAX_POINTS)
        check_count("point_labels", len(message.point_labels), MAX_POINTS)
        prompt = Prompt(
            points=_float32([(point.x, point.y) for point in message.points]) if message.points else None,
            labels=np.array(message.point_labels, np.int32) if message.point_labels else None,
            box=_box(message.box[0]) if message.box else None,
            mask=mono8_mask(message.mask) if message.mask.width else None,
            candidate=message.candidate or None,
            replace=message.replace,
            like=_picture(message.like) if message.like.width else None,
        )
        request = PromptRequest(
            shrunk(prompt), message.object_id or None, message.name, message.label, message.label_score
        )
        check_request(request)
    except ValueError as error:
        return error if isinstance(error, PromptError) else PromptError(PromptCode.INVALID_PROMPT, str(error))
    return request


def to_message(request: PromptRequest) -> ObjectPrompt:
    """The message that :func:`from_prompt` reads as ``request``, which must be a checked one."""
    prompt = request.prompt
    message = ObjectPrompt(
        object_id=request.object_id or 0, name=request.name, label=request.label, label_score=request.label_score,
        candidate=prompt.candidate or 0, replace=prompt.replace,
    )  # fmt: skip
    if prompt.box is not None:
        message.box = [bounding_box(tuple(prompt.box.tolist()))]
    if prompt.points is not None and prompt.labels is not None:
        message.points = [Point2D(x=x, y=y) for x, y in prompt.points.tolist()]
        message.point_labels = prompt.labels.tolist()
    if prompt.mask is not None:
        message.mask = image_message(prompt.mask.view(np.uint8) * np.uint8(255), Header(), "mono8")
    if prompt.like is not None:
        message.like = image_message(prompt.like, Header())
    return message


def _picture(image: Image) -> NDArray[np.uint8]:
    try:
        check_size("picture", image.width, image.height)
        return to_rgb(image)
    except ValueError as error:
        raise ValueError(f"like: {error}") from None


def _from_flat_fields(request: AddObjects.Request) -> list[ObjectPrompt | PromptError]:
    """The fields of Isaac ROS Segment Anything 2's clients; a name that has a box and points makes one object.

    Raises:
        PromptError: the fields don't fit together.
    """
    counts = (
        (len(request.bbox_object_ids), len(request.bbox_coords), "bbox_object_ids and bbox_coords"),
        (len(request.point_object_ids), len(request.point_coords), "point_object_ids and point_coords"),
        (len(request.point_object_ids), len(request.point_labels), "point_object_ids and point_labels"),
    )
    for first, second, names in counts:
        if first != second:
            raise _refusal(f"{names} have {first} and {second} entries; accepted: equally many")
    check_count("bbox_coords", len(request.bbox_coords), MAX_PROMPTS)
    check_count("point_coords", len(request.point_coords), MAX_REQUEST_POINTS)
    objects: defaultdict[str, ObjectPrompt] = defaultdict(ObjectPrompt)
    refused = {"": _refusal("an object id is empty; accepted: a name for each object")}
    for name, box in zip(request.bbox_object_ids, request.bbox_coords, strict=True):
        if objects[name].box:
            refused[name] = _refusal(f"'{printable(name)}' has more than one box; accepted: one")
        objects[name].box = [box]
    for name, point, label in zip(request.point_object_ids, request.point_coords, request.point_labels, strict=True):
        objects[name].points.append(point)
        objects[name].point_labels.append(label)
    for name, prompt in objects.items():
        prompt.name = name
    return [refused.get(name, prompt) for name, prompt in objects.items()]


def _box(box: BoundingBox2D) -> NDArray[np.float32]:
    if box.center.theta != 0:
        raise ValueError(f"the box is turned by {box.center.theta:g} rad; accepted: theta 0")
    return _float32(box_edges(box))


def _float32(values: Sequence[float] | Sequence[tuple[float, float]]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # what is too large becomes infinite, which the checks refuse
        return np.array(values, np.float32)


def _refusal(message: str) -> PromptError:
    return PromptError(PromptCode.INVALID_PROMPT, message)
