"""Objects of one frame that are seen through windows of their own, told apart in the frame: by numbers alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sam2_ros.tracking.history import View
from sam2_ros.tracking.look_alikes import Division
from sam2_ros.tracking.masks import resampled
from sam2_ros.tracking.objects import LiveObject
from sam2_ros.tracking.sights import Sight, tell_apart
from sam2_ros.tracking.trail import Trail
from sam2_ros.tracking.types import CroppedMask, ObjectState
from sam2_ros.tracking.visibility import Presence
from sam2_ros.tracking.windows import Window

WIDTH, HEIGHT, FRAME = 160, 120, 5
WHOLE, UPPER, LOWER = Window(0, 0, WIDTH, HEIGHT), Window(0, 0, 80, 60), Window(80, 40, 160, 100)
THING, OTHER, FAR = (96, 48, 112, 60), (16, 12, 32, 24), (120, 80, 136, 92)  # pixels of the frame
Edges = tuple[int, int, int, int]


def obj(number: int, box: Edges, kind: int | None = None) -> LiveObject:
    """An object that was there on the frame before; those of one kind look alike."""
    made = LiveObject(number, number, "", "", 0.0, 0)
    x0, y0, x1, y1 = np.array(box) / ([WIDTH, HEIGHT] * 2)
    made.trail = Trail().seen(FRAME - 1, (x0, y0, x1, y1), (x1 - x0) * (y1 - y0))
    made.likeness = np.eye(16, dtype=np.float32)[number if kind is None else kind]
    return made


def in_window(box: Edges, window: Window, width: int = 80, height: int = 60) -> CroppedMask:
    """A rectangle of the frame as a mask of the window."""
    full = np.zeros((height, width), np.bool_)
    across, down = width / window.width, height / window.height
    x0, x1 = (round((edge - window.x0) * across) for edge in box[::2])
    y0, y1 = (round((edge - window.y0) * down) for edge in box[1::2])
    full[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = True
    return CroppedMask.from_full(full)


def sight(window: Window, *seen: tuple[LiveObject, Edges], width: int = 80, height: int = 60) -> Sight:
    nothing: Any = None
    view = View(FRAME, 0, WIDTH, HEIGHT, window, nothing, nothing)
    masks = [in_window(box, window, width, height) for _, box in seen]
    return Sight([each for each, _ in seen], view, torch.ones(len(seen)), torch.full((len(seen),), 3.0), masks)


def bystander(number: int, box: Edges, window: Window | None = WHOLE, there: bool = True) -> LiveObject:
    made = obj(number, box)
    made.window, made.object_score = window, 3.0
    full = in_window(box, window or WHOLE).full()
    made.logits = torch.where(torch.from_numpy(full), 5.0, -5.0)[None]
    made.presence = Presence(FRAME, ObjectState.VISIBLE if there else ObjectState.OCCLUDED)
    return made


def hidden(divisions: list[Division | None]) -> list[list[int]]:
    """For each sight those whose mask was taken away; each of them is undecided."""
    found = [[] if each is None else [i for i, mask in each.masks.items() if not mask.any()] for each in divisions]
    assert [set() if each is None else set(each.undecided) for each in divisions] == [set(each) for each in found]
    return found


def test_each_sight_gets_its_own_masks_back() -> None:
    """The first one's object is alone; in the second one, both masks are on one thing."""
    first = sight(UPPER, (obj(1, OTHER), OTHER))
    second = sight(LOWER, (obj(2, THING), THING), (obj(3, FAR), THING))
    divisions = tell_apart([first, second], [])
    assert divisions[0] is None and hidden(divisions) == [[], [1]]
    assert hidden(tell_apart([second, first], [])) == [[1], []]
    again = sight(LOWER, (obj(3, FAR), THING), (obj(2, THING), THING))
    assert hidden(tell_apart([first, again], [])) == [[], [0]]


@pytest.mark.parametrize("kind", [None, 9])
def test_across_windows_one_thing_has_one_mask(kind: int | None) -> None:
    """Whether they look alike or not."""
    right, wrong = obj(1, THING, kind), obj(2, OTHER, kind)
    divisions = tell_apart([sight(LOWER, (right, THING)), sight(WHOLE, (wrong, THING))], [])
    assert hidden(divisions) == [[], [0]]
    if kind is not None:
        assert divisions[0] is not None
        assert CroppedMask.from_full(divisions[0].masks[0]).box == in_window(THING, LOWER).box


