"""Objects take turns at being looked at, and optical flow carries the masks of the others: on patches of known motion.

A look costs 3.5, a frame of four objects without windows 6.5.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import textures
from numpy.typing import NDArray

from sam2_ros.evaluation.mask_metrics import jaccard
from sam2_ros.model.config import EDGE_MODELS, SAM3, WHOLE_SIDE, WINDOW_SIDE, ModelConfig, official_config
from sam2_ros.tracking.look_scheduler import LookScheduler, encode_work, larger_work
from sam2_ros.tracking.mask_follower import LONGEST, FollowedMask, MaskFollower
from sam2_ros.tracking.objects import LiveObject
from sam2_ros.tracking.types import CroppedMask, ObjectState
from sam2_ros.tracking.windows import Window

Image = NDArray[np.uint8]
SIZE = WIDTH, HEIGHT = 320, 240
WHOLE = Window(0, 0, WIDTH, HEIGHT)
PLACES = [(20, 20), (200, 20), (20, 150), (200, 150)]
BACKGROUND = textures.background(1, WIDTH, HEIGHT)


def image(frame: int, step: tuple[int, int] = (3, 2), gone: tuple[int, ...] = ()) -> Image:
    picture = BACKGROUND.copy()
    for index, (x, y) in enumerate(PLACES):
        if index not in gone:
            x, y = x + frame * step[0], y + frame * step[1]
            picture[y : y + 40, x : x + 50] = textures.patch(7 + index, 50, 40)
    return picture


def truth(index: int, frame: int, step: tuple[int, int] = (3, 2)) -> NDArray[np.bool_]:
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    x, y = PLACES[index][0] + frame * step[0], PLACES[index][1] + frame * step[1]
    mask[y : y + 40, x : x + 50] = True
    return mask


def objects(count: int = 4, state: ObjectState = ObjectState.VISIBLE) -> list[LiveObject]:
    """Objects that were prompted on frame 0."""
    made = []
    for index in range(count):
        obj = LiveObject(1 + index, index, "", "", 0.0, 0)
        obj.presence = replace(obj.presence, frame=0, state=state)
        obj.mask = CroppedMask.from_full(truth(index, 0) & (state is ObjectState.VISIBLE))
        obj.looked_frame = 0
        made.append(obj)
    return made


def windows_of(those: list[LiveObject]) -> list[tuple[LiveObject, Window]]:
    return [(obj, Window(0, 0, 100 + obj.object_id, 75)) for obj in those]


def looks(
    scheduler: LookScheduler,
    those: list[LiveObject],
    frames: range,
    budget: float = 1.0,
    windows: list[tuple[LiveObject, Window]] | None = None,
    searches: tuple[int, ...] = (),
) -> list[list[int]]:
    """The ids of the objects that are looked at on each frame. A look finds what there is."""
    found = []
    for frame in frames:
        waiting = scheduler.waiting(
            windows or windows_of(those), image(frame), frame, SIZE, budget, searches=frame in searches
        )
        found.append([obj.object_id for obj in those if obj.object_id not in waiting])
        for index, obj in enumerate(those):
            obj.presence = replace(obj.presence, frame=frame)
            if obj.object_id in waiting:
                obj.mask = waiting[obj.object_id].mask
            else:
                obj.looked_frame = frame
                if obj.state is ObjectState.VISIBLE:
                    obj.mask = CroppedMask.from_full(truth(index, frame))
    return found


def started() -> LookScheduler:
    scheduler = LookScheduler(2.5)
    assert scheduler.waiting([], image(0), 0, SIZE, 1.0, False) == {}
    return scheduler


def test_a_frame_costs_on_average_what_it_may() -> None:
    """Each frame adds 6.5: left are 3 after one look, then 2.5, 2, 1.5, 1, 0.5 and 0 after two; then again 3."""
    counts = [len(found) for found in looks(started(), objects(), range(1, 10))]
    assert counts == [1, 2, 2, 2, 2, 2, 2, 1, 2]


def test_those_who_waited_longest_come_first() -> None:
    found = looks(started(), objects(), range(1, 9))
    for begin in range(len(found) - 2):
        assert {each for frame in found[begin : begin + 3] for each in frame} == {1, 2, 3, 4}


@pytest.mark.parametrize(("budget", "count"), [(0.0, 4), (14 / 6.5, 4), (13.9 / 6.5, 3), (1.1, 2), (0.01, 1)])
def test_the_budget_is_a_multiple_of_a_frame_without_windows(budget: float, count: int) -> None:
    """Four looks cost 14; at least one object is looked at."""
    (found,) = looks(started(), objects(), range(1, 2), budget)
    assert len(found) == count


def test_what_shares_a_window_shares_its_cost() -> None:
    """As in a frame without windows, when all need the whole: 2.5 + 4."""
    those = objects()
    assert looks(started(), those, range(1, 3), windows=[(obj, WHOLE) for obj in those]) == [[1, 2, 3, 4]] * 2
    # Two in the whole frame cost 4.5 of 6.5, so that 2 are left and then 8.5: for one with a window and the two again.
    those = objects()
    those[0].looked_frame = those[1].looked_frame = -5
    mixed = [(obj, WHOLE if obj.object_id < 3 else Window(0, 0, 99 + obj.object_id, 75)) for obj in those]
    found = looks(started(), those, range(1, 3), windows=mixed)
    assert found[0] == [1, 2] and found[1] in ([3, 4], [1, 2, 3], [1, 2, 4])


def test_one_object_is_always_looked_at() -> None:
    assert looks(started(), objects(1), range(1, 6), 0.01) == [[1]] * 5


def test_a_search_of_the_whole_frame_costs_two_windows() -> None:
    """Left after the frames: 3, 3 + 6.5 - 5 - 3.5 = 1, then 0.5."""
    counts = [len(found) for found in looks(started(), objects(), range(1, 4), searches=(2,))]
    assert counts == [1, 1, 2]


def test_who_can_not_be_carried_comes_first_and_hidden_ones_wait_like_the_others() -> None:
    scheduler, those = started(), objects()
    waiting = scheduler.waiting(windows_of(those), image(1, gone=(2,)), 1, SIZE, 0.01, False)
    assert set(waiting) == {1, 2, 4}, "what covers the third object's place looks otherwise than it"
    hidden = objects(2, ObjectState.OCCLUDED) + objects()[2:]
    hidden[1].looked_frame = -1
    scheduler = started()
    assert set(scheduler.waiting(windows_of(hidden), image(1), 1, SIZE, 0.5, False)) == {1, 3, 4}


def test_hidden_objects_wait_without_a_mask() -> None:
    scheduler, hidden = started(), objects(4, ObjectState.OCCLUDED)
    waiting = scheduler.waiting(windows_of(hidden), image(1), 1, SIZE, 0.01, False)
    assert waiting == {
        key: FollowedMask(hidden[key - 1].mask, waiting[key].mask, 0.0) for key in (2, 3, 4)
    } and not any(each.mask.crop.size for each in waiting.values())


def test_objects_that_are_seen_in_the_whole_frame_need_no_turns() -> None:
    """Also on a frame that is searched, which costs the time of two windows; with less than 1 they take turns."""
    whole = [(obj, Window.whole(*SIZE)) for obj in objects()]
    for budget, waiting in ((1.0, 0), (0.5, 3)):
        assert len(started().waiting(whole, image(1), 1, SIZE, budget, True)) == waiting


def test_at_most_eight_windows_are_encoded() -> None:
    those = [obj for _ in range(3) for obj in objects()]
    for number, obj in enumerate(those):
        obj.object_id = 1 + number
    assert len(started().waiting(windows_of(those), image(1), 1, SIZE, 100.0, False)) == 4


def test_a_larger_encoder_counts_more() -> None:
    """By blocks times channels squared: large has 48 of 144 channels, 9 times the 12 of 96 of tiny."""
    work = {name: encode_work(official_config(name)) for name in ("tiny", "base_plus", "large")}
    assert work == pytest.approx({"tiny": 2.5, "base_plus": 2.5 * 24 * 112**2 / (12 * 96**2), "large": 2.5 * 9})
    assert encode_work(EDGE_MODELS["edgetam"]) == 2.5 and encode_work(SAM3) == pytest.approx(
        2.5 * 32 * 1024**2 / 16 / (12 * 96**2)
    )


def test_a_slow_encoder_lets_fewer_objects_be_looked_at() -> None:
    """Each frame adds 10 + 4, and a look takes 11: left are 3, 6, 9 after one look each, and 1 after two."""
    scheduler = LookScheduler(10.0)
    assert scheduler.waiting([], image(0), 0, SIZE, 1.0, False) == {}
    assert [len(found) for found in looks(scheduler, objects(), range(1, 6))] == [1, 1, 1, 2, 1]


def test_a_smaller_input_lets_more_objects_be_looked_at() -> None:
    """Each frame adds 1.5 times 6.5, a look takes 3.5: left are 2.75 after two, then 2, 1.25 and 0.5 after three."""
    scheduler = LookScheduler(2.5, 1.5)
    assert scheduler.waiting([], image(0), 0, SIZE, 1.0, False) == {}
    assert [len(found) for found in looks(scheduler, objects(), range(1, 6))] == [2, 3, 3, 3, 2]


def test_the_input_of_windows_counts_by_what_the_larger_one_would_take() -> None:
    """Only the embedded model has a smaller one, and only where no other is chosen."""
    embedded = ModelConfig("a model", trunk="tinyvit", image_size=WHOLE_SIDE)
    sides = ((WHOLE_SIDE, WINDOW_SIDE), (WHOLE_SIDE, WHOLE_SIDE), (640, 640), (WINDOW_SIDE, WINDOW_SIDE))
    work = [larger_work(replace(embedded, image_size=whole), window) for whole, window in sides]
    assert work == [1.27, 1.0, 1.0, 1.0]
    assert larger_work(replace(official_config("tiny"), image_size=WHOLE_SIDE), WINDOW_SIDE) == 1.0


@pytest.mark.parametrize("before", [None, "cut", "size"])
def test_all_are_looked_at_where_flow_finds_nothing(before: str | None) -> None:
    """In the first image, after a cut, and in images of another size; then the budget counts again."""
    scheduler, those = LookScheduler(2.5) if before is None else started(), objects()
    size, shown = SIZE, image(1)
    if before == "cut":
        shown = 255 - textures.background(50, WIDTH, HEIGHT)
    if before == "size":
        shown, size = shown[:200].copy(), (WIDTH, 200)
    assert scheduler.waiting(windows_of(those), shown, 1, size, 1.0, False) == {}
    for obj in those:
        obj.looked_frame, obj.presence = 1, replace(obj.presence, frame=1)
    assert len(scheduler.waiting(windows_of(those), image(2), 2, SIZE, 1.0, False)) == (3 if before is None else 0)


def test_who_is_hidden_for_want_of_flow_comes_before_who_was_looked_for() -> None:
    hidden = objects(4, ObjectState.OCCLUDED)
    for obj in hidden:
        obj.looked_frame = 4
        obj.presence = replace(obj.presence, frame=5, last_seen_frame=4 if obj.object_id == 3 else 2)
    waiting = started().waiting(windows_of(hidden), image(6), 6, SIZE, 0.01, False)
    assert set(waiting) == {1, 2, 4}


def test_masks_that_show_one_thing_are_looked_at_first() -> None:
    scheduler, those = started(), objects()
    for obj in those[2:]:  # both of them show the fourth thing
        obj.mask = CroppedMask.from_full(truth(3, 0))
    assert set(scheduler.waiting(windows_of(those), image(1), 1, SIZE, 1.1, False)) == {1, 2}


def carried(frames: int, step: tuple[int, int]) -> list[list[float]]:
    follower, those = MaskFollower(), objects()
    follower.add_image(image(0, step), 0, SIZE)
    found = []
    for frame in range(1, frames + 1):
        follower.add_image(image(frame, step), frame, SIZE)
        followed = follower.carry(those)
        assert sorted(followed) == [1, 2, 3, 4]
        for obj in those:
            assert followed[obj.object_id].before is obj.mask
            obj.mask, obj.presence = followed[obj.object_id].mask, replace(obj.presence, frame=frame)
        masks = [obj.mask.full() for obj in those if obj.mask is not None]
        found.append([jaccard(mask, truth(index, frame, step)) for index, mask in enumerate(masks)])
    return found


def test_masks_follow_their_objects() -> None:
    """Longer than they are carried from one image, after which they begin anew."""
    for found in carried(LONGEST + 3, (5, 3)):
        assert min(found) > 0.85


def test_masks_are_carried_only_from_the_frame_before() -> None:
    follower, those = MaskFollower(), objects()
    follower.add_image(image(0), 0, SIZE)
    assert follower.carry(those) == {}
    follower.add_image(image(2), 2, SIZE)
    assert follower.carry(those) == {}, "a frame is missing"
    follower.add_image(image(3), 3, SIZE)
    for index, obj in enumerate(those):
        obj.mask = CroppedMask.from_full(truth(index, 2))
    assert follower.carry(those) == {}, "the masks are of frame 0"
    for obj in those:
        obj.presence = replace(obj.presence, frame=2)
    assert sorted(follower.carry(those)) == [1, 2, 3, 4]
    follower.add_image(None, 4, SIZE)
    assert follower.carry(those) == {}
    follower.add_image(image(5)[:200], 5, (WIDTH, 200))
    assert follower.carry(those) == {}


@pytest.mark.parametrize("sizes", [((640, 480), SIZE), (SIZE, (640, 480))])
def test_masks_are_not_carried_to_a_frame_of_another_size(sizes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    """Also where the kept images have one size, as those of 3840 x 2160 and 1920 x 1080 have."""
    follower, those = MaskFollower(), objects()
    for frame, size in enumerate(sizes):
        follower.add_image(image(frame), frame, size)
    assert follower.carry(those) == {}


def test_images_that_are_smaller_than_the_frame_do() -> None:
    """Of a frame of 320 x 240, half of every side is kept."""
    follower, those = MaskFollower(), objects()
    for frame in (0, 1):
        follower.add_image(np.ascontiguousarray(image(frame, (6, 4))[::2, ::2]), frame, SIZE)
    followed = follower.carry(those)
    for index, obj in enumerate(those):
        mask = followed[obj.object_id].mask
        assert (mask.width, mask.height) == SIZE and jaccard(mask.full(), truth(index, 1, (6, 4))) > 0.8


def test_a_mask_that_a_prompt_changed_is_carried_from_the_new_one() -> None:
    follower, those = MaskFollower(), objects()
    for frame in (0, 1):
        follower.add_image(image(frame), frame, SIZE)
    for obj in those:
        obj.mask = follower.carry(those)[obj.object_id].mask if obj.object_id > 1 else obj.mask
    for obj in those:
        obj.presence = replace(obj.presence, frame=1)
    half = truth(0, 1)
    half[:, : PLACES[0][0] + 3 + 25] = False
    those[0].mask = CroppedMask.from_full(half)
    follower.add_image(image(2), 2, SIZE)
    mask = follower.carry(those[:1])[1].mask.full()
    expected = truth(0, 2)
    expected[:, : PLACES[0][0] + 6 + 25] = False
    assert jaccard(mask, expected) > 0.75
