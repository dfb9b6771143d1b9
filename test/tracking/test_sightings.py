"""A trail of sightings, which parts of a mask belong to it, and masks that move to another window: by numbers alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sam2_ros.tracking.mask_parts import STEADY_GAP, OwnMasks, update_trails
from sam2_ros.tracking.masks import moved
from sam2_ros.tracking.objects import LiveObject
from sam2_ros.tracking.trail import Parts, Trail, box_iou, own_parts, parts_within
from sam2_ros.tracking.visibility import Observation, Presence
from sam2_ros.tracking.windows import Window

BOX = (0.4, 0.4, 0.5, 0.6)


def at(x: float, y: float, width: float = 0.1, height: float = 0.2) -> tuple[float, float, float, float]:
    """A box around this place."""
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def walked(*places: tuple[int, float, float]) -> Trail:
    """Frames and middles of an object of one size."""
    trail = Trail()
    for frame, x, y in places:
        trail = trail.seen(frame, at(x, y), 0.02)
    return trail


def parts(*boxes: tuple[float, float, float, float], areas: tuple[float, ...] = ()) -> Parts:
    sizes = areas or tuple((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes)
    return Parts(np.array(sizes), np.array(boxes).reshape(-1, 4))


def test_a_sighting_on_the_same_frame_replaces_the_one_before() -> None:
    trail = walked((3, 0.2, 0.5), (4, 0.3, 0.5), (4, 0.5, 0.5))
    assert trail.frames == (3, 4) and trail.boxes == (at(0.2, 0.5), at(0.5, 0.5)) and trail.decided == 4
    assert len(trail.areas) == 2


def test_ten_sightings_are_kept() -> None:
    trail = walked(*((frame, frame / 100, 0.5) for frame in range(12)))
    assert trail.frames == tuple(range(2, 12)) and len(trail.boxes) == len(trail.areas) == 10
    assert trail.boxes[0] == at(0.02, 0.5)


def test_an_area_is_steady_near_the_median() -> None:
    trail = Trail(areas=(0.1, 0.5, 0.2))
    assert trail.usual_area == 0.2 and Trail().usual_area == 0 and Trail().is_steady(0.9)
    for area, steady in ((0.28, True), (0.281, False), (0.12, True), (0.119, False)):
        assert trail.is_steady(area + (1e-9 if area == 0.12 else -1e-9 if area == 0.28 else 0)) is steady


def test_the_speed_is_that_of_the_last_five_sightings() -> None:
    trail = walked((0, 0.9, 0.9), (10, 0.1, 0.2), (11, 0.12, 0.2), (12, 0.14, 0.2), (14, 0.16, 0.2), (18, 0.26, 0.28))
    assert trail.speed == pytest.approx([0.16 / 8, 0.08 / 8]) and trail.step == pytest.approx([0.1 / 4, 0.08 / 4])
    assert walked((0, 0.1, 0.2), (1, 0.2, 0.2), (3, 0.3, 0.4)).step == pytest.approx([0.05, 0.1])
    assert walked((7, 0.5, 0.5)).speed.tolist() == [0, 0] == Trail().speed.tolist() == Trail().step.tolist()
    assert Trail(boxes=((0.1, 0.5, 0.3, 0.6),)).usual_size == pytest.approx([0.2, 0.1])
    assert trail.usual_size == pytest.approx([0.1, 0.2]) and Trail().usual_size.tolist() == [0, 0]


def test_a_place_is_predicted_for_a_while() -> None:
    trail = walked((0, 0.1, 0.5), (1, 0.12, 0.51))
    for frame, x, y in ((1, 0.12, 0.51), (2, 0.14, 0.52), (16, 0.42, 0.66)):
        assert trail.predicted(frame) == pytest.approx(at(x, y))
    assert trail.predicted(17) is None and Trail().predicted(0) is None


def test_parts_are_the_objects_where_it_was_heading() -> None:
    """The box is widened by a quarter of its size on every side, and more for each frame without a sighting."""
    trail = walked((0, 0.5, 0.5), (1, 0.5, 0.5))
    for x, y, mine in (
        (0.574, 0.5, True),
        (0.576, 0.5, False),
        (0.426, 0.5, True),
        (0.5, 0.649, True),
        (0.5, 0.651, False),
    ):
        home, other = at(0.5, 0.5), at(x, y, 0.01, 0.01)
        assert own_parts(parts(home, other), trail, 2).tolist() == [True, mine], (x, y)
    later = parts(at(0.5, 0.5), at(0.599, 0.5, 0.01, 0.01), at(0.601, 0.5, 0.01, 0.01))
    assert own_parts(later, trail, 3).tolist() == [True, True, False]
    assert own_parts(later, trail, 99).all() and own_parts(later, Trail(), 2).all(), "nobody knows where it is"


def test_what_the_prompt_meant_is_the_objects_as_far_as_it_reached() -> None:
    trail = replace(walked((1, 0.5, 0.5)), extent=(0.3, 0.1))
    assert own_parts(parts(at(0.5, 0.5), at(0.72, 0.5, 0.01, 0.01)), trail, 2).tolist() == [True, True]
    assert own_parts(parts(at(0.5, 0.5), at(0.73, 0.5, 0.01, 0.01)), trail, 2).tolist() == [True, False]


def test_an_object_that_moved_otherwise_is_its_nearest_large_part() -> None:
    """With what is near that; a part of three tenths of its usual area is large."""
    trail = walked((0, 0.5, 0.5), (1, 0.5, 0.5))
    far, farther, beside = at(0.2, 0.5), at(0.05, 0.5), at(0.26, 0.5, 0.01, 0.01)
    assert own_parts(parts(farther, far, beside), trail, 2).tolist() == [False, True, True]
    speck = at(0.5, 0.5, 0.01, 0.01)
    assert own_parts(parts(speck, far), trail, 2).tolist() == [False, True]
    assert own_parts(parts(speck, far, areas=(0.0001, 0.0059)), trail, 2).tolist() == [True, False]
    assert own_parts(parts(speck, far, areas=(0.0001, 0.00601)), trail, 2).tolist() == [False, True]
    assert own_parts(parts(far, areas=(0.0001,)), trail, 2).tolist() == [True], "there is no other"


def test_the_parts_in_a_box_are_meant_or_all() -> None:
    inside, outside = at(0.574, 0.5, 0.01, 0.01), at(0.576, 0.5, 0.01, 0.01)
    box = np.array(at(0.5, 0.5))
    assert parts_within(parts(inside, outside), box).tolist() == [True, False]
    assert parts_within(parts(outside), box).tolist() == [True]
    assert parts_within(parts(), box).tolist() == []


def test_overlaps_of_boxes() -> None:
    boxes = np.array([[0, 0, 2, 2], [1, 1, 3, 3], [2, 0, 4, 2], [5, 5, 4, 4], [0, 0, 3, 1], [0, 1, 1, 3]], np.float64)
    for size in (1, 0.01):  # in any unit
        assert box_iou(size * boxes, size * boxes[0]).tolist() == pytest.approx([1, 1 / 7, 0, 0, 2 / 5, 1 / 5])


def seen_by(obj: LiveObject, frame: int, area: float, *, met: bool = False, undecided: bool = False) -> Trail:
    """The trail after a frame on which it was seen."""
    own = OwnMasks(torch.zeros(1, 1, 2, 2), np.array([BOX]), np.array([area]), *np.array([[False], [met], [undecided]]))
    update_trails([obj], frame, own, [Observation(True, area, 0.9)], [Presence(frame, seen_run=1)])
    return obj.trail


def test_a_trail_takes_sightings_of_its_size() -> None:
    obj = LiveObject(1, 0, "", "", 0.0, 0)
    assert obj.trail.met < -1000 and obj.trail.decided < 0, "long ago: never"
    assert seen_by(obj, 1, 0.02).frames == (1,) and obj.trail.boxes == (BOX,)
    assert seen_by(obj, 2, 0.05).frames == (1,) and obj.trail.decided == 2, "another size: it may have merged"
    assert seen_by(obj, 3, 0.025, undecided=True).decided == 2
    assert seen_by(obj, 4, 0.025, met=True).frames == (1, 4) and obj.trail.met == 4
    assert seen_by(obj, 4 + STEADY_GAP, 0.09).frames == (1, 4)
    assert seen_by(obj, 5 + STEADY_GAP, 0.09).frames == (1, 4, 5 + STEADY_GAP), "that is its size now"
    own = OwnMasks(torch.zeros(1, 1, 2, 2), np.array([BOX]), np.array([0.09]), *np.zeros((3, 1), np.bool_))
    update_trails([obj], 30, own, [Observation(False, 0.09, 0.9)], [Presence(30)])
    assert obj.trail.frames[-1] == 5 + STEADY_GAP, "it was not seen"


def test_a_leap_leads_away_from_where_it_is_expected_and_was_seen_last() -> None:
    """In its usual sizes, the longer way along one axis; the frame has 200 x 100 pixels."""
    obj = LiveObject(1, 0, "", "", 0.0, 0)

    def leap(x: float, y: float, width: float = 0.1, frame: int = 2) -> float:
        return obj.leap_to(np.array(at(x, y, width)), frame, 200, 100)

    assert leap(0.9, 0.9) == 0, "nobody knows how large it is, nor where"
    obj.trail = walked((0, 0.3, 0.5), (1, 0.4, 0.5))  # 0.1 x 0.2; at 0.5 on frame 2
    assert leap(0.5, 0.5) == 0 and leap(0.7, 0.6) == pytest.approx(1) and leap(0.6, 0.1) == pytest.approx(2)
    assert leap(0.7, 0.5, width=0.01) == pytest.approx(1), "a small part of it leaps as far"
    assert leap(0.7, 0.5, frame=4) == pytest.approx(0) and leap(0.9, 0.5, frame=20) == 0, (
        "after a while nobody knows where it is"
    )
    obj.box = (160, 50, 180, 70)  # around 0.85, 0.6
    assert leap(0.85, 0.6) == pytest.approx(0) == leap(0.5, 0.5)
    assert leap(0.85, 0.9) == leap(0.85, 0.9, frame=20) == pytest.approx(1.5)


@pytest.mark.parametrize("size", [16, 32, 64])
def test_logits_of_any_size_fit_the_network_in_the_same_window(size: int) -> None:
    window = Window(10, 20, 110, 120)
    logits = torch.full((1, size, size), 3.0)
    result = moved(logits, window, window, 32)
    assert result.shape == (1, 32, 32) and float(result[0, 16, 16]) == pytest.approx(3.0)
    assert (result is logits) == (size == 32)


def test_logits_move_with_the_window() -> None:
    """Into one of half the size: its left half shows what was in the middle; beyond the old window there is nothing."""
    logits = torch.full((1, 32, 32), -4.0)
    logits[0, :, 16:] = 5.0
    zoomed = moved(logits, Window(0, 0, 64, 64), Window(16, 16, 48, 48), 32)
    assert float(zoomed[0, 16, 4]) == pytest.approx(-4.0) and float(zoomed[0, 16, 27]) == pytest.approx(5.0)
    shifted = moved(logits, Window(0, 0, 64, 64), Window(32, 32, 96, 96), 32)
    assert float(shifted[0, 8, 8]) == pytest.approx(5.0) and float(shifted[0, 8, 24]) < -4 > float(shifted[0, 24, 8])
    tall = moved(logits.transpose(1, 2), Window(0, 0, 64, 64), Window(0, 16, 64, 48), 32)
    assert float(tall[0, 4, 16]) == pytest.approx(-4.0) and float(tall[0, 27, 16]) == pytest.approx(5.0)
