"""Reads a prompts file: a JSON list that says which object is where in which frame.

Each entry has ``frame`` (from 0), ``object_id`` (from 1) and a prompt in source pixels: ``box``, ``points`` with
``labels``, a box with points, or ``mask`` (a PNG, relative to the prompts file; > 0 = object). Or it has ``like``, a
picture of the object (JPEG or PNG, likewise); a box or a mask then lies in that. ``name`` and ``label`` are optional.
Needs neither torch nor ROS.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam2_ros.media.errors import UserError
from sam2_ros.media.input_files import read_file
from sam2_ros.media.label_images import MAX_ID, read_mask
from sam2_ros.media.prompt_pictures import read_picture, shrunk
from sam2_ros.text import printable
from sam2_ros.tracking.prompt_checks import MAX_POINTS, check_count, check_request
from sam2_ros.tracking.types import BoolMask, Prompt, PromptError, PromptRequest

MAX_BYTES = 4 << 20  # of the file
MAX_ENTRIES = 4096
MAX_MASK_PIXELS = 1 << 30  # of all masks, which are held in memory
MAX_FRAME = 2**31 - 1
_KEYS = ("frame", "object_id", "box", "points", "labels", "mask", "like", "name", "label")
_ACCEPTED = {
    "box": "[x0, y0, x1, y1] in pixels",
    "points": "[[x, y], …] in pixels",
    "labels": "1 (on the object) and 0 (not on it)",
}
_KINDS = "'box', 'points' with 'labels', 'box' and 'points', 'mask', or 'like'"


class PromptsFileError(UserError):
    """A prompts file that can't be used; the message names the file, the entry and what is accepted."""


@dataclass(frozen=True)
class FramePrompt:
    """One entry of a prompts file. ``object_id`` is the file's, not the tracker's."""

    frame: int
    object_id: int
    prompt: Prompt
    name: str = ""
    label: str = ""
    files: tuple[Path, ...] = ()  # where its mask or its picture was read


def load_prompts(path: Path | str) -> list[FramePrompt]:
    """Reads and checks a prompts file; the entries come in the order of their frames.

    Raises:
        PromptsFileError: with the entry and what is accepted.
    """
    path = Path(path)
    try:
        content = _read_json(path)
    except UserError as error:
        raise PromptsFileError(str(error)) from None
    if not isinstance(content, list) or not content:
        raise PromptsFileError(f"{path}: accepted is a list of at least one prompt, each with {_KINDS}")

    prompts: list[FramePrompt] = []
    mask_pixels = 0
    for index, entry in enumerate(content):
        try:
            prompts.append(_parse(entry, path.parent))
            mask, picture = prompts[-1].prompt.mask, prompts[-1].prompt.like
            mask_pixels += (0 if mask is None else mask.size) + (0 if picture is None else picture.size)
            if mask_pixels > MAX_MASK_PIXELS:
                raise UserError(f"the masks have more than {MAX_MASK_PIXELS} pixels in all; use fewer, or boxes")
        except (UserError, PromptError) as error:
            raise PromptsFileError(f"{path}: entry {index}: {error}") from None
    owners: dict[str, int] = {}
    for prompt in prompts:
        owner = owners.setdefault(prompt.name, prompt.object_id)
        if prompt.name and owner != prompt.object_id:
            raise PromptsFileError(
                f"{path}: name '{prompt.name}' is given to objects {owner} and {prompt.object_id}; names are unique"
            )
    return sorted(prompts, key=lambda prompt: prompt.frame)


def _read_json(path: Path) -> Any:
    """The content of the file; its size and the number of its prompts are checked before it is parsed."""
    data = read_file(path, MAX_BYTES)
    if (count := data.count(b"{")) > MAX_ENTRIES:
        raise UserError(f"{path} holds {count} prompts; accepted: up to {MAX_ENTRIES}")
    try:
        return json.loads(data.decode("utf-8-sig"))  # some editors write a byte order mark
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is no text in UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON (line {error.lineno}: {error.msg})") from None
    except RecursionError:
        raise UserError(f"{path}: lists within lists, too deep; accepted: a list of prompts") from None
    except ValueError:
        raise UserError(f"{path}: a number has thousands of digits; accepted: pixels of the image") from None


