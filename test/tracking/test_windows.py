"""Where windows lie: worked by hand for a frame of 1000 x 500 pixels and a network of 448."""

from __future__ import annotations

import numpy as np
import pytest

from sam2_ros.tracking.windows import MOST, Frame, Group, Target, Window, most_views, plan, serving

FRAME = Frame(1000, 500, 448)
WHOLE = Window(0, 0, 1000, 500)
MIDDLE = (450.0, 200.0, 550.0, 300.0)  # a fifth of the frame high: its window is half of the frame
AROUND = Window(250, 125, 750, 375)


def alone(
    box: tuple[float, float, float, float],
    window: Window | None = AROUND,
    seen: tuple[float, float, float, float] | None = None,
) -> Window:
    """The window of a single object that is expected in ``box``, and had ``seen`` in ``window`` before."""
    (group,) = plan([Target(7, box, window, seen)], FRAME)
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
    assert FRAME.window(box) == window
    assert plan([Target(1, box)], FRAME) == [Group(window, 448, (1,))]


def test_windows_have_the_shape_of_the_frame() -> None:
    for width, height in ((640, 480), (1920, 1080), (480, 800), (37, 1000)):
        window = Frame(width, height, 64).window((width / 2, height / 2, width / 2 + 0.2 * width, height / 2 + 9))
        assert 0 <= window.x0 < window.x1 <= width and 0 <= window.y0 < window.y1 <= height
        assert window.width / width == pytest.approx(window.height / height, abs=0.02)


def test_a_tiny_image_is_seen_whole() -> None:
    for width, height in ((64, 48), (1, 1), (110, 80)):
        frame = Frame(width, height, 448)
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
        (moved(0, grown=1.5), Window(150, 75, 850, 425)),  # 0.75 of the frame are wanted, but 0.7 are 1.4 times more
        (moved(0, grown=2.2), Window(150, 75, 850, 425)),  # the whole frame is
        (moved(0, grown=2.4), WHOLE),  # 1.5 times the box are 360 pixels high
        (moved(0, grown=0.75), AROUND),
        (moved(0, grown=0.7), Window(322, 160, 679, 339)),  # 0.35 are wanted, 0.5 / 1.4 are less of a step
        (moved(0, grown=0.1), Window(322, 160, 679, 339)),
    ],
)
def test_a_window_stays_while_it_serves(box: tuple[float, float, float, float], window: Window) -> None:
    assert alone(box) == window


def test_a_window_grows_to_the_whole_frame_in_steps() -> None:
    """What is suddenly seen much smaller may fit the memory worse than another thing does."""
    window, near, seen = AROUND, moved(0, grown=2), []
    for _ in range(3):
        window = alone(near, window=window)
        seen.append(window)
    assert seen == [Window(150, 75, 850, 425), Window(10, 5, 990, 495), WHOLE]


def test_a_mask_that_the_window_cuts_widens_it() -> None:
    cut = (250.0, 200.0, 450.0, 300.0)
    assert alone(cut, seen=cut).width == 650  # 0.2 x 2.5 x 1.3 of the frame
    at_the_border = Window(0, 125, 500, 375)
    left = (0.0, 200.0, 200.0, 300.0)
    assert alone(left, window=at_the_border, seen=left) == at_the_border  # cut by the frame, not by the window


@pytest.mark.parametrize(
    ("window", "edges", "cut"),
    [
        (AROUND, (255, 200, 500, 300), True), (AROUND, (256, 200, 500, 300), False),  # within a hundredth of its side
        (AROUND, (400, 127, 500, 300), True), (AROUND, (400, 128, 500, 300), False),
        (AROUND, (400, 200, 745, 300), True), (AROUND, (400, 200, 744, 300), False),
        (AROUND, (400, 200, 500, 373), True), (AROUND, (400, 200, 500, 372), False),
        (AROUND, (400, 200, 500, 376), True),
        (Window(1, 125, 501, 375), (0, 200, 450, 300), True), (Window(0, 125, 500, 375), (0, 200, 450, 300), False),
        (Window(250, 1, 750, 251), (400, 0, 500, 100), True), (Window(250, 0, 750, 250), (400, 0, 500, 100), False),
        (Window(499, 125, 999, 375), (550, 200, 1000, 300), True),
        (Window(500, 125, 1000, 375), (550, 200, 1000, 300), False),
        (Window(250, 249, 750, 499), (400, 400, 500, 500), True),
        (Window(250, 250, 750, 500), (400, 400, 500, 500), False),
    ],
)  # fmt: skip
def test_a_mask_is_cut_where_it_reaches_an_edge_that_is_not_the_frames(
    window: Window, edges: tuple[float, float, float, float], cut: bool
) -> None:
    box = moved(0, grown=1.2)  # wanted are 600 pixels, or 780 for a mask that was cut, of which it gets 700
    box = tuple(np.add(box, [(window.x0 + window.x1) / 2 - 500, (window.y0 + window.y1) / 2 - 250] * 2).tolist())
    assert alone(box, window=window, seen=edges).width == (700 if cut else 500)


