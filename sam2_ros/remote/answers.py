"""Checks what a server answers before anything here believes it. A wrong answer is a :class:`ProtocolError`.

A server may lie: be damaged, of another version, or in other hands. What it says then must cost neither the memory nor
the process of its client, and reach no message.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sam2_ros.inference.backend import BackendInfo
from sam2_ros.remote.codec import from_wire
from sam2_ros.remote.pixels import MAX_SIDE
from sam2_ros.remote.protocol import Header, ProtocolError, integer
from sam2_ros.tracking.prompt_checks import MAX_ID, MAX_PROMPTS, text_problem
from sam2_ros.tracking.types import CroppedMask, FrameResult, ObjectChange, ObjectResult, PromptResult

_LATEST = 2**31 * 10**9  # ns, of a stamp as messages hold it
_MAX_COUNT = 2**31
_MAX_INTEGER = 1 << 62
_MAX_TEXT = 1000  # characters of a reason
_MAX_STAGES = 100  # timings of a frame
_CANDIDATES = 4
_CHANGES = 8  # of each object, in one answer


def frame_result(value: Any, max_objects: int, pixels: int) -> FrameResult:
    """The objects of one frame of at most ``pixels``; raises ProtocolError."""
    result = from_wire(FrameResult, value, (max_objects + 1) * pixels)
    if not (0 < result.width <= MAX_SIDE and 0 < result.height <= MAX_SIDE and result.width * result.height <= pixels):
        raise ProtocolError(f"the result is of {result.width} x {result.height} pixels; no frame was larger")
    _number("stamp", result.stamp, -_LATEST, _LATEST)
    _number("frame_index", result.frame_index, 0, _MAX_INTEGER)
    _at_most("objects", result.objects, max_objects)
    if len({obj.object_id for obj in result.objects}) != len(result.objects):
        raise ProtocolError("two objects have one id")
    for obj in result.objects:
        _check_object(obj)
        if (obj.mask.width, obj.mask.height) != (result.width, result.height):
            raise ProtocolError(f"object {obj.object_id} has a mask of another size than its frame")
    _check_changes(result.changes, max_objects)
    _at_most("timings", result.timings_ms, _MAX_STAGES)
    _at_most("load shedding", result.load_shedding, _MAX_STAGES)
    _text("a stage", *result.timings_ms, *result.load_shedding)
    _finite("a timing", *result.timings_ms.values())
    return result


def step_result(value: Any, max_objects: int, width: int, height: int, stamp: int) -> FrameResult:
    """The answer to a frame; raises ProtocolError."""
    result = frame_result(value, max_objects, width * height)
    if (result.width, result.height, result.stamp) != (width, height, stamp):
        raise ProtocolError(f"the result is of another frame ({result.width} x {result.height}, {result.stamp})")
    return result


def prompt_results(value: Any, count: int, pixels: int) -> list[PromptResult]:
    """The answers to ``count`` prompts on frames of at most ``pixels``; raises ProtocolError."""
    if not isinstance(value, list) or len(value) != count:
        raise ProtocolError(f"there are not {count} results")
    results = from_wire(list[PromptResult], value, _CANDIDATES * min(count, MAX_PROMPTS) * pixels)
    # A name that was refused comes back with the refusal.
    results = [replace(r, name="") if not r.success and text_problem(r.name) else r for r in results]
    for result in results:
        _text("a message", result.message)
        _name(result.name)
        _number("object_id", result.object_id, 0, MAX_ID)
        _number("applied_stamp", result.applied_stamp, -_LATEST, _LATEST)
        _number("frames_caught_up", result.frames_caught_up, 0, _MAX_COUNT)
        _finite("a result", result.prompt_age, result.stamp_difference, result.stability)
        _at_most("candidates", result.candidates, _CANDIDATES)
        for candidate in result.candidates:
            _check_mask(candidate.mask)
            _number("a candidate's index", candidate.index, 1, _CANDIDATES)
            _finite("a candidate", candidate.predicted_iou, candidate.stability)
        if result.result is not None:
            _check_object(result.result)
    return results


def prompt_result(value: Any, pixels: int) -> PromptResult:
    """The answer to one prompt; raises ProtocolError."""
    return prompt_results([value], 1, pixels)[0]


def changes(value: Any, max_objects: int) -> list[ObjectChange]:
    """What changed; raises ProtocolError."""
    found = from_wire(list[ObjectChange], value, 0)
    _check_changes(found, max_objects)
    return found


def next_id(answer: Header, least: int) -> int:
    """The id of the next new object, which never goes back below ``least``; raises ProtocolError."""
    return integer(answer, "next_id", least, MAX_ID + 1)


def backend_info(greeting: Header) -> BackendInfo:
    """What the server's engine is; raises ProtocolError."""
    info = from_wire(BackendInfo, greeting.get("info"), 0)
    _text("the engine", info.model, info.device, info.dtype)
    for count in (info.image_size, info.bank_bytes, info.max_objects, info.history_bytes, info.cache_bytes):
        _number("a size of the engine", count, 0, _MAX_INTEGER)
    if "max_bytes" in greeting:
        integer(greeting, "max_bytes", 1, _MAX_INTEGER)
    return info


