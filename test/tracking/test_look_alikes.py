"""Look-alikes: each rule on hand-made masks, then in the engine, and twins that cross end to end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_tracker import add, box, rectangle, run, scene, small_model, stepped

from sam2_ros.model import load_model
from sam2_ros.tracking import Prompt, PromptRequest, Tracker, TrackerConfig
from sam2_ros.tracking.look_alikes import Claim, Division, alike, divide
from sam2_ros.tracking.mask_parts import WHOLE, masks_of, own_masks
from sam2_ros.tracking.masks import resampled
from sam2_ros.tracking.sights import Sight, tell_apart
from sam2_ros.tracking.trail import Trail
from sam2_ros.tracking.types import CroppedMask, ObjectState
from sam2_ros.tracking.windows import Window
from sam2_ros.training.twins import twins_clip

SIDE = 100  # of the masks here
BOTH = np.array([[False, True], [False, False]])


def heading(x: float, y: float = 0.4, step: float = 0.0, size: float = 0.1) -> Trail:
    """An object of ``size`` x ``size`` (shares of the frame) that moves by ``step`` a frame and is at ``x`` on frame
    5."""
    trail = Trail()
    for frame in range(5):
        left = x - step * (5 - frame)
        trail = trail.seen(frame, (left, y, left + size, y + size), size * size)
    return trail


def mask(*boxes: tuple[int, int, int, int]) -> CroppedMask:
    full = np.zeros((SIDE, SIDE), np.bool_)
    for x0, y0, x1, y1 in boxes:
        full[y0:y1, x0:x1] = True
    return CroppedMask.from_full(full)


def divided(
    trails: Sequence[Trail], masks: Sequence[CroppedMask], seen: Sequence[bool] = (), window: Any = WHOLE
) -> Division | None:
    """What becomes of objects that all look alike on frame 5."""
    known = list(seen) or [True] * len(masks)
    claims = [Claim(*each) for each in zip(trails, masks, known, strict=True)]
    return divide(claims, np.triu(np.ones((len(masks), len(masks)), np.bool_), 1), 5, window)


def left_edges(found: Division | None) -> dict[int, tuple[int, int]]:
    """First column and number of pixels of each mask."""
    assert found is not None
    whole = {index: CroppedMask.from_full(each) for index, each in found.masks.items()}
    return {index: (each.x, each.area) for index, each in whole.items()}


def test_looks_agree_or_not() -> None:
    one, other = np.eye(2, 8, dtype=np.float32)
    near = np.array([0.96, *[0.0] * 6, 0.28], np.float32)
    assert alike([one, other, near]).tolist() == [[False, False, True], [False] * 3, [False] * 3]
    assert not alike([one]).any() and not alike([None, None]).any() and not alike([]).any()
    assert np.argwhere(alike([one, None, one])).tolist() == [[0, 2]]


def test_masks_that_do_not_meet_stay_as_they_are() -> None:
    trails = [heading(0.2), heading(0.3)]
    apart = [mask((20, 40, 30, 50)), mask((30, 40, 40, 50))]  # they touch
    assert divided(trails, apart) is None
    grazing = [mask((20, 40, 31, 50)), mask((30, 40, 40, 50))]
    assert divided(trails, grazing) is None
    assert divided(trails, [mask((20, 40, 40, 50))] * 2, seen=[True, False]) is None
    assert divided([heading(0.2), Trail()], [mask((20, 40, 40, 50))] * 2) is None
    assert divided([heading(0.2), heading(0.2, size=0.3)], [mask((20, 40, 40, 50))] * 2) is None  # of another size


def test_both_masks_on_both_objects_are_divided_by_parts() -> None:
    """Each part is the object's that was heading there, whatever order they are in; and both are decided."""
    both = mask((20, 40, 30, 50), (60, 40, 70, 50))
    found = divided([heading(0.59, step=0.02), heading(0.21, step=-0.02)], [both, both])
    assert left_edges(found) == {0: (60, 100), 1: (20, 100)}
    assert found is not None and not found.undecided