def test_edges_lie_in_the_frame_and_sizes_are_shares_of_it() -> None:
    assert Window(250, 50, 750, 200).shares(1000, 500) == (0.25, 0.1, 0.5, 0.3)
    assert FRAME.share_of(Window(0, 0, 200, 450)) == 0.9 and FRAME.share_of(Window(0, 0, 800, 100)) == 0.8
    assert FRAME.surroundings((0, 0, 100, 50), 2) == (0, 0, 150, 75)
    assert FRAME.surroundings((10, 10, 110, 60), 2) == (0, 0, 160, 85)
    assert FRAME.surroundings((890, 440, 990, 490), 2) == (840, 415, 1000, 500)
    assert FRAME.has(WHOLE) and not FRAME.has(Window(0, 0, 1001, 500)) and not FRAME.has(Window(0, 0, 1000, 501))
    assert AROUND.holds((249, 124, 751, 376))
    for further in ((248, 124, 751, 376), (249, 123, 751, 376), (249, 124, 752, 376), (249, 124, 751, 377)):
        assert not AROUND.holds(further)


def test_a_window_has_a_pixel_at_least() -> None:
    assert Frame(1000, 2, 64).window((0, 0, 1, 0.2)) == Window(0, 0, 250, 1)
    assert Frame(2, 1000, 64).window((0, 0, 0.2, 1)) == Window(0, 0, 1, 250)


def test_what_was_seen_in_full_and_leaves_its_window_gets_one_of_the_same_size() -> None:
    assert alone(moved(260), seen=moved(130)) == Window(500, 125, 1000, 375)


def test_every_object_has_its_own_window() -> None:
    near = [Target(1, (400, 200, 460, 240)), Target(2, (430, 200, 490, 240))]
    assert plan(near, FRAME) == [
        Group(Window(330, 170, 530, 270), 448, (1,)), Group(Window(360, 170, 560, 270), 448, (2,)),
    ]  # fmt: skip
    large = [Target(1, (0, 0, 1000, 500)), Target(2, (300, 100, 700, 400)), Target(3, MIDDLE)]
    assert plan(large, FRAME) == [Group(WHOLE, 448, (1, 2)), Group(AROUND, 448, (3,))]


def test_the_smallest_objects_have_windows_and_keep_them() -> None:
    corners = [(100 * index, 50 * index) for index in range(MOST)]
    small = [Target(key, (x, y, x + 40 + key, y + 20)) for key, (x, y) in enumerate(corners)]
    groups = plan([Target(99, MIDDLE), *small], FRAME)
    assert [group.keys for group in groups] == [(99,), *((key,) for key in range(MOST))]
    assert groups[0].window == WHOLE and most_views(MOST + 1) == len(groups) == MOST + 1
    # A smaller one comes: who has a window keeps it.
    having = [Target(each.key, each.box, group.window) for each, group in zip(small, groups[1:], strict=True)]
    tiny = Target(100, (950, 20, 960, 25), WHOLE)
    groups = plan([tiny, *having], FRAME)
    assert groups[0] == Group(WHOLE, 448, (100,)) and [group.window for group in groups[1:]] == [
        each.window for each in having
    ]
    assert [most_views(objects) for objects in (1, 2, MOST, MOST + 1, 1024)] == [1, 2, MOST, MOST + 1, MOST + 1]


def test_windows_of_another_image_size_do_not_count() -> None:
    assert alone((10, 10, 60, 40), window=Window(1000, 500, 1500, 750)) == FRAME.window((10, 10, 60, 40))


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
        for _ in range(3):
            groups = plan([Target(t.key, t.box, before.get(t.key)) for t in targets], FRAME)
            assert sorted(key for group in groups for key in group.keys) == list(range(count))
            assert len(groups) <= most_views(count)
            before = {key: group.window for group in groups for key in group.keys}
        for group in groups:
            for key in group.keys:
                x0, y0, x1, y1 = targets[key].box
                assert group.window.x0 <= x0 and group.window.y0 <= y0
                assert x1 <= group.window.x1 and y1 <= group.window.y1


def test_a_window_is_found_in_a_smaller_picture_of_its_frame() -> None:
    assert Window(0, 20, 160, 110).scaled(160, 120, 80, 60) == Window(0, 10, 80, 55)
    assert Window(0, 0, 160, 120).scaled(160, 120, 90, 61) == Window.whole(90, 61)
    assert Window(159, 119, 160, 120).scaled(160, 120, 3, 2) == Window(2, 1, 3, 2), "it holds a pixel"
