"""The visibility contract: rules by themselves, and the engine that follows them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_tracker import (
    HEIGHT,
    WIDTH,
    add,
    box,
    click,
    logits,
    object_score,
    rectangle,
    run,
    scene,
    small_model,
    stepped,
)

from sam2_ros.media.rendered_scene import bounding_box, render
from sam2_ros.model import Sam2Model, load_model
from sam2_ros.tracking import ObjectState, Prompt, PromptRequest, Tracker, TrackerConfig
from sam2_ros.tracking.visibility import Observation, Presence, visibility_in_frame

VISIBLE, OCCLUDED, LOST = ObjectState.VISIBLE, ObjectState.OCCLUDED, ObjectState.LOST
SEEN, FAINT, GONE = Observation(True, 0.1, 0.9), Observation(False, 0.1, 0.9), Observation(False, 0.0, 0.9)


def follow(observation: list[Observation], config: TrackerConfig, bounded: bool = True) -> list[Presence]:
    """The presence after each observation, from a prompt of area 0.1 on frame 0."""
    presences = [Presence(-1).prompted(0, 0, 0.1, bounded, config)]
    for frame, one in enumerate(observation, start=1):
        presences.append(presences[-1].after(frame, frame, one, config))
    return presences[1:]


def states(observation: list[Observation], **options: float) -> str:
    """One letter a frame."""
    return "".join(presence.state.name[0] for presence in follow(observation, TrackerConfig(**options)))  # type: ignore[arg-type]


# -- probability ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seen", "share", "visibility"),
    [
        (0.0, 1.0, 0.0),  # the whole frame was looked at
        (0.3, 1.0, 0.3),
        (0.0, 0.0, 0.45),  # a tiny window says little of the frame
        (0.0, 0.2, 0.36),
        (0.25, 0.2, 0.43),
        (0.5, 0.2, 0.5),  # what is seen is in the frame
        (0.9, 0.2, 0.9),
    ],
)
def test_what_a_window_does_not_show_may_be_in_the_frame(seen: float, share: float, visibility: float) -> None:
    assert visibility_in_frame(seen, share) == pytest.approx(visibility)


@pytest.mark.parametrize("window", ["off", "on"])
def test_an_object_that_is_not_seen_in_its_window_is_less_surely_gone(window: str) -> None:
    tracker = Tracker(small_model(), TrackerConfig(max_objects=1, window=window))
    stepped(tracker, [rectangle(60, 50, 76, 62)])
    with object_score(small_model(), -2.0):
        one = run(tracker, 1, 1)[0].objects[0]
    x0, y0, x1, y1 = one.window
    share = (x1 - x0) * (y1 - y0) / (WIDTH * HEIGHT)
    assert one.state is OCCLUDED and one.object_score == pytest.approx(-2.0, abs=1e-4)
    assert share < 0.5 if window == "on" else share == 1
    missed, gone = 0.45 * (1 - share), 1 / (1 + np.exp(2.0))
    assert one.visibility == pytest.approx(missed + (1 - 2 * missed) * gone, abs=1e-5)


# -- hysteresis ----------------------------------------------------------------------------------------------


def test_by_default_what_is_seen_is_visible_at_once() -> None:
    assert states([SEEN, GONE, SEEN, FAINT, SEEN]) == "VOVOV"


def test_a_hidden_object_must_be_seen_on_some_frames_in_a_row() -> None:
    observation = [SEEN, GONE, SEEN, SEEN, GONE, SEEN, SEEN, SEEN, SEEN]
    assert states(observation, visible_after=3) == "VOOOOOOVV"


def test_a_visible_object_must_be_missed_on_some_frames_in_a_row() -> None:
    """As long as there is a mask to show: VISIBLE means that there is one."""
    assert states([SEEN, FAINT, FAINT, SEEN, FAINT, FAINT, FAINT, FAINT], occluded_after=3) == "VVVVVVOO"
    assert states([SEEN, FAINT, GONE, FAINT, FAINT], occluded_after=3) == "VVOOO"


def test_lost_after_frames_without_the_object() -> None:
    """Sightings of too few frames do not count."""
    observation = [SEEN, GONE, GONE, SEEN, GONE, GONE, SEEN, SEEN]
    assert states(observation, lost_after=3, visible_after=2) == "VOOOLLLV"


def test_last_seen_is_that_of_the_newest_visible_frame() -> None:
    presences = follow([SEEN, FAINT, SEEN, SEEN], TrackerConfig(visible_after=2))
    assert [(presence.last_seen, presence.absent_for) for presence in presences] == [(1, 0), (1, 1), (1, 2), (4, 0)]
    assert [presence.first_seen for presence in presences] == [0] * 4


def test_a_prompt_decides_at_once() -> None:
    config = TrackerConfig(visible_after=5, occluded_after=5, lost_after=2)
    hidden = follow([GONE, GONE, GONE], config)[-1]
    assert hidden.state is LOST
    assert hidden.prompted(4, 4, 0.1, True, config).state is VISIBLE
    assert hidden.prompted(4, 4, 0.0, True, config).state is LOST
    shown = follow([SEEN], config)[-1]
    assert shown.prompted(2, 2, 0.0, True, config).state is OCCLUDED


# -- masks that are not believed -----------------------------------------------------------------------------


def of(area: float, iou: float = 0.5) -> Observation:
    return Observation(True, area, iou)


def test_a_mask_that_explodes_is_not_believed() -> None:
    """More than four times its area within three sightings, at a low predicted IoU, until its size is normal again."""
    observation = [of(0.1), of(0.41), of(0.5), of(0.41), of(0.41), of(0.12), of(0.3)]
    assert states(observation) == "VOOOOVV"
    assert states(observation, explosion_factor=0) == "VVVVVVV"
    assert states(observation, explosion_factor=6) == "VVVVVVV"
    assert [presence.doubted for presence in follow(observation, TrackerConfig())] == [False, *[True] * 4, False, False]


def test_growth_in_steps_within_three_sightings_is_an_explosion_too() -> None:
    assert states([of(0.1), of(0.2), of(0.3), of(0.41)]) == "VVVO"
    assert states([of(0.1), of(0.2), of(0.3), of(0.35), of(0.41)]) == "VVVVV"
    assert states([of(0.05), of(0.1), of(0.205)]) == "VVO"
    assert states([of(0.05), of(0.1), of(0.205)], explosion_frames=1) == "VVV"


@pytest.mark.parametrize("iou", [0.7, 0.95])
def test_a_camera_that_moves_close_is_no_explosion(iou: float) -> None:
    """The network is sure of what it sees; or the object grows slowly."""
    assert states([of(0.1, iou), of(0.45, iou), of(0.9, iou)]) == "VVV"
    slowly = [of(0.1 * 1.5**step, 0.5) for step in range(6)]
    assert states(slowly) == "VVVVVV" and slowly[-1].area > 4 * slowly[0].area


def test_after_an_absence_an_object_may_have_any_size() -> None:
    assert states([of(0.1), GONE, GONE, of(0.5)]) == "VOOV"
    assert states([of(0.1), of(0.1), of(0.1), GONE, GONE, of(0.5)]) == "VVVOOO"


def test_an_absence_forgets_the_oldest_size_first() -> None:
    assert states([of(0.3), GONE, of(0.9)]) == "VOV"
    assert follow([of(0.3), of(0.2), GONE], TrackerConfig())[-1].areas == (0.3, 0.2)


def test_clicks_may_have_meant_a_part() -> None:
    """A mask from clicks is no reference for the area; one from a box or a mask is."""
    config = TrackerConfig()
    assert follow([of(0.5)], config, bounded=True)[0].state is OCCLUDED
    assert follow([of(0.5)], config, bounded=False)[0].state is VISIBLE


def test_a_mask_that_fills_the_frame_is_not_believed() -> None:
    """However sure the network is; unless the object was prompted so large."""
    assert states([of(0.94, 0.9), of(0.96, 0.99), of(0.5, 0.9)]) == "VOV"
    assert states([of(0.94, 0.9), of(0.96, 0.99), of(0.5, 0.9)], max_area=1.0) == "VVV"
    config = TrackerConfig()
    large = Presence(-1).prompted(0, 0, 0.97, True, config)
    assert large.after(1, 1, of(0.98, 0.9), config).state is VISIBLE


def test_a_speck_is_no_object() -> None:
    """Below 2 % of the largest area so far, which fades by 5 % a sighting."""
    assert states([of(0.1), of(0.0021, 0.9), of(0.0017, 0.9)]) == "VVO"
    assert states([of(0.1), GONE, GONE, of(0.0018, 0.9), of(0.002, 0.9)]) == "VOOOV"
    speck = follow([of(0.1), of(0.0018, 0.9)], TrackerConfig())[-1]
    assert speck.doubted and speck.areas == (0.1, 0.1)
    assert states([of(0.1), of(0.0018, 0.9)], reference_policy=True) == "VV"


def test_what_moves_away_may_become_small() -> None:
    away = [of(0.1 * 0.95**step, 0.9) for step in range(150)]
    assert away[-1].area < 0.02 * away[50].area
    assert states(away) == "V" * len(away)


def test_a_prompt_says_anew_how_large_an_object_is() -> None:
    config = TrackerConfig()
    part = follow([of(0.5, 0.9)], config)[-1].prompted(2, 2, 0.01, True, config)
    assert part.after(3, 3, of(0.009, 0.9), config).state is VISIBLE
    absent = part.prompted(3, 3, 0.0, True, config)
    assert absent.after(4, 4, of(0.0001, 0.9), config).state is OCCLUDED


def test_a_faint_mask_that_explodes_is_not_shown_either() -> None:
    assert states([SEEN, Observation(False, 0.5, 0.5)], occluded_after=3) == "VO"


# -- lost objects --------------------------------------------------------------------------------------------


def test_a_lost_object_is_looked_for_now_and_then() -> None:
    """And again at once where something was seen."""
    config = TrackerConfig(lost_after=2, search_every=3, visible_after=2)
    presence, due = follow([GONE, GONE], config)[-1], []
    for frame in range(3, 14):
        if presence.due(frame, config):
            due.append(frame)
            presence = presence.after(frame, frame, SEEN if frame in (9, 10) else GONE, config)
        else:
            presence = presence.passed(frame, frame, config)
    assert due == [3, 6, 9, 10, 11, 12, 13]  # LOST on 3, VISIBLE on 10, OCCLUDED from then on
    assert presence.state is LOST and presence.lost_since == 13


@contextmanager
def counted(model: Sam2Model, name: str) -> Iterator[Counter[str]]:
    calls: Counter[str] = Counter()
    handle = model.get_submodule(name).register_forward_hook(lambda *_: calls.update([name]))
    yield calls
    handle.remove()


def test_a_lost_object_costs_less_and_keeps_its_memory() -> None:
    tracker = Tracker(small_model(), TrackerConfig(max_objects=2, lost_after=3, search_every=4))
    stepped(tracker, [box()])
    run(tracker, 1, 10)
    with object_score(small_model(), -2.0):
        run(tracker, 11, 14)  # OCCLUDED, then LOST
        table, memory = tracker.bank.recent_frames.copy(), tracker.bank.spatial.clone()
        with counted(small_model(), "memory_attention") as looked, counted(small_model(), "memory_encoder") as encoded:
            results = run(tracker, 15, 26)
    assert looked == {"memory_attention": 3} and not encoded  # 18, 22, 26
    assert [result.objects[0].frames_since_seen for result in results] == list(range(5, 17))
    assert all(one.state is LOST and one.mask.area == 0 for result in results for one in result.objects)
    assert np.array_equal(tracker.bank.recent_frames, table) and torch.equal(tracker.bank.spatial, memory)
    found = {frame: result.objects[0].state for frame, result in zip(range(27, 32), run(tracker, 27, 31), strict=True)}
    assert found == {27: LOST, 28: LOST, 29: LOST, 30: VISIBLE, 31: VISIBLE}


def test_prompts_on_a_frame_on_which_a_lost_object_was_not_looked_for() -> None:
    tracker = Tracker(small_model(), TrackerConfig(max_objects=2, lost_after=1, search_every=50, non_overlap=True))
    stepped(tracker, [box(), rectangle(60, 15, 90, 45)])
    with object_score(small_model(), -2.0):
        run(tracker, 1, 5)
    assert {one.state for one in tracker.step(scene(6), 6).objects} == {LOST}
    assert tracker._objects[1].logits is None
    answer = tracker.refine(PromptRequest(click(60, 60), 1))
    assert answer.success and answer.result is not None and answer.result.state is VISIBLE
    assert tracker.step(scene(7), 7).object(1).state is VISIBLE


# -- the engine ----------------------------------------------------------------------------------------------


def test_a_doubted_mask_is_neither_shown_nor_remembered() -> None:
    """The drawn weights cover half of the frame with a predicted IoU of one half."""
    doubting, believing = (
        Tracker(small_model(), TrackerConfig(max_objects=1, explosion_factor=factor, explosion_iou=1.0))
        for factor in (1.5, 0.0)
    )
    for tracker in (doubting, believing):
        stepped(tracker, [rectangle(20, 60, 40, 80)])
    one, other = (run(tracker, 1, 1)[0].objects[0] for tracker in (doubting, believing))
    assert other.state is VISIBLE and other.mask.area > 1.5 * 20 * 20
    assert one.state is OCCLUDED and one.mask.area == 0
    assert (one.object_score, one.predicted_iou, one.visibility) == (
        other.object_score, other.predicted_iou, other.visibility,
    )  # fmt: skip
    assert 1 in believing.bank.recent_frames and 1 not in doubting.bank.recent_frames
    assert (logits(doubting, 1) > 0).any()  # the mask so far, which a correction may build on


def zoomed(
    rgb: NDArray[np.uint8], mask: NDArray[np.bool_], rate: float, count: int
) -> Iterator[tuple[NDArray, NDArray]]:
    """A camera that moves close to the middle of ``mask``, by ``rate`` in each frame."""
    height, width = mask.shape
    x0, y0, x1, y1 = bounding_box(mask)
    middle, centre = np.array([(x0 + x1) / 2, (y0 + y1) / 2]), np.array([width, height]) / 2
    for index in range(count):
        scale = rate**index
        target = middle + (centre - middle) * min(1.0, index / 4)
        matrix = np.array([[scale, 0, 0], [0, scale, 0]])
        matrix[:, 2] = target - scale * middle
        image = cv2.warpAffine(rgb, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)
        yield np.asarray(image, np.uint8), cv2.warpAffine(mask.astype(np.uint8), matrix, (width, height)) > 0


def test_a_real_camera_that_moves_close_keeps_its_object() -> None:
    """The embedded model, a book that grows from a twentieth of the frame to two thirds of it in five frames."""
    first = next(render(2, 320, 240, post=False))
    tracker = Tracker(load_model("embedded"), TrackerConfig(max_objects=1))
    areas = []
    for index, (rgb, truth) in enumerate(zoomed(first.rgb, first.masks[2], 1.3, 6)):
        result = tracker.step(rgb, index)
        if index == 0:
            add(tracker, Prompt(box=np.array(bounding_box(truth), np.float32)))
            continue
        (one,) = result.objects
        mask = one.mask.full()
        assert one.state is VISIBLE
        assert np.count_nonzero(mask & truth) / np.count_nonzero(mask | truth) > 0.85
        areas.append(one.mask.area)
    assert any(later > 4 * earlier for earlier, later in zip(areas, areas[3:], strict=False)), areas
    assert all(later > earlier for earlier, later in pairwise(areas))


def test_late_prompts_and_lost_objects_go_together() -> None:
    """The frames on which an object is searched for are those of a prompt in time."""
    config = TrackerConfig(max_objects=1, lost_after=1, search_every=3)
    late, in_time = Tracker(small_model(), config), Tracker(small_model(), config)
    second = 1_000_000_000

    def see(tracker: Tracker, first: int, last: int) -> None:
        for frame in range(first, last + 1):
            tracker.step(scene(frame), (1 + frame) * second)

    see(late, 0, 1)
    add(late, box())
    with object_score(small_model(), -2.0):
        see(late, 2, 8)
        assert late.refine(PromptRequest(rectangle(0, 0, 0, 0), 1), 5 * second).success
    see(in_time, 0, 1)
    add(in_time, box())
    with object_score(small_model(), -2.0):
        see(in_time, 2, 4)
        assert in_time.refine(PromptRequest(rectangle(0, 0, 0, 0), 1)).success
        see(in_time, 5, 8)
    assert late._objects[1].presence == in_time._objects[1].presence
    assert late.bank.ticks.tolist() == in_time.bank.ticks.tolist()
    assert replace(late._objects[1].presence, frame=0).state is LOST