def test_masks_that_changed_places_change_back() -> None:
    """They crossed: each was heading where the other one's mask is."""
    trails = [heading(0.6, step=0.05), heading(0.45, step=-0.05)]
    masks = [mask((45, 40, 55, 50)), mask((60, 40, 70, 50))]
    assert divided(trails, masks) is None  # they did not meet lately
    found = divided([replace(each, met=1) for each in trails], masks)
    assert left_edges(found) == {0: (60, 100), 1: (45, 100)}


def test_a_part_with_room_for_two_is_divided_by_the_nearest_place_and_undecided() -> None:
    joint = mask((20, 40, 38, 50))
    found = divided([heading(0.28), heading(0.2)], [joint, joint])
    assert left_edges(found) == {0: (29, 90), 1: (20, 90)}
    assert found is not None and found.undecided == {0, 1}


def test_a_part_with_room_for_one_is_the_nearest_ones_and_the_other_is_hidden() -> None:
    one = mask((30, 40, 41, 50))
    found = divided([heading(0.2), heading(0.31)], [one, one])
    assert left_edges(found) == {0: (0, 0), 1: (30, 110)}
    assert found is not None and found.undecided == {0}


def test_a_part_is_rather_the_ones_that_was_just_there_than_one_that_was_hidden() -> None:
    one, long_ago = mask((30, 40, 40, 50)), Trail((0,), heading(0.3).boxes[:1], (0.01,))
    found = divided([long_ago, heading(0.33)], [one, one])
    assert left_edges(found)[1] == (30, 100) and found is not None and found.undecided == {0}
    both_hidden = [long_ago, replace(heading(0.39), decided=3)]
    assert left_edges(divided(both_hidden, [one, one]))[0] == (30, 100)


@pytest.mark.parametrize(("rows", "shown"), [(13, 1), (15, 1), (16, 2)])
def test_a_part_is_the_ones_whose_size_it_has(rows: int, shown: int) -> None:
    """Of 100 and of 169 pixels: the part has room for both from 169 + 0.3 * 100 = 199 pixels on."""
    one = mask((30, 40, 43, 40 + rows))
    found = divided([heading(0.31, 0.41), heading(0.3, size=0.13)], [one, one])
    areas = [area for _, area in left_edges(found).values()]
    assert areas == [0, 13 * rows] if shown == 1 else min(areas) > 0
    assert found is not None and found.undecided == ({0} if shown == 1 else {0, 1})


def test_specks_stay_whose_they_were() -> None:
    first, second = mask((20, 40, 30, 50), (90, 90, 92, 92)), mask((20, 40, 30, 50), (60, 40, 70, 50))
    found = divided([heading(0.2), heading(0.6)], [first, second])
    assert found is not None and found.masks[0][90, 90] and not found.masks[1][90, 90]
    assert left_edges(found) == {0: (20, 104), 1: (60, 100)}


def test_only_those_that_meet_are_divided() -> None:
    both = mask((20, 40, 30, 50), (60, 40, 70, 50))
    trails = [heading(0.2), heading(0.6), heading(0.8, 0.8)]
    found = divided(trails, [both, both, mask((80, 80, 90, 90))])
    assert found is not None and sorted(found.masks) == [0, 1]
    partly = mask((60, 40, 70, 50), (20, 60, 30, 80))  # a quarter of both masks is common
    assert divided(trails[:2], [both, partly]) is not None
    claims = [Claim(*each, True) for each in zip(trails, [both, partly], strict=False)]
    assert divide(claims, np.zeros((2, 2), np.bool_), 5, WHOLE) is None  # they don't look alike


def test_three_that_meet_are_assigned_together() -> None:
    all_three = mask((10, 40, 20, 50), (40, 40, 50, 50), (70, 40, 80, 50))
    found = divided([heading(0.7), heading(0.1), heading(0.4)], [all_three] * 3)
    assert left_edges(found) == {0: (70, 100), 1: (10, 100), 2: (40, 100)}


def unlike(
    trails: Sequence[Trail], masks: Sequence[CroppedMask], seen: Sequence[bool] = (True, True)
) -> Division | None:
    """What becomes of objects that do not look alike on frame 5."""
    claims = [Claim(*each) for each in zip(trails, masks, seen, strict=True)]
    return divide(claims, np.zeros((len(masks), len(masks)), np.bool_), 5, WHOLE)


