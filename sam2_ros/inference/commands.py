"""Clients' commands, which address objects by name or id. Runs in the inference thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

from sam2_ros.inference.backend import Backend, NewestSegmenter
from sam2_ros.text import printable
from sam2_ros.tracking.segmentation import Slices
from sam2_ros.tracking.types import ObjectResult, PromptCode, PromptError, PromptRequest, PromptResult

Asked: TypeAlias = PromptRequest | PromptError
"""A request, or why it was refused before the engine saw it."""

_LISTED = 20  # living objects that a refusal names


def living(backend: Backend) -> tuple[ObjectResult, ...]:
    """Every living object as of the newest frame, in the order of their ids."""
    newest = backend.objects()
    return newest.objects if newest else ()


def find(backend: Backend, name_or_id: str) -> int:
    """The id of the living object with this name or, failing that, this decimal id.

    Raises:
        PromptError: UNKNOWN_OBJECT, with the objects that live.
    """
    objects = living(backend)
    ids = {str(obj.object_id): obj.object_id for obj in objects} | {o.name: o.object_id for o in objects if o.name}
    if name_or_id in ids:
        return ids[name_or_id]
    listed = [f"{obj.object_id} ({printable(obj.name)})" if obj.name else str(obj.object_id) for obj in objects]
    more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    alive = f"living: {', '.join(listed[:_LISTED])}{more}" if listed else "none lives"
    asked = printable(name_or_id)
    raise PromptError(PromptCode.UNKNOWN_OBJECT, f"no living object has the name or id '{asked}'; {alive}")


def add(backend: Backend, asked: Sequence[Asked], stamp: int = 0) -> list[PromptResult]:
    """Applies the requests among ``asked``; one result each, in the same order.

    A request without an id corrects the living object of its name, if there is one.
    """
    names = {obj.name: obj.object_id for obj in living(backend) if obj.name}
    requests = [
        replace(request, object_id=names.get(request.name)) if request.object_id is None else request
        for request in asked
        if isinstance(request, PromptRequest)
    ]
    answers = iter(backend.add(requests, stamp) if requests else ())
    return [refusal(request) if isinstance(request, PromptError) else next(answers) for request in asked]


def refine(backend: Backend, asked: Asked, stamp: int = 0) -> PromptResult:
    """Corrects the object with the request's id or name."""
    if isinstance(asked, PromptError):
        return refusal(asked)
    try:
        object_id = find(backend, asked.name) if asked.object_id is None else asked.object_id
        return backend.refine(replace(asked, object_id=object_id), stamp)
    except PromptError as error:
        return refusal(error)


def remove(backend: Backend, name_or_id: str) -> int:
    """Forgets an object; returns its id.

    Raises:
        PromptError: UNKNOWN_OBJECT.
    """
    object_id = find(backend, name_or_id)
    backend.remove(object_id)
    return object_id


def rename(backend: Backend, name_or_id: str, name: str, label: str) -> int:
    """Gives an object another name and label; returns its id.

    Raises:
        PromptError: UNKNOWN_OBJECT or DUPLICATE_NAME.
    """
    object_id = find(backend, name_or_id)
    backend.rename(object_id, name, label)
    return object_id


def image_engine(backend: Backend) -> NewestSegmenter:
    """What segments single images.

    Raises:
        PromptError: UNSUPPORTED.
    """
    images: NewestSegmenter | None = getattr(backend, "images", None)
    if images is None:
        reason = f"single images need a network in the node's own process; this engine is {backend.info.model}"
        cure = "leave inference.endpoint empty, or use sam2_ros segment on the server's machine"
        raise PromptError(PromptCode.UNSUPPORTED, f"{reason}; {cure}")
    return images


def advance(slices: Slices) -> list[PromptResult] | None:
    """Does the next slice of work on an image; returns the results once there are no more."""
    try:
        next(slices)
    except StopIteration as end:
        results: list[PromptResult] = end.value
        return results
    return None


def refusal(error: PromptError) -> PromptResult:
    return PromptResult(error.code, str(error))
