"""Reads the commands of a page."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam2_ros.media.picture_decoder import decode_picture
from sam2_ros.media.prompts_file import read_prompt
from sam2_ros.tracking.prompt_checks import MAX_PICTURE, check_names, check_request
from sam2_ros.tracking.types import PromptRequest

Command = Mapping[str, Any]


class BadCommand(ValueError):
    """An invalid command; ``str(error)`` says why."""


def read_request(command: Command) -> PromptRequest:
    """The prompt of ``add`` and ``refine``; 0 as ``object_id`` is a new object.

    Raises:
        BadCommand, UserError, PromptError: it can't be used.
    """
    prompt = read_prompt({key: command.get(key) or None for key in ("box", "points", "labels")})
    box = prompt.box
    if box is not None and box.shape == (4,):  # drawn from any corner to the opposite one
        box = np.sort(box.reshape(2, 2), axis=0).reshape(4)
    candidate, again = read_number(command.get("candidate", 0)) or None, bool(command.get("replace", False))
    prompt = replace(prompt, box=box, candidate=candidate, replace=again, like=_picture(command))
    object_id = read_number(command.get("object_id", 0)) or None
    request = PromptRequest(prompt, object_id, _text(command, "name"), _text(command, "label"))
    check_request(request)
    return request


def _picture(command: Command) -> NDArray[np.uint8] | None:
    """The picture of an object, a JPEG or PNG as base64."""
    text = _text(command, "like")
    if not text:
        return None
    try:
        return decode_picture(base64.b64decode(text, validate=True), MAX_PICTURE)
    except ValueError as error:
        raise BadCommand(f"the picture: {error}") from None


def read_names(command: Command) -> tuple[str, str]:
    """Name and label; raises as :func:`read_request`."""
    name, label = _text(command, "name"), _text(command, "label")
    check_names(name, label)
    return name, label


def read_stamp(command: Command) -> int:
    """Of the picture that a command means, in nanoseconds; 0 = the newest. Raises as :func:`read_request`."""
    value = command.get("stamp", "0")
    if not isinstance(value, str) or not value.isdecimal() or len(value) > 19 or int(value) >= 2**31 * 10**9:
        raise BadCommand(f"stamp {short(value)}; accepted: nanoseconds as decimal digits")
    return int(value)


def read_number(value: Any) -> int:
    """Raises as :func:`read_request`."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**32:
        raise BadCommand(f"{short(value)}; accepted: a whole number from 0 to {2**32 - 1}")
    return value


def short(value: object) -> str:
    """A value of a page, to be shown in an answer."""
    return repr(value)[:60]


def _text(command: Command, key: str) -> str:
    value = command.get(key, "")
    if not isinstance(value, str):
        raise BadCommand(f"{key} is no text")
    return value
