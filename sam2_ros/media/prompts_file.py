"""Reads a prompts file: a JSON list that says which object is where in which frame.

Each entry has ``frame`` (from 0), ``object_id`` (from 1) and what is known of the object in source pixels: ``box``,
``points`` with ``labels``, a box with points, or ``mask`` (a PNG, relative to the prompts file; > 0 = object); and
optionally ``name`` and ``label``. Needs neither torch nor ROS.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam2_ros.media.errors import UserError
from sam2_ros.media.label_images import MAX_ID, read_mask
from sam2_ros.tracking.types import Prompt

_KEYS = ("frame", "object_id", "box", "points", "labels", "mask", "name", "label")
_KINDS = "'box', 'points' with 'labels', 'box' and 'points', or 'mask'"


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


def load_prompts(path: Path | str) -> list[FramePrompt]:
    """Reads and checks a prompts file; the entries come in the order of their frames.

    Raises:
        PromptsFileError: with the entry and what is accepted.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PromptsFileError(f"{path}: no such prompts file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise PromptsFileError(f"{path}: can't be read ({error})") from None
    except json.JSONDecodeError as error:
        raise PromptsFileError(f"{path}: not JSON (line {error.lineno}: {error.msg})") from None
    if not isinstance(content, list) or not content:
        raise PromptsFileError(f"{path}: accepted is a list of at least one prompt, each with {_KINDS}")

    prompts: list[FramePrompt] = []
    for index, entry in enumerate(content):
        try:
            prompts.append(_parse(entry, path.parent))
        except UserError as error:
            raise PromptsFileError(f"{path}: entry {index}: {error}") from None
    _check_names(prompts, path)
    return sorted(prompts, key=lambda prompt: prompt.frame)


def _parse(entry: Any, folder: Path) -> FramePrompt:
    if not isinstance(entry, dict):
        raise UserError('is no object; accepted: {"frame": 0, "object_id": 1, "box": [x0, y0, x1, y1]}')
    unknown = [key for key in entry if key not in _KEYS]
    if unknown:
        raise UserError(f"unknown key '{unknown[0]}'; accepted: {', '.join(_KEYS)}")
    return FramePrompt(
        frame=_integer(entry, "frame", 0),
        object_id=_integer(entry, "object_id", 1, MAX_ID),
        prompt=_prompt(entry, folder),
        name=_text(entry, "name"),
        label=_text(entry, "label"),
    )


def _prompt(entry: dict[str, Any], folder: Path) -> Prompt:
    kinds = {key for key in ("box", "points", "mask") if key in entry}
    if not kinds or (len(kinds) > 1 and "mask" in kinds):
        raise UserError(f"has {' and '.join(sorted(kinds)) or 'no prompt'}; accepted: {_KINDS}")
    if ("points" in kinds) != ("labels" in entry):
        raise UserError("'points' and 'labels' come together, one label for each point")
    if "mask" in kinds:
        if not isinstance(entry["mask"], str):
            raise UserError("'mask' is no path; accepted: the path of a PNG, relative to the prompts file")
        return Prompt(mask=read_mask(folder / entry["mask"]))

    points = labels = box = None
    if "box" in kinds:
        box = _numbers(entry["box"], (4,), "'box' is not four numbers; accepted: [x0, y0, x1, y1] in pixels")
        if box[2] <= box[0] or box[3] <= box[1]:
            raise UserError(f"'box' {entry['box']} is empty; accepted: [x0, y0, x1, y1] with x0 < x1 and y0 < y1")
    if "points" in kinds:
        points = _numbers(entry["points"], (-1, 2), "'points' are not pairs; accepted: [[x, y], …] in pixels")
        labels = _point_labels(entry["labels"], len(points))
    return Prompt(points=points, labels=labels, box=box)


def _numbers(value: Any, shape: tuple[int, ...], complaint: str) -> NDArray[np.float32]:
    """A list of finite numbers as ``float32`` of ``shape`` (-1: any length from 1 on)."""
    rows = value if len(shape) == 2 else [value]
    if not isinstance(rows, list) or not rows:
        raise UserError(complaint)
    for row in rows:
        if not isinstance(row, list) or len(row) != shape[-1]:
            raise UserError(complaint)
        if not all(_is_number(number) for number in row):
            raise UserError(complaint)
    return np.asarray(value, np.float32)


def _point_labels(value: Any, count: int) -> NDArray[np.int32]:
    if not isinstance(value, list) or any(type(label) is not int or label not in (0, 1) for label in value):
        raise UserError("'labels' hold something else than 1 (on the object) and 0 (not on it)")
    if len(value) != count:
        raise UserError(f"{len(value)} labels for {count} points; accepted: one label for each point")
    return np.asarray(value, np.int32)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _integer(entry: dict[str, Any], key: str, low: int, high: int | None = None) -> int:
    value = entry.get(key)
    if type(value) is not int or value < low or (high is not None and value > high):
        accepted = f"a whole number from {low} on" if high is None else f"a whole number from {low} to {high}"
        raise UserError(f"'{key}' is {json.dumps(value) if key in entry else 'missing'}; accepted: {accepted}")
    return value


def _text(entry: dict[str, Any], key: str) -> str:
    value = entry.get(key, "")
    if not isinstance(value, str):
        raise UserError(f"'{key}' is no text")
    return value


def _check_names(prompts: list[FramePrompt], path: Path) -> None:
    owners: dict[str, int] = {}
    for prompt in prompts:
        owner = owners.setdefault(prompt.name, prompt.object_id)
        if prompt.name and owner != prompt.object_id:
            raise PromptsFileError(
                f"{path}: name '{prompt.name}' is given to objects {owner} and {prompt.object_id}; names are unique"
            )
