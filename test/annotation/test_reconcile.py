"""Joins tracks of both directions; every expected value is worked out by hand on squares."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco

from sam2_ros.annotation.doubts import doubtful_frames
from sam2_ros.annotation.masks import Rle, box_of
from sam2_ros.annotation.reconcile import ONE_SIDED, Reconciled, reconcile
from sam2_ros.annotation.two_ways import Sighting, Track
from sam2_ros.inference.matching import Detection

WIDTH, HEIGHT = 64, 32


def square(x: int, y: int = 8, side: int = 8) -> Rle:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[y : y + side, x : x + side] = 1
    rle: Rle = coco.encode(np.asfortranarray(mask))
    return rle


def track(places: dict[int, int], label: str = "cup", score: float = 0.8, iou: float = 0.9, key: int = 0) -> Track:
    """A square at column ``places[image]``, prompted in the first of ``places``."""
    seen = {frame: Sighting(square(x), iou) for frame, x in places.items()}
    return Track(label, score, key, seen, {next(iter(places))})


def ids(found: Reconciled) -> dict[int, list[int]]:
    by_object: dict[int, list[int]] = {}
    for mask in found.masks:
        by_object.setdefault(mask.object_id, []).append(mask.frame)
    return by_object


def test_what_is_detected_late_is_tracked_backwards_too() -> None:
    forwards = [track({frame: frame for frame in range(6, 10)})]
    backwards = [track({frame: frame for frame in range(9, -1, -1)})]
    found = reconcile(forwards, backwards, {})
    assert ids(found) == {1: list(range(10))} and found.labels == {1: "cup"}
    assert [mask.agreement for mask in found.masks] == [None] * 6 + [1.0] * 4
    assert found.masks[0].score == pytest.approx(0.9 * 0.8)
    assert not found.reasons


def test_a_track_backwards_joins_the_parts_that_a_gap_separates() -> None:
    forwards = [track(dict.fromkeys(range(3), 10)), track(dict.fromkeys(range(6, 9), 10))]
    backwards = [track(dict.fromkeys(range(8, -1, -1), 10))]
    found = reconcile(forwards, backwards, {})
    assert ids(found) == {1: list(range(9))}
    # In the gap the direction forwards knew the object and did not see it.
    assert [mask.frame for mask in found.masks if mask.agreement == ONE_SIDED] == [3, 4, 5]
    assert {(reason.frame, reason.kind) for reason in found.reasons} == {(3 + n, "disagreement") for n in range(3)}


def test_two_things_that_are_seen_at_once_stay_two() -> None:
    """The track backwards slides from one to the other."""
    forwards = [track(dict.fromkeys(range(8), 0)), track(dict.fromkeys(range(8), 40))]
    backwards = [track({frame: 40 if frame > 2 else 0 for frame in range(7, -1, -1)})]
    found = reconcile(forwards, backwards, {})
    assert ids(found) == {1: list(range(8)), 2: list(range(8))}
    boxes = {(mask.object_id, box_of(mask.mask)[0]) for mask in found.masks if mask.frame > 2}
    assert boxes == {(1, 0), (2, 40)}
    assert [(reason.frame, reason.kind) for reason in found.reasons if reason.frame > 2] == []


def test_an_exchange_of_two_objects_is_listed() -> None:
    forwards = [track({frame: 0 if frame < 4 else 8 for frame in range(9)})]
    backwards = [track(dict.fromkeys(range(8, -1, -1), 8)), track(dict.fromkeys(range(8, -1, -1), 0))]
    reasons = reconcile(forwards, backwards, {}).reasons
    assert [(reason.frame, reason.object_id) for reason in reasons if reason.kind == "swap"] == [(4, 1)]


def test_a_leap_that_the_other_direction_does_not_make_ends_a_track() -> None:
    """Things that look alike are confused across the picture; squares have sides of 8."""
    leaps = {frame: 10 if frame < 4 else 40 for frame in range(8)}
    forwards = [track(leaps)]
    forwards[0].prompted.add(5)  # what the track has leapt to was detected too
    both = [track(dict.fromkeys(range(7, -1, -1), 40))]
    assert ids(reconcile(forwards, both, {})) == {1: [0, 1, 2, 3], 2: list(range(8))}
    # What both directions see is a fast movement.
    same = [track({frame: leaps[frame] for frame in range(7, -1, -1)})]
    assert ids(reconcile(forwards, same, {})) == {1: list(range(8))}
    # A box's length for each image between is no leap, and whoever wrote a prompts file knows better.
    slow = {frame: 10 if frame < 4 else 34 for frame in (0, 1, 2, 3, 6, 7)}
    assert ids(reconcile([track(slow)], [], {})) == {1: list(slow)}
    assert ids(reconcile([track(leaps, key=3)], [], {})) == {3: list(range(8))}


def test_the_direction_that_was_confirmed_more_recently_has_the_mask() -> None:
    forwards = [track(dict.fromkeys(range(9), 10))]
    backwards = [track(dict.fromkeys(range(8, -1, -1), 12))]
    found = reconcile(forwards, backwards, {})
    # Images 0 to 4 are nearer to the prompt forwards in image 0, the others to the one backwards in image 8.
    assert [box_of(mask.mask)[0] for mask in found.masks] == [10] * 5 + [12] * 4
    assert all(mask.agreement == pytest.approx(6 / 10) for mask in found.masks)  # 6 of 10 columns in common
    confirmed = reconcile(forwards, backwards, {6: [Detection((10, 8, 18, 16), "cup", 0.9)]})
    # The detection in image 6 agrees with both directions: forwards is confirmed anew from 6 on, backwards up to 6.
    assert [box_of(mask.mask)[0] for mask in confirmed.masks] == [10] * 4 + [12] * 2 + [10] * 2 + [12]


def test_missed_detections_and_uncertain_masks_are_listed_the_most_doubtful_first() -> None:
    forwards = [track({0: 10, 1: 10}, iou=0.4)]
    boxes = {0: [Detection((10, 8, 18, 16), "cup", 0.9), Detection((40, 8, 48, 16), "cup", 0.7)]}
    reasons = reconcile(forwards, [], boxes).reasons
    rows = doubtful_frames(reasons)
    assert [(frame, pytest.approx(doubt)) for frame, doubt, _ in rows] == [(0, 0.7), (1, 0.6)]
    assert [(reason.kind, reason.object_id) for reason in rows[0][2]] == [("score", 1), ("missed", 0)]


def test_ids_of_a_prompts_file_stay() -> None:
    forwards = [track({0: 10, 1: 11}, key=7), track({0: 40}, key=3)]
    backwards = [track({1: 40}, key=3), track({1: 11, 0: 10}, key=7)]
    assert ids(reconcile(forwards, backwards, {})) == {7: [0, 1], 3: [0, 1]}


def test_the_surer_label_stays() -> None:
    found = reconcile([track({0: 10}, "cup", 0.6)], [track({0: 10}, "bowl", 0.7)], {})
    assert found.labels == {1: "bowl"} and found.masks[0].detection_score == 0.7


CUP = Detection((10, 8, 18, 16), "cup", 0.9)  # where square(10) is


def test_a_mask_that_swells_beyond_what_was_detected_is_left_out() -> None:
    track_ = track(dict.fromkeys(range(4), 10))
    track_.seen[2] = Sighting(square(4, 4, 20), 0.9)  # 400 square pixels; detected were 64
    track_.seen[3] = Sighting(square(8, 6, 12), 0.9)  # 144, less than 2.5 times as much
    assert ids(reconcile([track_], [], {0: [CUP]})) == {1: [0, 1, 3]}
    assert ids(reconcile([track_], [], {})) == {1: [0, 1, 2, 3]}  # without a detector nothing says how large it is


def test_a_track_that_the_detector_does_not_confirm_is_not_believed_for_long() -> None:
    looks = {frame: [CUP] if frame == 4 else [] for frame in range(0, 20, 2)}
    forwards = [track(dict.fromkeys(range(4, 20), 10))]
    backwards = [track(dict.fromkeys(range(4, -1, -1), 10))]
    found = reconcile(forwards, backwards, looks)
    # Looks 6, 8, 10 and 12 miss it, and 14 is the fifth; backwards there are only two.
    assert ids(found) == {1: list(range(14))}
    assert found.masks[-1].agreement is None


def test_pixels_belong_to_the_object_that_was_confirmed_more_recently() -> None:
    """One track slides onto another object's pixels. With another label it may lie on it."""
    other = Detection((18, 8, 26, 16), "cup", 0.9)
    slides = {0: 18, 1: 18, 2: 10, 3: 10}
    looks = {0: [CUP, other], 2: [CUP]}
    for label, expected in (("cup", [0, 1]), ("lid", [0, 1, 2, 3])):
        forwards = [track(dict.fromkeys(range(4), 10)), track(slides, label)]
        forwards[1].seen[2] = forwards[1].seen[3] = Sighting(square(11, 9, 6), 0.9)  # IoU 36/64 with the detection
        forwards[0].prompted.add(3)
        assert ids(reconcile(forwards, [], looks)) == {1: [0, 1, 2, 3], 2: expected}


def test_where_the_directions_exchange_two_objects_none_jumps_to_and_fro() -> None:
    """Both are detected all the time, so either direction has a mask that is confirmed."""
    here, there = Detection((0, 8, 8, 16), "cup", 0.9), Detection((8, 8, 16, 16), "cup", 0.9)
    forwards = [track(dict.fromkeys(range(9), 0)), track(dict.fromkeys(range(9), 8))]
    backwards = [
        track({frame: 0 if frame >= 4 else 8 for frame in range(8, -1, -1)}),
        track({frame: 8 if frame >= 4 else 0 for frame in range(8, -1, -1)}),
    ]
    found = reconcile(forwards, backwards, {frame: [here, there] for frame in range(0, 9, 2)})
    assert {(mask.object_id, box_of(mask.mask)[0]) for mask in found.masks} == {(1, 0), (2, 8)}
    assert len(found.masks) == 18 and all(mask.agreement == 1.0 for mask in found.masks)
    assert [(reason.kind, reason.frame) for reason in found.reasons] == [("swap", 4), ("swap", 4)]
