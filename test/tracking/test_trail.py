"""Where objects were seen lately, and the parts of masks that are theirs: each rule by itself, and in the engine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sam2_reference import difference
from small_tracker import add, box, click, logits, run, scene, small_model, stepped

from sam2_ros.model.sam2 import Sam2Model
from sam2_ros.tracking import Prompt, PromptRequest, Tracker, TrackerConfig
from sam2_ros.tracking.mask_parts import STEADY_GAP, masks_of, own_masks, trail_after_prompt, update_trails
from sam2_ros.tracking.trail import Parts, Trail, own_parts, parts_within
from sam2_ros.tracking.visibility import Observation


def moving(frames: int, step: float = 0.05) -> Trail:
    """An object of 0.1 x 0.1 that moves to the right from x = 0.1."""
    trail = Trail()
    for frame in range(frames):
        x = 0.1 + step * frame
        trail = trail.seen(frame, (x, 0.4, x + 0.1, 0.5), 0.01)
    return trail


def parts(*lefts: float, area: float = 0.01) -> Parts:
    return Parts(np.full(len(lefts), area), np.array([[x, 0.4, x + 0.1, 0.5] for x in lefts]))


def test_a_trail_goes_on_at_its_speed() -> None:
    predicted = moving(4).predicted(6)
    assert predicted is not None and predicted == pytest.approx([0.4, 0.4, 0.5, 0.5])
    assert moving(1).predicted(2) == pytest.approx([0.1, 0.4, 0.2, 0.5])  # how fast it is, nobody knows yet
    assert Trail().predicted(2) is None and moving(4).predicted(40) is None
    assert len(moving(50).frames) == 10  # it does not grow
    assert moving(3).seen(2, (0, 0, 1, 1), 1.0).boxes[-1] == (0, 0, 1, 1)  # a prompt replaces its frame's sighting
    assert moving(3).seen(2, (0, 0, 1, 1), 1.0).frames == (0, 1, 2)


def test_a_trail_knows_its_last_step_and_its_usual_size() -> None:
    trail = moving(4).seen(6, (0.45, 0.3, 0.75, 0.4), 0.03)  # the middle moves by 0.3 and -0.1 in three frames
    assert trail.step == pytest.approx([0.1, -0.1 / 3])
    assert trail.usual_size == pytest.approx([0.1, 0.1])
    assert Trail().step.tolist() == Trail().usual_size.tolist() == moving(1).step.tolist() == [0, 0]


def test_parts_where_the_object_was_not_heading_are_another_ones() -> None:
    trail = moving(4)  # at 0.3 on frame 4
    assert own_parts(parts(0.3, 0.6), trail, 4).tolist() == [True, False]
    assert own_parts(parts(0.31, 0.33), trail, 4).tolist() == [True, True]  # behind a thin post
    assert own_parts(parts(0.45, 0.8), trail, 4).tolist() == [True, False]  # the nearest one
    assert own_parts(parts(0.8), trail, 4).tolist() == [True]  # an object may jump
    assert own_parts(parts(0.3, 0.6), Trail(), 4).tolist() == [True, True]
    assert own_parts(parts(0.1, 0.7), moving(1), 1).tolist() == [True, False]  # prompted on the frame before
    assert own_parts(parts(0.5, 0.9), moving(4), 9).tolist() == [True, False]  # unseen for a while


def test_a_speck_near_a_part_that_jumped_is_the_objects_and_one_far_away_is_not() -> None:
    boxes = np.array([[0.8, 0.4, 0.9, 0.5], [0.82, 0.38, 0.83, 0.39], [0.1, 0.9, 0.11, 0.91]])
    found = own_parts(Parts(np.array([0.01, 0.0001, 0.0001]), boxes), moving(4), 4)
    assert found.tolist() == [True, True, False]


def test_small_parts_that_the_prompt_meant_stay() -> None:
    """A paraglider under the wing: the box of the large part is the wing's alone."""
    boxes, areas = np.array([[0.1, 0.4, 0.2, 0.5], [0.14, 0.64, 0.16, 0.68]]), np.array([0.01, 0.0005])
    alone = moving(1)
    assert own_parts(Parts(areas, boxes), alone, 1).tolist() == [True, False]
    assert own_parts(Parts(areas, boxes), replace(alone, extent=(0.1, 0.3)), 1).tolist() == [True, True]
    mask = torch.full((1, 100, 100), -1.0)
    for x0, y0, x1, y1 in (boxes * 100).round().astype(int):
        mask[0, y0:y1, x0:x1] = 1.0
    assert trail_after_prompt(Trail(), 0, mask, bounded=True).extent == pytest.approx((0.1, 0.28))
    clicked = trail_after_prompt(Trail(), 0, mask, bounded=False)
    assert clicked.extent == pytest.approx((0.1, 0.1)) and clicked.boxes[-1] == pytest.approx(boxes[0])


def test_of_a_box_prompts_mask_the_parts_in_the_box_are_meant() -> None:
    assert parts_within(parts(0.3, 0.6), np.array([0.29, 0.4, 0.41, 0.5])).tolist() == [True, False]
    assert parts_within(parts(0.3, 0.6), np.array([0.0, 0.0, 0.1, 0.1])).tolist() == [True, True]


