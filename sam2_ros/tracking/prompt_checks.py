"""What a prompt may say: one place for the engine and for every front end (node, server, page, file, command line).

A front end turns its own format into a :class:`PromptRequest` and calls :func:`check_request`. The engine calls it
again with the size of the image. This module never imports torch.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sam2_ros.tracking.types import Prompt, PromptCode, PromptError, PromptRequest

MAX_PROMPTS = 1024  # in one request: as many as a tracker may have objects
MAX_POINTS = 256  # in one prompt, and of one object on one frame
MAX_REQUEST_POINTS = 64 * MAX_POINTS  # in one request
MAX_PICTURE = 1 << 22  # pixels of a picture (2048 x 2048), and of all pictures of a request
MAX_ID = 2**32 - 1  # of an object, as messages hold it
MAX_TEXT = 256  # characters of a name or a label
_UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}  # Unicode categories: control characters, surrogates, line separators
_TURNING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}  # they turn the text around them


def check_request(request: PromptRequest, size: tuple[int, int] | None = None) -> None:
    """Checks a prompt with its name and label; with the ``size`` (width, height) of its image also the coordinates.

    Raises:
        PromptError: INVALID_PROMPT, with the field, what is accepted and what to do.
    """
    check_names(request.name, request.label, request.label_score)
    if request.object_id is not None:
        check_id(request.object_id)
    check_prompt(request.prompt)
    if request.prompt.like is not None:
        if request.object_id is not None:
            raise _refusal("a picture adds an object, and this one exists; correct it by points, a box or a mask")
        _check_picture(request.prompt, request.prompt.like)
        return
    if size is not None:
        _check_on_image(request.prompt, *size, new_object=request.object_id is None)


def check_names(name: str, label: str, label_score: float | None = None) -> None:
    """Checks what an object is called; raises as :func:`check_request`."""
    for field, text in (("name", name), ("label", label)):
        problem = text_problem(text)
        if problem:
            raise _refusal(f"the {field} {problem}")
    if name.isdecimal():
        raise _refusal(f"the name {name} would be taken for an id; accepted: a name that is no number")
    if label_score is not None and not math.isfinite(label_score):
        raise _refusal(f"label_score is {label_score}; accepted: a finite number, usually from 0 to 1")


def check_id(object_id: int) -> None:
    """Refuses a number that can't be an object's; raises as :func:`check_request`."""
    if not 1 <= object_id <= MAX_ID:
        raise _refusal(f"the object id is {object_id}; accepted: 1 to {MAX_ID}")


def text_problem(text: str) -> str:
    """Why ``text`` can't be a name or a label; empty where it can."""
    if len(text) > MAX_TEXT:
        return f"has {len(text)} characters; accepted: up to {MAX_TEXT}; choose a shorter one"
    bad = next((character for character in text if _is_unprintable(character)), "")
    return f"holds the character U+{ord(bad):04X}; accepted: printable characters and spaces" if bad else ""


def _is_unprintable(character: str) -> bool:
    return unicodedata.category(character) in _UNPRINTABLE or unicodedata.bidirectional(character) in _TURNING


def check_count(field: str, count: int, most: int) -> None:
    """Refuses a list that is too long. A front end calls it before it reads the list.

    Raises:
        PromptError: INVALID_PROMPT.
    """
    if count > most:
        raise _refusal(f"there are {count} {field}; accepted: up to {most}; send fewer")


