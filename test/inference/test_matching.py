"""Which detection is which object: each rule decides alone in one of these scenes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sam2_ros.inference.matching import Box, Detection, Matches, Track, is_swollen, match, pair_up, without_doubles

PERSON: Box = (20.0, 20.0, 40.0, 70.0)  # a diagonal of 54 pixels
SEEN = Track(1, "person", PERSON, PERSON, 1000.0)
HIDDEN = Track(2, "person", None, PERSON, 1000.0)
SWOLLEN = Track(3, "person", (0.0, 0.0, 100.0, 50.0), (150.0, 0.0, 160.0, 50.0), 500.0)


def moved(box: Box, x: float) -> Box:
    return box[0] + x, box[1], box[2] + x, box[3]


def person(box: Box, label: str = "person", score: float = 0.8) -> Detection:
    return Detection(box, label, score)


def found(detections: list[Detection], *tracks: Track) -> Matches:
    return match(detections, tracks, min_iou=0.3, reach=1.5)


def ids(matches: Matches) -> tuple[list[int], list[int], int]:
    """The objects that were matched while visible, those that were not, and how many detections are left."""
    visible, hidden = ([pair.track.object_id for pair in pairs] for pairs in (matches.visible, matches.hidden))
    return visible, hidden, len(matches.left)


def test_a_detection_on_a_visible_object_is_not_the_hidden_one_beside_it() -> None:
    beside = person(moved(PERSON, 4))
    assert ids(found([person(PERSON), beside], SEEN, HIDDEN)) == ([1], [], 1)
    assert ids(found([person(PERSON), beside], SEEN, replace(HIDDEN, last_box=moved(PERSON, 60)))) == ([1], [], 1)
    assert ids(found([person(PERSON), person(moved(PERSON, 60))], SEEN, HIDDEN)) == ([1], [2], 0)


def test_a_detection_is_one_object_and_an_object_one_detection() -> None:
    confirming = person((0.0, 0.0, 95.0, 50.0))
    near = replace(HIDDEN, last_box=(0.0, 0.0, 90.0, 50.0), label="")
    assert ids(found([confirming], SWOLLEN, near)) == ([3], [], 0)
    assert ids(found([person(PERSON), person(moved(PERSON, 18))], SEEN)) == ([1], [], 1)


def test_a_swollen_box_needs_a_detection_that_confirms_it() -> None:
    part = person((0.0, 0.0, 50.0, 40.0))  # IoU 0.4
    assert ids(found([part], SWOLLEN)) == ([], [], 1)
    assert ids(found([part], replace(SWOLLEN, usual_area=2000.0))) == ([3], [], 0), "it is not swollen"
    assert ids(found([person((0.0, 0.0, 60.0, 50.0))], SWOLLEN)) == ([3], [], 0)


def test_what_lies_in_a_swollen_box_may_be_a_hidden_object() -> None:
    part = person((0.0, 0.0, 50.0, 40.0))
    assert ids(found([part], SWOLLEN, replace(HIDDEN, last_box=(0.0, 0.0, 50.0, 40.0)))) == ([], [2], 0)


@pytest.mark.parametrize(("away", "matched"), [(30.0, True), (50.0, False), (70.0, False)])
def test_an_object_with_a_swollen_box_is_near_its_last_trusted_one(away: float, matched: bool) -> None:
    """Nearer than a hidden one has to be."""
    swollen = Track(3, "person", (100.0, 0.0, 200.0, 100.0), PERSON, 1000.0)
    assert ids(found([person(moved(PERSON, away))], swollen)) == (([3], [], 0) if matched else ([], [], 1))
    assert ids(found([person(moved(PERSON, away))], HIDDEN)) == ([], [2], 0)
    assert ids(found([person(moved(PERSON, 85.0))], HIDDEN)) == ([], [], 1)


@pytest.mark.parametrize(("size", "matched"), [(0.6, False), (0.7, True), (1.5, True), (1.7, False)])
def test_a_hidden_object_has_a_like_size(size: float, matched: bool) -> None:
    x, y, width, height = 30.0, 45.0, 10.0 * size, 25.0 * size
    scaled = person((x - width, y - height, x + width, y + height))
    assert ids(found([scaled], HIDDEN))[1] == ([2] if matched else [])


@pytest.mark.parametrize(
    ("detected", "known", "matched"),
    [("dog", "person", False), ("dog", "", True), ("", "person", True), ("", "", True), ("person", "person", True)],
)
def test_a_hidden_object_has_the_same_label_where_both_have_one(detected: str, known: str, matched: bool) -> None:
    assert ids(found([person(PERSON, detected)], replace(HIDDEN, label=known)))[1] == ([2] if matched else [])


def test_of_two_boxes_for_one_thing_the_surer_one_stays() -> None:
    for scores in ((0.5, 0.9), (0.9, 0.5)):
        left = [person(moved(PERSON, x), score=score) for x, score in zip((0.0, 2.0), scores, strict=True)]
        assert without_doubles(left, []) == [max(left, key=lambda detection: detection.score)]


def test_a_double_of_a_double_is_none() -> None:
    """The middle one is gone, so the last one has nothing to be a double of."""
    first, middle, last = (person(moved(PERSON, x), score=1 - x / 100) for x in (0.0, 5.0, 10.0))
    assert without_doubles([first, middle, last], []) == [first, last]
    assert without_doubles([first, middle, last], [moved(PERSON, -2.0)]) == [middle]


def test_without_a_usual_size_nothing_is_swollen() -> None:
    assert not is_swollen((0.0, 0.0, 500.0, 500.0), 0.0)
    assert is_swollen((0.0, 0.0, 10.0, 10.1), 40.0) and not is_swollen((0.0, 0.0, 10.0, 10.0), 40.0)


def test_something_new_goes_on_near_where_it_was_in_a_like_size() -> None:
    other = moved(PERSON, 100.0)
    assert pair_up([moved(other, -5.0), moved(PERSON, 50.0)], [PERSON, other]) == {0: 1, 1: 0}
    assert pair_up([moved(PERSON, 60.0)], [PERSON]) == {}
    assert pair_up([(20.0, 20.0, 70.0, 80.0)], [PERSON]) == {} == pair_up([(20.0, 20.0, 27.0, 70.0)], [PERSON])
    assert pair_up([], [PERSON]) == {} == pair_up([PERSON], [])
