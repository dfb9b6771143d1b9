"""Where windows lie: worked by hand for a frame of 1000 x 500 pixels and a network of 448."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sam2_ros.tracking.window_budget import MAX_LOOKS, default_budget, input_side, most_looks, most_pixels
from sam2_ros.tracking.windows import Frame, Group, Target, Window, plan, serving, turn, window_for

USUAL = 448 * 448
FRAME = Frame(1000, 500, 448, 2 * USUAL, turns=1)
WHOLE = Window(0, 0, 1000, 500)
MIDDLE = (450.0, 200.0, 550.0, 300.0)  # a fifth of the frame high: its window is half of the frame
AROUND = Window(250, 125, 750, 375)


def alone(box: tuple[float, float, float, float], hidden: int = 0, window: Window | None = AROUND) -> Window:
    """The window of a single object, seen through ``window`` before."""
    (group,) = plan([Target(7, box, hidden, window)], FRAME, 1)
    assert group.keys == (7,) and group.side == 448
    return group.window


def moved(x: float, y: float = 0, grown: float = 1) -> tuple[float, float, float, float]:
    half = 50 * grown
    return 500 + x - half, 250 + y - half, 500 + x + half, 250 + y + half


@pytest.mark.parametrize(
    ("box", "window"),
    [
        (MIDDLE, AROUND),
        ((0, 0, 100, 100), Window(0, 0, 500, 250)),  # shifted into the frame
        ((900, 400, 1000, 500), Window(500, 250, 1000, 500)),
        ((400, 240, 600, 260), AROUND),  # wide: the longer side counts, in shares of the frame
        ((495, 245, 505, 255), Window(455, 228, 545, 273)),  # tiny: enlarged to five times its pixels, no more
        ((400, 150, 600, 310), WHOLE),  # 0.32 x 2.5 is 0.8 of the frame
        ((0, 0, 1000, 500), WHOLE),
    ],
)
def test_a_window_is_two_and_a_half_times_the_object(box: tuple[float, float, float, float], window: Window) -> None:
    assert window_for(box, FRAME) == window
    assert plan([Target(1, box)], FRAME) == [Group(window, 448, (1,))]


def test_windows_have_the_shape_of_the_frame() -> None:
    for width, height in ((640, 480), (1920, 1080), (480, 800), (37, 1000)):
        frame = Frame(width, height, 64, 64 * 64)
        window = window_for((width / 2, height / 2, width / 2 + 0.2 * width, height / 2 + 9), frame)
        assert 0 <= window.x0 < window.x1 <= width and 0 <= window.y0 < window.y1 <= height
        assert window.width / width == pytest.approx(window.height / height, abs=0.02)


def test_a_tiny_image_is_seen_whole() -> None:
    for width, height in ((64, 48), (1, 1), (110, 80)):
        frame = Frame(width, height, 448, 448 * 448)
        assert plan([Target(1, (0, 0, 1, 1))], frame) == [Group(Window(0, 0, width, height), 448, (1,))]


def test_without_objects_the_whole_frame_is_seen() -> None:
    assert plan([], FRAME) == [Group(WHOLE, 448, ())]


@pytest.mark.parametrize(
    ("box", "window"),
    [
        (MIDDLE, AROUND),
        (moved(100), AROUND),  # 1.5 times the box reaches to 675 of 750
        (moved(170), AROUND),  # to 745
        (moved(190), Window(440, 125, 940, 375)),  # to 765: placed anew around the object
        (moved(0, 60), Window(250, 185, 750, 435)),  # to 385 of 375
        (moved(0, grown=1.35), AROUND),
        (moved(0, grown=1.45), Window(138, 68, 863, 431)),  # 0.725 of the frame; more than 1.4 times larger
        (moved(0, grown=0.75), AROUND),
        (moved(0, grown=0.7), Window(325, 162, 675, 337)),
    ],
)
def test_a_window_stays_while_it_serves(box: tuple[float, float, float, float], window: Window) -> None:
    assert alone(box) == window


def test_a_window_widens_while_its_object_is_hidden() -> None:
    windows = [alone(MIDDLE, hidden=hidden) for hidden in range(12)]
    assert windows[:4] == [AROUND] * 4  # 1.1^3 is less than 1.4
    shares = [window.width / 1000 for window in windows[4:]]
    assert shares[0] == pytest.approx(0.5 * 1.1**4, abs=1e-3) and shares[-1] == 1 and shares == sorted(shares)


def test_a_mask_that_the_window_cuts_widens_it() -> None:
    assert alone((250, 200, 450, 300)).width == 650  # 0.2 x 2.5 x 1.3 of the frame
    at_the_border = Window(0, 125, 500, 375)
    assert alone((0, 200, 200, 300), window=at_the_border) == at_the_border  # cut by the frame, not by the window


def test_near_objects_share_a_window_and_far_ones_do_not() -> None:
    near = [Target(1, (400, 200, 460, 230)), Target(2, (430, 200, 490, 230))]
    (shared,) = plan(near, FRAME)
    assert shared.keys == (1, 2) and shared.side == 448
    far = [Target(1, (0, 0, 100, 50)), Target(2, (900, 450, 1000, 500))]
    assert plan(far, FRAME) == [
        Group(Window(0, 0, 250, 125), 448, (1,)), Group(Window(750, 375, 1000, 500), 448, (2,)),
    ]  # fmt: skip


def test_the_nearest_objects_share_where_the_budget_ends() -> None:
    targets = [Target(1, (0, 0, 60, 30)), Target(2, (940, 470, 1000, 500)), Target(3, (840, 470, 900, 500))]
    groups = plan(targets, FRAME)
    assert [group.keys for group in groups] == [(1,), (2, 3)] and {group.side for group in groups} == {448}
    rich = plan(targets, Frame(1000, 500, 448, 3 * USUAL, turns=1))
    assert [group.keys for group in rich] == [(1,), (2,), (3,)] and {group.side for group in rich} == {448}


@pytest.mark.parametrize(
    ("budget", "looks", "side"),
    [(USUAL, 1, 448), (2 * USUAL, 2, 448), (2 * USUAL - 20_000, 1, 448), (100_000, 1, 320), (1, 1, 64)],
)
def test_the_budget_decides_on_sizes(budget: int, looks: int, side: int) -> None:
    assert (most_looks(448, budget), input_side(448, budget)) == (looks, side)
    assert most_pixels(448, budget) == looks * side**2 and (side == 64 or looks * side**2 <= 1.05 * budget)


def test_more_objects_have_more_windows_until_the_bytes_would_grow() -> None:
    budgets = [default_budget(448, objects) for objects in range(100)]
    assert budgets[0] == USUAL and budgets[4] == 4 * USUAL
    looks = [most_looks(448, budget) for budget in budgets]
    assert looks[:5] == [1, 1, 2, 3, 4] and set(looks[8:]) == {MAX_LOOKS}


def test_a_grouping_stays_until_another_is_clearly_better() -> None:
    far = [Target(1, (0, 0, 100, 50)), Target(2, (900, 450, 1000, 500))]
    windows = {group.keys[0]: group.window for group in plan(far, FRAME)}
    # The second one comes nearer: its window follows, and each keeps its own.
    second = Target(2, (780, 380, 880, 430), 0, windows[2])
    groups = plan([Target(1, far[0].box, 0, windows[1]), second], FRAME, 1)
    assert [group.keys for group in groups] == [(1,), (2,)]
    assert groups[0].window == windows[1] and groups[1].window == Window(705, 342, 955, 467)
    # Both through the whole frame, which serves. Two windows are clearly better, on review.
    together = [Target(target.key, target.box, 0, WHOLE) for target in far]
    assert [len(plan(together, FRAME, index)) for index in (1, 15, 16)] == [1, 1, 2]


def test_a_new_object_is_given_a_place_beside_the_others() -> None:
    old = Target(1, MIDDLE, 0, AROUND)
    groups = plan([old, Target(2, (0, 0, 60, 30))], FRAME, 1)
    assert sorted(key for group in groups for key in group.keys) == [1, 2]
    assert next(group.window for group in groups if group.keys == (1,)) == AROUND
    # One that the old window serves joins it, between two reviews too; nothing else moves.
    far = Target(2, (0, 0, 60, 30), 0, Window(0, 0, 200, 100))
    groups = plan([replace(old, box=moved(60)), far, Target(3, moved(20))], FRAME, 1)
    assert groups == [Group(AROUND, 448, (1, 3)), Group(Window(0, 0, 200, 100), 448, (2,))]


def test_windows_of_another_image_size_do_not_count() -> None:
    assert alone((10, 10, 60, 40), window=Window(1000, 500, 1500, 750)) == window_for((10, 10, 60, 40), FRAME)


def test_what_was_seen_through_another_window_may_serve() -> None:
    target = Target(1, MIDDLE)
    assert serving(target, [WHOLE, AROUND], FRAME) == AROUND
    assert serving(target, [Window(200, 100, 800, 400), WHOLE], FRAME) == Window(200, 100, 800, 400)
    assert serving(target, [WHOLE, Window(0, 0, 500, 250)], FRAME) is None
    assert serving(Target(1, (0, 0, 1000, 500)), [AROUND, WHOLE], FRAME) == WHOLE


@pytest.mark.parametrize(("right", "down"), [(1, 0), (0, 1), (-1, 0), (0, -1)])
def test_a_window_serves_to_the_pixel(right: int, down: int) -> None:
    x0, y0, x1, y1 = (400, 240, 600, 260) if right else MIDDLE  # the longer side counts
    for pixels, found in ((0.9, AROUND), (1.1, None)):
        x, y = pixels * right, pixels * down
        assert serving(Target(1, (x0 + x, y0 + y, x1 + x, y1 + y)), [AROUND], FRAME) == found


def test_every_object_is_seen_however_many_there_are() -> None:
    rng = np.random.default_rng(0)
    for count in (2, 5, 16, 100, 1024):
        corners = rng.uniform(0, (900, 450), (count, 2))
        targets = [Target(key, (x, y, x + 40, y + 30)) for key, (x, y) in enumerate(corners.tolist())]
        before: dict[int, Window] = {}
        for index in range(3):
            groups = plan([Target(t.key, t.box, 0, before.get(t.key)) for t in targets], FRAME, index)
            assert sorted(key for group in groups for key in group.keys) == list(range(count))
            assert sum(group.side**2 for group in groups) <= 1.05 * FRAME.budget
            before = {key: group.window for group in groups for key in group.keys}
        for group in groups:
            for key in group.keys:
                x0, y0, x1, y1 = targets[key].box
                assert group.window.x0 <= x0 and group.window.y0 <= y0
                assert x1 <= group.window.x1 and y1 <= group.window.y1


def test_windows_take_turns() -> None:
    frame = Frame(1000, 500, 448, 2 * USUAL)
    corners = [(0, 0), (900, 0), (0, 450), (940, 470)]
    targets = [Target(key, (x, y, x + 60, y + 30), rested=9) for key, (x, y) in enumerate(corners)]
    groups = plan(targets, frame)
    assert [group.keys for group in groups] == [(0,), (1,), (2,), (3,)] and {group.side for group in groups} == {448}
    seen = []
    for _ in range(5):
        now = turn(groups, targets, frame)
        keys = {key for group in now for key in group.keys}
        targets = [replace(each, rested=0 if each.key in keys else each.rested + 1) for each in targets]
        seen.append(keys)
    assert seen == [{0, 1}, {2, 3}, {0, 1}, {2, 3}, {0, 1}]
    # A third window beside two that fit: the one that has rested comes first.
    groups, targets = groups[:3], targets[:3]
    assert [target.rested for target in targets] == [0, 0, 1]
    assert [group.keys for group in turn(groups, targets, frame)] == [(0,), (2,)]
    assert turn(groups[:2], targets[:2], frame) == groups[:2]
