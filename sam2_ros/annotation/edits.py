"""Corrections that need no network: which images an object is in, which object is which, labels, and doubts."""

from __future__ import annotations

from collections.abc import Callable

from sam2_ros.annotation.corrections import Version
from sam2_ros.annotation.reviewed import Reviewed
from sam2_ros.media.errors import UserError
from sam2_ros.viewer.page_commands import BadCommand, Command, read_names, read_number

Answer = dict[str, object]
Edit = Callable[[Reviewed, Command], tuple[Version, Answer]]
"""The corrected version, and the answer to the page.

Raises:
    BadCommand: the command is invalid.
    UserError: it can't be done.
"""


def yes(message: str = "", **more: object) -> Answer:
    return {"success": True, "message": message, **more}


def no(message: str) -> Answer:
    return {"success": False, "message": message}


def frame_of(reviewed: Reviewed, value: object) -> int:
    frame = read_number(value)
    if frame >= len(reviewed.images):
        raise BadCommand(f"there is no image {frame}; accepted: 0 to {len(reviewed.images) - 1}")
    return frame


def no_object(reviewed: Reviewed, key: int | None) -> str:
    ids = ", ".join(map(str, reviewed.corrections.now.labels))[:200] or "none; mark one in the picture"
    return f"there is no object {key}; there are: {ids}"


def _object_of(reviewed: Reviewed, value: object) -> int:
    key = read_number(value)
    if key not in reviewed.corrections.now.labels:
        raise BadCommand(no_object(reviewed, key))
    return key


def _two_objects(reviewed: Reviewed, command: Command) -> tuple[int, int]:
    key, other = _object_of(reviewed, command.get("object_id")), _object_of(reviewed, command.get("other"))
    if key == other:
        raise BadCommand(f"both are object {key}; choose two")
    return key, other


def _remove(reviewed: Reviewed, command: Command) -> tuple[Version, Answer]:
    key = _object_of(reviewed, command.get("object_id"))
    first, last = (frame_of(reviewed, command.get(name)) for name in ("first", "last"))
    return reviewed.corrections.now.without(key, min(first, last), max(first, last)), yes()


def _rename(reviewed: Reviewed, command: Command) -> tuple[Version, Answer]:
    key, (name, _) = _object_of(reviewed, command.get("object_id")), read_names(command)
    if not name:
        raise BadCommand("a label has at least one character")
    return reviewed.corrections.now.with_label(key, name), yes()


def _accept(reviewed: Reviewed, command: Command) -> tuple[Version, Answer]:
    return reviewed.corrections.now.accepted(frame_of(reviewed, command.get("frame"))), yes()


def _split(reviewed: Reviewed, command: Command) -> tuple[Version, Answer]:
    key, frame = _object_of(reviewed, command.get("object_id")), frame_of(reviewed, command.get("frame"))
    now = reviewed.corrections.now
    seen = [at for at, other in now.masks if other == key]
    if not any(at < frame for at in seen) or not any(at >= frame for at in seen):
        raise UserError(f"object {key} has masks only on one side of image {frame}; go to where another thing begins")
    new = max(now.labels) + 1
    return now.split(key, frame, new), yes(f"From image {frame} on, #{key} is #{new}", object_id=new)


def _merge(reviewed: Reviewed, command: Command) -> tuple[Version, Answer]:
    key, other = _two_objects(reviewed, command)
    return reviewed.corrections.now.merged(key, other), yes(f"#{other} is #{key} now")


def _exchange(reviewed: Reviewed, command: Command) -> tuple[Version, Answer]:
    (key, other), frame = _two_objects(reviewed, command), frame_of(reviewed, command.get("frame"))
    now = reviewed.corrections.now
    if not any(at >= frame and each in (key, other) for at, each in now.masks):
        raise UserError(f"neither #{key} nor #{other} has a mask from image {frame} on")
    return now.exchanged(key, other, frame), yes(f"From image {frame} on, #{key} and #{other} are exchanged")


EDITS: dict[str, Edit] = {
    "remove": _remove, "rename": _rename, "accept": _accept, "split": _split, "merge": _merge, "exchange": _exchange,
}  # fmt: skip