def _parse(entry: Any, folder: Path) -> FramePrompt:
    if not isinstance(entry, dict):
        raise UserError('is no object; accepted: {"frame": 0, "object_id": 1, "box": [x0, y0, x1, y1]}')
    if unknown := [key for key in entry if key not in _KEYS]:
        raise UserError(f"unknown key '{printable(unknown[0])}'; accepted: {', '.join(_KEYS)}")
    frame, object_id = _integer(entry, "frame", 0, MAX_FRAME), _integer(entry, "object_id", 1, MAX_ID)
    mask_file, like_file = _path(entry, "mask", folder), _path(entry, "like", folder)
    prompt = read_prompt(entry, None if mask_file is None else read_mask(mask_file))
    if like_file is not None:
        prompt = shrunk(replace(prompt, like=read_picture(like_file)))
    request = PromptRequest(prompt, None, _text(entry, "name"), _text(entry, "label"))
    check_request(request)
    files = tuple(file for file in (mask_file, like_file) if file is not None)
    return FramePrompt(frame, object_id, request.prompt, request.name, request.label, files)


def read_prompt(entry: Mapping[str, Any], mask: BoolMask | None = None) -> Prompt:
    """The ``box``, ``points`` and ``labels`` of a JSON object, which may be None. Their values are not checked yet.

    Raises:
        UserError: one is not made of numbers.
        PromptError: there are too many points.
    """
    for key in ("points", "labels"):
        if isinstance(entry.get(key), list):
            check_count(key, len(entry[key]), MAX_POINTS)
    box, points = _numbers(entry, "box", (int, float)), _numbers(entry, "points", (int, float))
    labels = _numbers(entry, "labels", (int,))
    if labels is not None:
        labels = labels.clip(-(2**31), 2**31 - 128)  # float32 knows no whole number between this and 2**31
    return Prompt(points, None if labels is None else labels.astype(np.int32), box, mask)


def _numbers(entry: Mapping[str, Any], key: str, kinds: tuple[type, ...]) -> NDArray[np.float32] | None:
    """A list, or a list of lists, of JSON numbers."""
    if entry.get(key) is None:
        return None
    values = np.array(entry[key], dtype=object)
    if values.ndim not in (1, 2) or not all(type(value) in kinds for value in values.flat):
        raise UserError(f"'{key}' holds something else than numbers; accepted: {_ACCEPTED[key]}")
    try:
        with np.errstate(over="ignore"):  # beyond float32 is infinite, which the checks refuse
            return values.astype(np.float32)
    except OverflowError:
        raise UserError(f"'{key}' holds a number that is too large; accepted: {_ACCEPTED[key]}") from None


def _path(entry: dict[str, Any], key: str, folder: Path) -> Path | None:
    if key not in entry:
        return None
    if not isinstance(entry[key], str):
        raise UserError(f"'{key}' is no path; accepted: the path of a picture, relative to the prompts file")
    return folder / entry[key]


def _integer(entry: dict[str, Any], key: str, low: int, high: int) -> int:
    value = entry.get(key)
    if type(value) is not int or not low <= value <= high:
        shown = type(value).__name__ if isinstance(value, list | dict) else printable(json.dumps(value))
        found = shown if key in entry else "missing"
        raise UserError(f"'{key}' is {found}; accepted: a whole number from {low} to {high}")
    return value


def _text(entry: dict[str, Any], key: str) -> str:
    value = entry.get(key, "")
    if not isinstance(value, str):
        raise UserError(f"'{key}' is no text")
    return value