def health(answer: Header) -> Header:
    """Whether the server has room; raises ProtocolError."""
    said = answer.get("health")
    if not isinstance(said, dict) or not isinstance(said.get("ready"), bool):
        raise ProtocolError("the health is no map with 'ready'")
    for key in ("streams", "streams_at_most"):
        integer(said, key, 0, _MAX_INTEGER)
    return said


def _check_object(obj: ObjectResult) -> None:
    _number("object_id", obj.object_id, 1, MAX_ID)
    _name(obj.name, obj.label)
    _check_mask(obj.mask)
    _check_window(obj)
    _finite(f"object {obj.object_id}", obj.object_score, obj.visibility, obj.predicted_iou, obj.label_score)
    for stamp in (obj.first_seen, obj.last_seen):
        _number("a stamp", stamp, -_LATEST, _LATEST)
    for count in (obj.frames_since_seen, obj.frames_tracked):
        _number("a count", count, 0, _MAX_COUNT)


def _check_mask(mask: CroppedMask) -> None:
    if mask.crop.ndim != 2 or mask.crop.dtype != bool:
        raise ProtocolError(f"a mask is {mask.crop.dtype} with {mask.crop.ndim} dimensions")
    _number("a mask's side", max(mask.width, mask.height), 1, MAX_SIDE)
    x0, y0, x1, y1 = mask.box
    if not (0 <= x0 <= x1 <= mask.width and 0 <= y0 <= y1 <= mask.height):
        raise ProtocolError("a mask lies outside its image")


def _check_window(obj: ObjectResult) -> None:
    if not obj.window:
        return
    if len(obj.window) != 4:
        raise ProtocolError(f"a window has {len(obj.window)} edges; accepted: 4")
    x0, y0, x1, y1 = obj.window
    if not (0 <= x0 < x1 <= obj.mask.width and 0 <= y0 < y1 <= obj.mask.height):
        raise ProtocolError("a window is no part of its image")


def _check_changes(found: Sequence[ObjectChange], max_objects: int) -> None:
    _at_most("changes", found, _CHANGES * (max_objects + 8))
    for change in found:
        _number("object_id", change.object_id, 0, MAX_ID)
        _name(change.name, change.label)
        _text("a reason", change.reason)
        _finite("a change", change.object_score, change.visibility)
        _number("a stamp", change.last_seen, -_LATEST, _LATEST)


def _at_most(what: str, values: Sequence[Any] | dict[Any, Any], most: int) -> None:
    if len(values) > most:
        raise ProtocolError(f"there are {len(values)} {what}; accepted: up to {most}")


def _number(what: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ProtocolError(f"{what} is {value if abs(value) < 1 << 64 else 'huge'}; accepted: {low} to {high}")


def _finite(what: str, *values: float) -> None:
    if not all(map(math.isfinite, values)):
        raise ProtocolError(f"{what} has a number that is not finite")


def _name(*texts: str) -> None:
    for text in texts:
        if problem := text_problem(text):
            raise ProtocolError(f"a name {problem}")


def _text(what: str, *texts: str) -> None:
    for text in texts:
        if len(text) > _MAX_TEXT:
            raise ProtocolError(f"{what} has {len(text)} characters; accepted: up to {_MAX_TEXT}")
        if not text.replace("\n", " ").isprintable():
            raise ProtocolError(f"{what} has characters that can't be shown")