def test_one_thing_has_one_mask() -> None:
    """Whose place is nearer has it, in whatever order; the other one is hidden and undecided."""
    trails, thing = [heading(0.2), heading(0.58)], mask((60, 40, 70, 50))
    for order in (1, -1):
        found = unlike(trails[::order], [thing, thing][::order])
        lost = 0 if order == 1 else 1
        assert left_edges(found) == {lost: (0, 0)} and found is not None and found.undecided == {lost}
    nearly = mask((60, 40, 70, 48), (60, 48, 68, 50))  # 96 of 100 pixels
    assert unlike(trails, [thing, nearly]) is not None


@pytest.mark.parametrize(("rows", "left"), [(6, 60), (4, 0), (10, 100)])
def test_what_is_left_beside_anothers_thing_stays_its_own(rows: int, left: int) -> None:
    """Half of its usual area of 100 pixels at least; it may be remembered only when that is decided."""
    both = mask((60, 40, 70, 50), (20, 40, 30, 40 + rows))
    found = unlike([heading(0.2), heading(0.6)], [both, mask((60, 40, 70, 50))])
    assert found is not None and found.undecided == {0} and list(found.masks) == [0]
    assert left_edges(found)[0] == ((20, left) if left else (0, 0))


def test_masks_that_may_both_be_right_stay() -> None:
    thing = mask((60, 40, 70, 50))
    assert unlike([heading(0.2), heading(0.6)], [mask((20, 40, 30, 50)), thing]) is None
    assert unlike([heading(0.2), heading(0.6)], [mask((64, 40, 74, 50)), mask((60, 40, 70, 50))]) is not None
    assert unlike([heading(0.2), heading(0.6)], [mask((65, 40, 75, 50)), thing]) is None  # a third is common
    assert unlike([heading(0.6), heading(0.58, size=0.14)], [thing, thing]) is None  # one is a part of the other
    assert unlike([heading(0.2), heading(0.6)], [thing, thing], [False, True]) is None
    assert unlike([Trail(), heading(0.6)], [thing, thing]) is None


@pytest.mark.parametrize(
    ("trails", "scores", "owner"),
    [
        ((heading(0.2, 0.2), heading(0.2, 0.6)), (1.0, 4.0), 1),  # both are equally far: who is surer
        ((heading(0.1), heading(0.58)), (4.0, 1.0), 1),  # much nearer
        ((heading(0.55, 0.3, size=0.2), heading(0.6, 0.5)), (2.0, 2.0), 1),  # of the right size
        ((Trail((0,), heading(0.6, 0.2).boxes[:1], (0.01,)), heading(0.6, 0.6)), (2.0, 2.0), 0),  # had time to come
    ],
)
def test_a_thing_is_the_ones_that_it_fits_better(
    trails: tuple[Trail, Trail], scores: tuple[float, float], owner: int
) -> None:
    claims = [Claim(trail, mask((60, 40, 70, 50)), True, score) for trail, score in zip(trails, scores, strict=True)]
    found = divide(claims, np.zeros((2, 2), np.bool_), 5, WHOLE)
    assert found is not None and found.undecided == {1 - owner}


def test_places_lie_in_the_window_of_the_masks() -> None:
    """The window shows the frame's right half, so that 0.6 of the frame is 0.2 of it."""
    both = mask((20, 40, 40, 50), (60, 40, 80, 50))
    found = divided([heading(0.8), heading(0.6)], [both, both], window=(0.5, 0.0, 0.5, 1.0))
    assert left_edges(found) == {0: (60, 200), 1: (20, 200)}


