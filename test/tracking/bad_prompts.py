"""Refused prompts by name, each with the message of its refusal.

``BAD`` holds prompts on an image of 160 x 120 pixels, ``NEEDS_THE_IMAGE`` those of them that are good on another one,
and ``BAD_NAMES`` what no object may be called.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from small_tracker import click

from sam2_ros.tracking import Prompt

ONE = np.array([[30, 80]], np.float32)
POSITIVE = np.array([1], np.int32)

BAD = {
    "empty": (Prompt(), "the prompt is empty; give points with labels, a box, a box with points, a mask, or a picture"),
    "no points": (
        Prompt(points=np.zeros((0, 2), np.float32), labels=np.zeros(0, np.int32)),
        "points have shape (0, 2); accepted: one or more pairs x, y",
    ),
    "points of three": (
        Prompt(points=np.zeros((1, 3), np.float32), labels=POSITIVE),
        "points have shape (1, 3); accepted: one or more pairs x, y",
    ),
    "too few labels": (
        Prompt(points=np.zeros((2, 2), np.float32), labels=POSITIVE),
        "2 points came with 1 labels; accepted: one label for each point",
    ),
    "too many points": (
        Prompt(points=np.full((257, 2), 30, np.float32), labels=np.ones(257, np.int32)),
        "there are 257 points; accepted: up to 256; send fewer",
    ),
    "no labels": (Prompt(points=ONE), "1 points came with 0 labels; accepted: one label for each point"),
    "labels alone": (
        Prompt(labels=POSITIVE, box=np.array([1, 1, 9, 9], np.float32)),
        "labels came without points; accepted: one label for each point",
    ),
    "other labels": (
        Prompt(points=ONE, labels=np.array([2], np.int32)),
        "point labels are [2]; accepted: 1 (on the object) and 0 (not on it)",
    ),
    "not finite": (
        Prompt(points=np.array([[np.nan, 1]], np.float32), labels=POSITIVE),
        "a point is not finite; accepted: pixels of the image",
    ),
    "outside": (
        Prompt(points=np.array([[30, 80], [160, 5]], np.float32), labels=np.array([1, 1], np.int32)),
        "the point (160, 5) lies outside the image of 160 x 120",
    ),
    "negative only": (
        Prompt(points=ONE, labels=np.array([0], np.int32)),
        "a new object needs a positive point (label 1), a box or a mask; only negative points came",
    ),
    "box of three": (Prompt(box=np.zeros(3, np.float32)), "a box is four finite numbers: x0, y0, x1, y1 in pixels"),
    "infinite box": (
        Prompt(box=np.array([0, 0, np.inf, 9], np.float32)),
        "a box is four finite numbers: x0, y0, x1, y1 in pixels",
    ),
    "box turned over": (
        Prompt(box=np.array([40, 60, 15, 100], np.float32)),
        "the box (40, 60, 15, 100) is smaller than a pixel; accepted: x0 < x1 and y0 < y1",
    ),
    "box outside": (
        Prompt(box=np.array([160, 0, 170, 10], np.float32)),
        "the box (160, 0, 170, 10) lies outside the image of 160 x 120",
    ),
    "mask and box": (
        Prompt(mask=np.ones((120, 160), np.bool_), box=np.array([1, 1, 9, 9], np.float32)),
        "a mask can't be combined with box; give one of them",
    ),
    "mask of another size": (
        Prompt(mask=np.ones((160, 120), np.bool_)),
        "the mask is 120 x 160 pixels, the image 160 x 120; they must be equal",
    ),
    "mask of numbers": (
        Prompt(mask=np.ones((120, 160), np.uint8)),
        "the mask is of type uint8; accepted: bool, for example mask > 0",
    ),
    "candidate 4": (click(candidate=4), "candidate is 4; accepted: 1, 2 or 3, as offered by the answer before"),
    "candidate of nothing": (
        Prompt(candidate=1),
        "a candidate is chosen for an existing object; give its id, or a point for a new object",
    ),
    "candidate of a box": (
        Prompt(box=np.array([1, 1, 9, 9], np.float32), candidate=1),
        "candidates are offered for a single point; give one point with the choice, or the choice alone",
    ),
    "candidate of two points": (
        Prompt(points=np.array([[30, 80], [60, 5]], np.float32), labels=np.array([1, 1], np.int32), candidate=1),
        "candidates are offered for a single point; give one point with the choice, or the choice alone",
    ),
}

NEEDS_THE_IMAGE = {"outside", "negative only", "box outside", "mask of another size", "candidate of nothing"}

BAD_NAMES: dict[str, tuple[dict[str, Any], str]] = {
    "long name": ({"name": "x" * 257}, "the name has 257 characters; accepted: up to 256; choose a shorter one"),
    "long label": ({"label": "x" * 257}, "the label has 257 characters; accepted: up to 256; choose a shorter one"),
    "a number": ({"name": "12"}, "the name 12 would be taken for an id; accepted: a name that is no number"),
    "a number in other digits": (
        {"name": "\u0661\u0662"},
        "the name \u0661\u0662 would be taken for an id; accepted: a name that is no number",
    ),
    "control character": (
        {"name": "cup\x1b[2J"},
        "the name holds the character U+001B; accepted: printable characters and spaces",
    ),
    "reversed text": (
        {"name": "\u202egpj.exe"},
        "the name holds the character U+202E; accepted: printable characters and spaces",
    ),
    "two lines": (
        {"label": "cup\nplate"},
        "the label holds the character U+000A; accepted: printable characters and spaces",
    ),
}