def test_objects_that_were_told_apart_before_keep_their_masks() -> None:
    late = obj(1, OTHER)
    assert hidden(tell_apart([sight(WHOLE, (late, THING))], [bystander(2, THING)])) == [[0]]
    assert hidden(tell_apart([sight(UPPER, (late, THING))], [bystander(2, THING)])) == [[]], "its window ends before"
    assert hidden(tell_apart([sight(WHOLE, (late, THING))], [bystander(2, THING, LOWER)])) == [[0]]
    assert tell_apart([sight(WHOLE, (late, OTHER))], [bystander(2, THING)]) == [None]
    for absent in (bystander(2, THING, there=False), bystander(2, THING, window=None), obj(2, THING)):
        assert tell_apart([sight(WHOLE, (late, THING))], [absent]) == [None]


def test_what_those_are_to_each_other_is_decided() -> None:
    """Two that look alike and have one mask: nobody's look on this frame asks about them."""
    two = [bystander(number, THING) for number in (2, 3)]
    for each in two:
        each.likeness = np.eye(16, dtype=np.float32)[9]
    assert tell_apart([sight(WHOLE, (obj(1, OTHER), OTHER))], two) == [None]


def test_one_object_alone_is_nobody_elses() -> None:
    assert tell_apart([sight(WHOLE, (obj(1, OTHER), THING))], []) == [None]
    assert tell_apart([sight(WHOLE), sight(LOWER)], []) == [None, None]


@pytest.mark.parametrize(("width", "height"), [(160, 60), (80, 240), (20, 15)])
def test_masks_of_any_pixels_are_compared_in_the_finest(width: int, height: int) -> None:
    """Two look-alikes side by side whose masks are both on both; each gets its half, in its own window's pixels."""
    left, right = (88, 48, 96, 64), (104, 48, 112, 64)
    one, two = obj(1, left, 9), obj(2, right, 9)
    fine, coarse = sight(LOWER, (one, left)), sight(WHOLE, (two, right), width=width, height=height)
    for each in (fine, coarse):
        both = [
            in_window(box, each.view.window, mask.width, mask.height).full()
            for box in (left, right)
            for mask in each.masks
        ]
        each.masks[0] = CroppedMask.from_full(both[0] | both[1])
    divisions = tell_apart([fine, coarse], [])
    for each, box, division in zip((fine, coarse), (left, right), divisions, strict=True):
        assert division is not None and not division.undecided
        (mask,) = division.masks.values()
        expected = in_window(box, each.view.window, mask.shape[1], mask.shape[0])
        assert mask.shape == expected.full().shape and CroppedMask.from_full(mask).box == expected.box


@pytest.mark.parametrize(
    ("before", "now", "box"),
    [
        (Window(0, 0, 80, 60), Window(0, 0, 160, 120), (10, 5, 15, 10)),  # half as large in twice the window
        (Window(0, 0, 160, 120), Window(0, 0, 80, 60), (40, 20, 60, 40)),
        (Window(40, 20, 120, 80), Window(0, 0, 80, 60), (60, 30, 70, 40)),
        (Window(0, 0, 80, 60), Window(10, 5, 90, 65), (10, 5, 20, 15)),
        (Window(0, 0, 80, 60), Window(25, 0, 105, 60), (0, 10, 5, 20)),  # cut at the left edge
        (Window(0, 0, 80, 60), Window(-55, -42, 25, 18), (75, 52, 80, 60)),  # and at the others
        (Window(0, 0, 80, 60), Window(30, 0, 110, 60), (0, 0, 0, 0)),  # it ends where the window begins
        (Window(0, 0, 80, 60), Window(0, 20, 80, 80), (0, 0, 0, 0)),
        (Window(0, 0, 80, 60), Window(-60, 0, 20, 60), (0, 0, 0, 0)),
        (Window(0, 0, 80, 60), Window(0, -50, 80, 10), (0, 0, 0, 0)),
    ],
)
def test_a_mask_comes_to_lie_in_another_window(before: Window, now: Window, box: Edges) -> None:
    """Columns 20 to 29 and rows 10 to 19 of 80 x 60 pixels."""
    mask = CroppedMask(np.ones((10, 10), np.bool_), 20, 10, 80, 60)
    found = resampled(mask, before, now, 80, 60)
    assert (found.box, found.width, found.height) == (box, 80, 60) and found.crop.all()
    assert resampled(mask, before, before, 80, 60) is mask
    assert resampled(mask, before, before, 40, 30).box == (10, 5, 15, 10)
    assert resampled(mask, before, before, 80, 120).box == (20, 20, 30, 40)