def pixels(count: int, left: int = 20, top: int = 40) -> CroppedMask:
    """So many pixels in columns of ten."""
    full = np.zeros((SIDE, SIDE), np.bool_)
    full[top : top + 10, left : left + count // 10] = True
    full[top : top + count % 10, left + count // 10] = True
    return CroppedMask.from_full(full)


@pytest.mark.parametrize(("more", "meet"), [((), True), (((20, 39, 21, 40),), False)])
def test_masks_meet_from_a_share_of_the_smaller_one_on(more: tuple[tuple[int, int, int, int], ...], meet: bool) -> None:
    """30 of 200 pixels, or of 201."""
    trails = [heading(0.25), heading(0.42)]
    masks = [mask((20, 40, 40, 50), *more), mask((37, 40, 57, 50), (60, 60, 62, 61))]
    assert (divided(trails, masks) is not None) == meet


@pytest.mark.parametrize(("area", "meet"), [(0.0199, True), (0.0201, False), (0.0051, True), (0.0049, False)])
def test_one_more_than_twice_as_large_is_no_look_alike(area: float, meet: bool) -> None:
    masks = [mask((20, 40, 30, 50), (60, 40, 70, 50)), mask((60, 40, 70, 50), (20, 60, 30, 80))]
    trails = [heading(0.2), replace(heading(0.6), areas=(area,) * 5)]
    assert (divided(trails, masks) is not None) == meet
    assert (divided(trails[::-1], masks) is not None) == meet


@pytest.mark.parametrize(("met", "other", "changed"), [(-5, -5, True), (-6, -5, False), (-5, -6, False)])
def test_they_may_change_back_for_ten_frames(met: int, other: int, changed: bool) -> None:
    trails = [replace(heading(0.6), met=met), replace(heading(0.45), met=other)]
    masks = [mask((45, 40, 55, 50)), mask((60, 40, 70, 50))]
    assert (divided(trails, masks) is not None) == changed


@pytest.mark.parametrize(("apart", "changed"), [(1, False), (2, True)])
def test_places_change_where_that_is_nearer_by_half_an_object(apart: int, changed: bool) -> None:
    """Both lie between the two places, ``apart`` pixels the other way round: 2 * apart / 5 of half an object's size."""
    trails = [replace(heading(0.6, 0.4), met=4), replace(heading(0.4, 0.4), met=4)]
    masks = [mask((50, 44, 60, 45)), mask((50 + apart, 45, 60 + apart, 46))]
    assert (divided(trails, masks) is not None) == changed
    assert divided(trails, masks[::-1]) is None


@pytest.mark.parametrize(
    ("long", "short", "second"),
    [
        ((45, 20, 50, 80), (50, 45, 55, 55), heading(0.45, 0.3)),
        ((45, 20, 50, 80), (50, 45, 55, 55), heading(0.45, 0.6)),
        ((20, 45, 80, 50), (45, 50, 55, 55), heading(0.3, 0.45)),
        ((20, 45, 80, 50), (45, 50, 55, 55), heading(0.6, 0.45)),
    ],
)
def test_a_mask_is_where_its_middle_is(long: Any, short: Any, second: Trail) -> None:
    """Both middles are at the first one's place, so that neither order is nearer."""
    trails = [replace(heading(0.45, 0.45), met=4), replace(second, met=4)]
    assert divided(trails, [mask(long), mask(short)]) is None is divided(trails, [mask(short), mask(long)])


@pytest.mark.parametrize(
    ("count", "objects", "shown"), [(129, 2, 1), (131, 2, 2), (229, 3, 2), (231, 3, 3), (331, 3, 3)]
)
def test_a_part_has_room_for_as_many_as_its_area_has_usual_ones(count: int, objects: int, shown: int) -> None:
    trails = [heading(0.2 + 0.1 * index) for index in range(objects)]
    found = divided(trails, [pixels(count)] * objects)
    assert found is not None and sum(bool(each.any()) for each in found.masks.values()) == shown
    assert len(found.undecided) == (objects if shown > 1 else objects - 1)
    assert np.sum(list(found.masks.values()), axis=0).max() == 1


@pytest.mark.parametrize(("count", "shown"), [(21, [True, True]), (19, [True, False])])
def test_a_part_of_a_fifth_is_room_for_one(count: int, shown: list[bool]) -> None:
    both = mask((20, 40, 30, 50)).full() | pixels(count, 60).full()
    masks = [CroppedMask.from_full(both), mask((20, 40, 30, 50))]
    found = divided([heading(0.2), heading(0.6)], masks)
    assert found is not None and [bool(found.masks[index][:, :40].any()) for index in (0, 1)] == [True, False]
    assert bool(found.masks[1].any()) == shown[1]
    assert bool(found.masks[0][:, 60:].any()) != shown[1], "a speck stays whose it was"


@pytest.mark.parametrize(("common", "same"), [(57, False), (58, True)])
def test_one_thing_is_two_fifths_in_common(common: int, same: bool) -> None:
    """58 of 100 and 100 pixels: 58 / 142."""
    rest = pixels(100 - common, 80, 70).full()
    other = CroppedMask.from_full(pixels(common, 60).full() | rest)
    for order in (1, -1):
        found = unlike([heading(0.2), heading(0.6)], [pixels(100, 60), other][::order])
        assert (found is not None) == same


@pytest.mark.parametrize(("shift", "same"), [(0.059, False), (0.061, True)])
def test_what_lay_in_the_other_one_before_may_be_a_part_of_it(shift: float, same: bool) -> None:
    """0.41 or 0.39 of its last box, in x or in y."""
    thing = mask((60, 40, 70, 50))
    for x, y in ((0.6 + shift, 0.4), (0.6 - shift, 0.4), (0.6, 0.4 + shift), (0.6, 0.4 - shift)):
        assert (unlike([heading(0.6), heading(x, y)], [thing, thing]) is not None) == same
    large = heading(0.5 - shift, 0.3, size=0.2 + shift)
    inside = unlike([heading(0.6), large], [thing, thing])
    assert inside is None, "the smaller box lies in the larger one"


def test_a_place_moves_on_for_a_while_and_grows_less_sure() -> None:
    """Seen on frame 5 at the latest and 0.02 a frame to the right: 15 frames later 0.3 further, and never more."""
    thing = mask((60, 40, 70, 50))
    for frame, owner in ((20, 0), (21, 0), (60, 0)):
        moving = replace(heading(0.28, step=0.02), frames=(1, 2, 3, 4, 5))
        standing = replace(heading(0.72), frames=tuple(range(frame - 5, frame)))
        claims = [Claim(trail, thing, True, 0.0) for trail in (moving, standing)]
        found = divide(claims, np.zeros((2, 2), np.bool_), frame, WHOLE)
        assert found is not None and found.undecided == {1 - owner}


# -- the engine ----------------------------------------------------------------------------------------------


def engine_with_two(config: TrackerConfig | None = None, alike: bool = True) -> Tracker:
    """The objects 1 and 2 of a small network, which look alike or not, with places at 0.2 and 0.6 of the frame."""
    tracker = Tracker(small_model(), config or TrackerConfig(max_objects=3))
    stepped(tracker, [rectangle(32, 48, 48, 60), rectangle(96, 48, 112, 60)])
    one, two = tracker._objects.values()
    assert one.likeness is not None
    two.likeness = one.likeness if alike else -one.likeness
    return tracker


def drawn(*boxes: tuple[int, int, int, int]) -> torch.Tensor:
    made = torch.full((1, 1, SIDE, SIDE), -3.0)
    for x0, y0, x1, y1 in boxes:
        made[0, 0, y0:y1, x0:x1] = 4.0
    return made


def test_what_an_object_gets_and_loses() -> None:
    """Pixels that it had keep their logit; those that it gets have the highest; the others are rejected."""
    objects = list(engine_with_two()._objects.values())
    given = torch.cat((drawn((20, 40, 30, 50), (60, 40, 70, 50)), drawn((20, 40, 30, 50)) + 1))
    masks = masks_of(given)
    wanted = {0: mask((60, 40, 70, 50)).full(), 1: mask((20, 40, 30, 52)).full()}
    own = own_masks(given, objects, 1, masks, division=Division(wanted, frozenset({1})))
    assert [int((each > 0).sum()) for each in own.logits] == [100, 120]
    assert (own.logits[0, 0, 40:50, 60:70] == 4).all() and (own.logits[0, 0, 40:50, 20:30] == -10).all()
    assert (own.logits[1, 0, 40:50, 20:30] == 5).all() and (own.logits[1, 0, 50:52, 20:30] > 0).all()
    assert own.changed.tolist() == [True, True] and own.undecided.tolist() == [False, True]
    assert own.areas.tolist() == pytest.approx([0.01, 0.012]) and int((given[0] > 0).sum()) == 200


@pytest.mark.parametrize(
    ("options", "alike"), [({"look_alikes": False}, True), ({"reference_policy": True}, True), ({}, False)]
)
def test_only_look_alikes_are_told_apart_and_only_if_wanted(options: dict[str, Any], alike: bool) -> None:
    tracker = engine_with_two(TrackerConfig(max_objects=3, **options), alike)
    assert (tracker.config.tells_apart is False) is bool(options)
    objects, newest = list(tracker._objects.values()), tracker.history.newest
    assert newest is not None
    view, both = tracker._viewer.whole_view(newest), mask((20, 40, 30, 50), (60, 40, 70, 50), (30, 40, 40, 90))
    other = mask((60, 40, 70, 50), (20, 40, 30, 50), (60, 50, 70, 100))
    if not options:
        assert tell_apart([Sight(objects, view, torch.ones(2), torch.ones(2), [both, other])], []) == [None]


def test_undecided_frames_enter_neither_memory_nor_trail(monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = engine_with_two()
    one, two = tracker._objects.values()
    wanted = {0: np.zeros((32, 32), np.bool_), 1: np.zeros((32, 32), np.bool_)}
    wanted[0][12:16, 6:10] = wanted[1][12:16, 19:23] = True

    def decided(sights: list[Sight], bystanders: Any) -> list[Division]:
        return [Division({i: wanted[obj is two] for i, obj in enumerate(sights[0].objects)}, frozenset({0}))]

    monkeypatch.setattr("sam2_ros.tracking.propagation.tell_apart", decided)
    before, bank = one.trail, tracker.bank
    result = run(tracker, 1, 1)[0]
    assert [int(each.mask.area > 0) for each in result.objects] == [1, 1]
    assert (
        one.trail == replace(before, met=1)
        and 1 not in bank.recent_frames[one.row]
        and 1 in bank.recent_frames[two.row]
    )


def test_masks_are_compared_in_the_frame_and_come_back_into_their_windows() -> None:
    whole, right = Window(0, 0, 100, 50), Window(50, 0, 100, 25)
    thing = CroppedMask(np.ones((10, 20), np.bool_), 40, 20, SIDE, SIDE)  # columns 70 to 79, rows 5 to 7 of the frame
    assert resampled(thing, right, right, SIDE, SIDE) is thing
    found = resampled(thing, right, whole, 100, 50)
    assert found.box == (70, 5, 80, 7) or found.box == (70, 5, 80, 8)
    fine = resampled(thing, right, whole, 200, 200)
    assert fine.box == (140, 20, 160, 30) and fine.crop.all()
    back = resampled(fine, whole, right, SIDE, SIDE)
    assert back.box == thing.box and back.crop.all()
    assert not resampled(thing, right, Window(0, 0, 50, 50), SIDE, SIDE).crop.size
    assert not resampled(CroppedMask.empty(SIDE, SIDE), right, whole, 10, 10).crop.size


def test_objects_in_windows_of_their_own_are_told_apart() -> None:
    """Both masks show the second object; the first one's window reaches there, too."""
    tracker = engine_with_two(alike=False)
    one, two = tracker._objects.values()
    stored = tracker.history.newest
    assert stored is not None
    view = tracker._viewer.whole_view(stored)  # 160 x 120
    views = [replace(view, window=window) for window in (Window(0, 0, 128, 96), Window(80, 30, 144, 78))]
    one.trail, two.trail = Trail().seen(0, (0.2, 0.4, 0.3, 0.5), 0.01), Trail().seen(0, (0.6, 0.4, 0.7, 0.5), 0.01)
    # Pixels 96 to 112 across and 48 to 60 down, in both windows.
    masks = [mask((75, 50, 87, 62)), mask((25, 38, 50, 62))]
    there, told = torch.ones(1), zip((one, two), views, masks, strict=True)
    sights = [Sight([obj], each, there, there, [own]) for obj, each, own in told]
    first, second = tell_apart(sights, [])
    assert first is not None and not first.masks[0].any() and first.undecided == {0} and second is None
    two.likeness = one.likeness  # alike, the part has room for one
    first, second = tell_apart(sights, [])
    assert first is not None and second is not None and not second.undecided and first.undecided == {0}
    assert left_edges(second)[0][0] == 25 and second.masks[0].sum() == pytest.approx(masks[1].area, rel=0.1)


def test_nothing_is_remembered_before_all_windows_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = engine_with_two(TrackerConfig(max_objects=3, window="on", window_budget=0.0))
    bank, told = tracker.bank, []

    def decided(sights: list[Sight], bystanders: Any) -> list[Division | None]:
        told.append([sight.view.window for sight in sights])
        assert not (bank.recent_frames == len(told)).any()
        return [None] * len(sights)

    monkeypatch.setattr("sam2_ros.tracking.propagation.tell_apart", decided)
    run(tracker, 1, 2)
    assert [len(set(windows)) for windows in told] == [2, 2]
    assert all((bank.recent_frames[obj.row] == 2).any() for obj in tracker._objects.values())


def test_in_a_late_prompt_the_others_keep_their_masks() -> None:
    """The corrected object is told apart from the others as they were then."""
    tracker = engine_with_two()
    run(tracker, 1, 3)
    one, two = tracker._objects.values()
    stored = tracker.history.newest
    assert stored is not None
    view = tracker._viewer.whole_view(stored)
    low = view.model.config.grid * 4
    scale = low / SIDE

    def at(x0: float, x1: float) -> NDArray[np.bool_]:
        full = np.zeros((low, low), np.bool_)
        full[round(40 * scale) : round(50 * scale), round(x0 * scale) : round(x1 * scale)] = True
        return full

    left, right = at(20, 30), at(60, 70)
    edges = [masks.box for masks in map(CroppedMask.from_full, (left, right))]
    for obj, edge, full in zip((one, two), edges, (left, right), strict=True):
        obj.trail = Trail().seen(2, tuple(value / low for value in edge), float(full.mean()))
    two.logits = torch.where(torch.from_numpy(right), 5.0, -5.0)[None]
    two.presence = replace(two.presence, state=ObjectState.VISIBLE)
    sight = Sight([one], view, torch.ones(1), torch.ones(1), [CroppedMask.from_full(left | right)])
    (found,) = tell_apart([sight], [two])
    assert found is not None and list(found.masks) == [0] and (found.masks[0] == left).all()
    late = replace(box(), box=np.array([32, 48, 48, 60], np.float32))
    others = (two.trail, two.mask)
    assert tracker.add([PromptRequest(late, one.object_id)], 2)[0].success
    assert (two.trail, two.mask) == others


def test_a_look_is_that_of_the_newest_prompted_mask() -> None:
    tracker = Tracker(small_model(), TrackerConfig(max_objects=3))
    tracker.step(scene(0), 0)
    first, same, other = add(tracker, *[rectangle(15, 60, 40, 100)] * 2, rectangle(100, 10, 140, 40))
    looks = {key: obj.likeness for key, obj in tracker._objects.items()}
    assert all(look is not None and np.linalg.norm(look) == pytest.approx(1, abs=1e-5) for look in looks.values())
    assert alike([looks[first], looks[same]]).any() and not alike([looks[first], looks[other]]).any()
    tracker.refine(PromptRequest(rectangle(0, 0, 0, 0), first))  # "not here"
    assert tracker._objects[first].likeness is looks[first]


def test_crossing_twins_keep_their_identities() -> None:
    """Without, the hidden one's mask ends on the twin."""
    clip, model = twins_clip(0, 14, 320, 240), load_model("embedded")
    trackers = [
        Tracker(model, TrackerConfig(max_objects=2, window="off", look_alikes=wanted)) for wanted in (True, False)
    ]
    for frame, (rgb, label) in enumerate(zip(clip.frames, clip.labels, strict=True)):
        encoded = trackers[0].encode(rgb)
        for tracker in trackers:
            tracker.step(encoded, frame + 1)
            if frame == 0:
                add(tracker, *(Prompt(mask=label == twin) for twin in (1, 2)))
    ends = []
    for tracker in trackers:
        result = tracker.objects()
        assert result is not None
        covered = [[np.count_nonzero(obj.mask.full() & (label == twin)) for twin in (1, 2)] for obj in result.objects]
        ends.append([int(np.argmax(pixels)) for pixels in covered])
    assert ends == [[0, 1], [1, 1]]