def check_requests(requests: Sequence[PromptRequest]) -> None:
    """Checks how much one call asks for; each engine does so before anything else. Raises as :func:`check_request`."""
    check_count("prompts", len(requests), MAX_PROMPTS)
    points = sum(np.size(request.prompt.points) // 2 for request in requests if request.prompt.points is not None)
    check_count("points in one request", points, MAX_REQUEST_POINTS)
    pixels = sum(request.prompt.like.size // 3 for request in requests if request.prompt.like is not None)
    check_count("pixels in the pictures of one request", pixels, MAX_PICTURE)


def check_sum(object_id: int, earlier: int, more: int) -> None:
    """Refuses points that would be too many with those that the object has on the same frame.

    Raises:
        PromptError: INVALID_PROMPT.
    """
    if earlier + more > MAX_POINTS:
        has = f"object {object_id} has {earlier} points on this frame, and {more} more came"
        raise _refusal(f"{has}; accepted: up to {MAX_POINTS} in all; send fewer, or replace the earlier ones")


def check_prompt(prompt: Prompt) -> None:
    """Checks all that can be said without the image; raises as :func:`check_request`."""
    if prompt.points is None and prompt.labels is not None and np.size(prompt.labels):
        raise _refusal("labels came without points; accepted: one label for each point")
    kinds = [name for name in ("points", "box", "mask") if getattr(prompt, name) is not None]
    if prompt.candidate is not None:
        if prompt.candidate not in (1, 2, 3):
            raise _refusal(f"candidate is {prompt.candidate}; accepted: 1, 2 or 3, as offered by the answer before")
        if kinds and (kinds != ["points"] or np.asarray(prompt.points).shape[:1] != (1,)):
            raise _refusal(
                "candidates are offered for a single point; give one point with the choice, or the choice alone"
            )
    elif not kinds and prompt.like is None:
        raise _refusal("the prompt is empty; give points with labels, a box, a box with points, a mask, or a picture")
    if prompt.mask is not None:
        if len(kinds) > 1:
            raise _refusal(
                f"a mask can't be combined with {' or '.join(k for k in kinds if k != 'mask')}; give one of them"
            )
        if prompt.mask.dtype != np.bool_:
            raise _refusal(f"the mask is of type {prompt.mask.dtype}; accepted: bool, for example mask > 0")
    if prompt.box is not None:
        box = np.asarray(prompt.box, np.float64).reshape(-1)
        if box.shape != (4,) or not np.isfinite(box).all():
            raise _refusal("a box is four finite numbers: x0, y0, x1, y1 in pixels")
        x0, y0, x1, y1 = box.tolist()
        if x1 - x0 < 1 or y1 - y0 < 1:
            raise _refusal(f"the box {_edges(prompt)} is smaller than a pixel; accepted: x0 < x1 and y0 < y1")
    if prompt.points is not None:
        _check_points(prompt)


def _check_picture(prompt: Prompt, like: NDArray[np.uint8]) -> None:
    if prompt.points is not None or prompt.candidate is not None:
        raise _refusal("with a picture, points and candidate have no meaning; give a box or a mask in it, or neither")
    if like.dtype != np.uint8 or like.ndim != 3 or like.shape[2] != 3 or 0 in like.shape:
        raise _refusal(f"the picture is {like.dtype} of shape {list(like.shape)}; accepted: uint8 [height, width, 3]")
    height, width = like.shape[:2]
    check_picture_size(width, height)
    _check_on_image(prompt, width, height, new_object=False)
    if prompt.mask is not None and not prompt.mask.any():
        raise _refusal("the mask of the picture is empty; mark the thing in it")


def check_picture_size(width: int, height: int) -> None:
    """Refuses a picture that is too large. A front end calls it before it converts one. Raises as
    :func:`check_request`."""
    if width * height > MAX_PICTURE:
        raise _refusal(f"the picture has {width} x {height} pixels; accepted: up to {MAX_PICTURE} pixels; shrink it")


def _check_points(prompt: Prompt) -> None:
    points = np.asarray(prompt.points, np.float64)
    labels = np.asarray([] if prompt.labels is None else prompt.labels)
    if points.ndim != 2 or points.shape[1:] != (2,) or len(points) == 0:
        raise _refusal(f"points have shape {points.shape}; accepted: one or more pairs x, y")
    check_count("points", len(points), MAX_POINTS)
    if labels.shape != (len(points),):
        raise _refusal(f"{len(points)} points came with {labels.size} labels; accepted: one label for each point")
    if not np.isin(labels, (0, 1)).all():
        accepted = "accepted: 1 (on the object) and 0 (not on it)"
        raise _refusal(f"point labels are {sorted(set(labels.tolist()))}; {accepted}")
    if not np.isfinite(points).all():
        raise _refusal("a point is not finite; accepted: pixels of the image")


def _check_on_image(prompt: Prompt, width: int, height: int, new_object: bool) -> None:
    positive = prompt.labels is not None and bool((np.asarray(prompt.labels) == 1).any())
    if new_object and prompt.points is None and prompt.box is None and prompt.mask is None:
        raise _refusal("a candidate is chosen for an existing object; give its id, or a point for a new object")
    if prompt.mask is not None and prompt.mask.shape != (height, width):
        shape = " x ".join(str(n) for n in reversed(prompt.mask.shape))
        raise _refusal(f"the mask is {shape} pixels, the image {width} x {height}; they must be equal")
    if prompt.box is not None:
        x0, y0, x1, y1 = np.asarray(prompt.box, np.float64).reshape(-1).tolist()
        if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
            raise _refusal(f"the box {_edges(prompt)} lies outside the image of {width} x {height}")
    if prompt.points is not None:
        points = np.asarray(prompt.points, np.float64)
        outside = points[((points < -0.5) | (points > (width - 0.5, height - 0.5))).any(axis=1)]
        if len(outside):
            x, y = outside[0].tolist()
            raise _refusal(f"the point ({x:g}, {y:g}) lies outside the image of {width} x {height}")
        if new_object and prompt.box is None and not positive:
            raise _refusal("a new object needs a positive point (label 1), a box or a mask; only negative points came")


def _edges(prompt: Prompt) -> str:
    return f"({', '.join(f'{edge:g}' for edge in np.asarray(prompt.box, np.float64).reshape(-1))})"


def _refusal(message: str) -> PromptError:
    return PromptError(PromptCode.INVALID_PROMPT, message)