@pytest.mark.parametrize("reject", [True, False])
def test_what_a_box_prompt_draws_beside_the_box_is_not_its_object(
    reject: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mask in the answer and the one that is remembered; clicks beside the box may mean what lies there."""

    def drawn(model: Any, *given: Any) -> Any:
        out = decode(model, *given)
        logits = torch.full_like(out.logits, -3.0)
        logits[..., 10:20, 10:20] = logits[..., 22:24, 22:24] = 5.0  # of 32 x 32
        return replace(out, logits=logits, object_score=out.object_score.abs() + 1)

    decode = Sam2Model.decode
    monkeypatch.setattr(Sam2Model, "decode", drawn)
    tracker = Tracker(small_model(), TrackerConfig(max_objects=2, reject_strays=reject))
    tracker.step(scene(0), 0)
    height, width = scene(0).shape[:2]
    low = tracker.model.config.image_size // 4
    edges = np.array([10 * width, 10 * height, 20 * width, 20 * height], np.float32) / np.float32(low)
    alone, clicked = (
        tracker.add([PromptRequest(prompt)])[0]
        for prompt in (
            Prompt(box=edges),
            Prompt(box=edges, points=np.array([[23 * width / low, 23 * height / low]]), labels=np.array([1])),
        )
    )
    assert alone.result is not None and clicked.result is not None
    right = alone.result.mask.box[2]
    assert right <= edges[2] + 2 if reject else right > edges[2] + 2
    assert clicked.result.mask.box[2] > edges[2] + 2


def test_another_ones_part_is_taken_out_of_the_mask() -> None:
    tracker = Tracker(small_model(), TrackerConfig(max_objects=1))
    stepped(tracker, [box()])
    (one,) = tracker._objects.values()
    one.trail = moving(4)
    drawn = torch.full((1, 1, 100, 100), -3.0)
    drawn[0, 0, 40:50, 30:40] = drawn[0, 0, 40:50, 70:80] = 5.0
    own = own_masks(drawn, [one], 4, masks_of(drawn))
    assert own.changed.tolist() == [True] and own.boxes[0] == pytest.approx([0.3, 0.4, 0.4, 0.5])
    assert int((own.logits > 0).sum()) == 100 and (own.logits[0, 0, 40:50, 30:40] == 5).all()
    assert int((drawn > 0).sum()) == 200  # what came in is left as it was
    assert not own_masks(drawn, [one], 4, masks_of(drawn), rejects_strays=False).changed.any()


@pytest.mark.parametrize("window", [(0.0, 0.0, 1.0, 1.0), (0.25, 0.3, 0.5, 0.4)])
def test_masks_in_a_window_are_measured_in_shares_of_the_frame(window: tuple[float, float, float, float]) -> None:
    left, top, wide, high = window
    whole = torch.full((1, 100, 100), -3.0)
    whole[0, 40:50, 30:60] = whole[0, 60:62, 70:72] = 5.0
    seen = whole[:, round(100 * top) : round(100 * (top + high)), round(100 * left) : round(100 * (left + wide))]
    for bounded, extent in ((True, (0.42, 0.22)), (False, (0.3, 0.1))):  # a box means small parts, too
        trail = trail_after_prompt(Trail(), 3, seen, bounded, window)
        assert trail.frames == (3,) and trail.areas == pytest.approx((0.0304,))
        assert trail.boxes[0] == pytest.approx((0.3, 0.4, 0.6, 0.5)) and trail.extent == pytest.approx(extent)


# -- the engine ----------------------------------------------------------------------------------------------


def test_objects_that_do_not_look_alike_are_tracked_together_as_alone() -> None:
    """And the bank is as large at the end."""
    config = TrackerConfig(max_objects=3, look_alikes=False)
    together, alone = Tracker(small_model(), config), Tracker(small_model(), config)
    size = together.bank.nbytes
    stepped(together, [box(), click(90, 40)])
    stepped(alone, [click(90, 40)])
    for tracker in (together, alone):
        run(tracker, 1, 12)
    assert together.bank.nbytes == size
    assert difference(logits(together, 2), logits(alone, 1)) <= 1e-4


def test_a_prompt_begins_a_trail() -> None:
    tracker = Tracker(small_model(), TrackerConfig(max_objects=1))
    tracker.step(scene(0), 0)
    add(tracker, box())
    trail = tracker._objects[1].trail
    assert trail.frames == (0,) and all(0 <= edge <= 1 for edge in trail.boxes[0])


def test_what_stays_at_another_size_has_that_size_from_then_on() -> None:
    """As after a change of the camera's distance; a shorter change is a merge with something else."""
    tracker = Tracker(small_model(), TrackerConfig(max_objects=1))
    stepped(tracker, [box()])
    (one,) = tracker._objects.values()
    one.trail = moving(4)
    drawn = torch.full((1, 1, 100, 100), -3.0)
    drawn[0, 0, 20:80, 20:80] = 5.0
    observed, presence = Observation(True, 0.36, 0.9), replace(one.presence, seen_run=1)
    for frame, newest in ((4, 3), (3 + STEADY_GAP, 3), (4 + STEADY_GAP, 4 + STEADY_GAP)):
        own = own_masks(drawn, [one], frame, masks_of(drawn), rejects_strays=False)
        update_trails([one], frame, own, [observed], [presence])
        assert one.trail.frames[-1] == newest
    assert one.trail.boxes[-1] == pytest.approx((0.2, 0.2, 0.8, 0.8))
