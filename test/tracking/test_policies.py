"""Memory policies: each rule by itself, and the engine that follows them."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sam2_reference import difference
from small_tracker import add, box, click, logits, run, scene, small_model, stepped

from sam2_ros.model.sam2 import Sam2Model
from sam2_ros.tracking import Prompt, PromptRequest, Tracker, TrackerConfig
from sam2_ros.tracking.mask_parts import STEADY_GAP, choose_candidates, own_masks, trail_after_prompt, update_trails
from sam2_ros.tracking.policies import (
    POLICIES,
    DistractorPolicy,
    MemoryPolicy,
    Parts,
    RecentPolicy,
    Trail,
    parts_within,
    policy_of,
)
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


def test_masks_whole_as_in_sam_2_where_strays_are_not_rejected() -> None:
    assert type(policy_of("recent", rejects_strays=False)) is MemoryPolicy
    assert type(policy_of("distractor_aware", rejects_strays=False)) is DistractorPolicy
    policy = MemoryPolicy()
    assert policy.choose(np.array([[0.2, 0.9, 0.5]]), np.zeros((1, 3, 4)), [Trail()], 0).tolist() == [1]
    assert policy.own_parts(parts(0.1, 0.7), moving(4), 4).tolist() == [True, True]
    assert policy.enters(np.array([0.1]), np.array([0.9]), [moving(4)]).tolist() == [True]


def test_distractor_aware_prefers_the_candidate_where_the_object_was_heading() -> None:
    """For all objects at once; without a past, the predicted IoU alone counts."""
    boxes = np.array([[[0.3, 0.4, 0.4, 0.5], [0.7, 0.4, 0.8, 0.5], [0, 0, 0, 0]]])
    ious, trails = np.array([[0.8, 0.9, 0.1]] * 2), [moving(4), Trail()]
    assert DistractorPolicy().choose(ious, boxes.repeat(2, axis=0), trails, 4).tolist() == [0, 1]


@pytest.mark.parametrize("name", list(POLICIES))
def test_parts_where_the_object_was_not_heading_are_another_ones(name: str) -> None:
    policy, trail = policy_of(name), moving(4)  # at 0.3 on frame 4
    assert policy.own_parts(parts(0.3, 0.6), trail, 4).tolist() == [True, False]
    assert policy.own_parts(parts(0.31, 0.33), trail, 4).tolist() == [True, True]  # behind a thin post
    assert policy.own_parts(parts(0.45, 0.8), trail, 4).tolist() == [True, False]  # the nearest one
    assert policy.own_parts(parts(0.8), trail, 4).tolist() == [True]  # an object may jump
    assert policy.own_parts(parts(0.3, 0.6), Trail(), 4).tolist() == [True, True]
    assert policy.own_parts(parts(0.1, 0.7), moving(1), 1).tolist() == [True, False]  # prompted on the frame before
    assert policy.own_parts(parts(0.5, 0.9), moving(4), 9).tolist() == [True, False]  # unseen for a while


def test_a_speck_near_a_part_that_jumped_is_the_objects_and_one_far_away_is_not() -> None:
    boxes = np.array([[0.8, 0.4, 0.9, 0.5], [0.82, 0.38, 0.83, 0.39], [0.1, 0.9, 0.11, 0.91]])
    found = RecentPolicy().own_parts(Parts(np.array([0.01, 0.0001, 0.0001]), boxes), moving(4), 4)
    assert found.tolist() == [True, True, False]


def test_small_parts_that_the_prompt_meant_stay() -> None:
    """A paraglider under the wing: the box of the large part is the wing's alone."""
    boxes, areas = np.array([[0.1, 0.4, 0.2, 0.5], [0.14, 0.64, 0.16, 0.68]]), np.array([0.01, 0.0005])
    alone = moving(1)
    assert RecentPolicy().own_parts(Parts(areas, boxes), alone, 1).tolist() == [True, False]
    assert RecentPolicy().own_parts(Parts(areas, boxes), replace(alone, extent=(0.1, 0.3)), 1).tolist() == [True, True]
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


def test_distractor_aware_remembers_frames_of_the_usual_size() -> None:
    ious, areas = np.array([0.9, 0.5, 0.9, 0.9]), np.array([0.011, 0.01, 0.02, 0.004])
    assert DistractorPolicy().enters(ious, areas, [moving(4)] * 4).tolist() == [True, True, False, False]


def test_an_anchor_is_a_sure_frame_on_which_a_look_alike_was_rejected() -> None:
    trails = [moving(4)] * 4
    ious, areas, rejected = np.array([0.9, 0.9, 0.6, 0.9]), np.full(4, 0.01), np.array([True, False, True, True])
    trails[3] = Trail(trails[3].frames, trails[3].boxes, trails[3].areas, anchor=2)
    assert DistractorPolicy().anchored(ious, areas, rejected, trails, 4).tolist() == [True, False, False, False]


def test_another_ones_part_is_taken_out_of_the_mask() -> None:
    tracker = Tracker(small_model(), TrackerConfig(max_objects=1))
    stepped(tracker, [box()])
    (one,) = tracker._objects.values()
    one.trail = moving(4)
    drawn = torch.full((1, 1, 100, 100), -3.0)
    drawn[0, 0, 40:50, 30:40] = drawn[0, 0, 40:50, 70:80] = 5.0
    own = own_masks(DistractorPolicy(), drawn, [one], 4)
    assert own.rejected.tolist() == [True] and own.boxes[0] == pytest.approx([0.3, 0.4, 0.4, 0.5])
    assert int((own.logits > 0).sum()) == 100 and (own.logits[0, 0, 40:50, 30:40] == 5).all()
    assert int((drawn > 0).sum()) == 200  # what came in is left as it was
    assert not own_masks(MemoryPolicy(), drawn, [one], 4).rejected.any()


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
    given: list[Any] = []

    def choose(*values: Any) -> Any:
        given.append(values)
        return np.array([2])

    policy: Any = SimpleNamespace(chooses=True, choose=choose)
    empty = torch.full_like(seen, -3.0)
    decoded: Any = SimpleNamespace(
        logits=torch.stack((empty[0], seen[0], empty[0], seen[0]))[None], ious=torch.tensor([[0.9, 0.1, 0.2, 0.3]])
    )
    chosen = choose_candidates(policy, decoded, [SimpleNamespace(trail=Trail())], 7, window)  # type: ignore[list-item]
    ((ious, boxes, _, frame),) = given
    assert chosen is not None and chosen.tolist() == [2] and frame == 7
    assert ious[0] == pytest.approx([0.1, 0.2, 0.3])
    assert boxes[0] == pytest.approx(np.array([[0.3, 0.4, 0.72, 0.62], [0, 0, 0, 0], [0.3, 0.4, 0.72, 0.62]]))


# -- the engine ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", list(POLICIES))
def test_policies_run_batched_and_in_the_same_memory(policy: str) -> None:
    """Tracked together as alone; the bank is as large at the end."""
    config = TrackerConfig(max_objects=3, memory_policy=policy)
    together, alone = Tracker(small_model(), config), Tracker(small_model(), config)
    size = together.bank.nbytes
    stepped(together, [box(), click(90, 40)])
    stepped(alone, [click(90, 40)])
    for tracker in (together, alone):
        run(tracker, 1, 12)
    assert together.bank.nbytes == size
    assert difference(logits(together, 2), logits(alone, 1)) <= 1e-4


def test_anchors_have_slots_of_their_own() -> None:
    """The oldest gives way; prompts and anchors don't push each other out; a late prompt forgets later anchors."""
    plain = Tracker(small_model(), TrackerConfig(max_objects=1))
    tracker = Tracker(small_model(), TrackerConfig(max_objects=1, memory_policy="distractor_aware", prompted_slots=2))
    assert tracker.bank.spatial.shape[1] == plain.bank.spatial.shape[1] - 2 + 3
    stepped(tracker, [box()])
    run(tracker, 1, 3)
    memory, pointer = torch.ones(64, 64), torch.ones(256)
    for frame in (3, 4, 5, 6):
        tracker.bank.store_anchor(0, frame, memory, pointer)
    tracker.refine(PromptRequest(click(60, 60), 1))
    assert tracker.bank.conditioning_frames[0].tolist() == [0, 3, 6, 4, 5]
    tracker.bank.forget_from(0, 5)
    assert tracker.bank.conditioning_frames[0].tolist() == [0, 3, -1, 4, -1]


def test_frames_that_do_not_enter_leave_the_memory_as_it_was() -> None:
    class SureFramesOnly(RecentPolicy):
        """The predicted IoU of the drawn weights is too low for it."""

        def enters(self, ious: Any, areas: Any, trails: Any) -> Any:
            return ious >= 0.7

    tracker = Tracker(copy.copy(small_model()), TrackerConfig(max_objects=1))
    tracker._propagation.policy = SureFramesOnly()
    (one,) = stepped(tracker, [click()])
    memory = tracker.bank.spatial.clone()
    results = run(tracker, 1, 5)
    assert all(result.object(one).predicted_iou < 0.7 and result.object(one).mask.area for result in results)
    assert torch.equal(tracker.bank.spatial, memory)


def test_unknown_policies_are_refused() -> None:
    with pytest.raises(ValueError, match="memory_policy is 'best'; accepted: recent, distractor_aware"):
        TrackerConfig(memory_policy="best")
    with pytest.raises(ValueError, match="accepted with reference_policy: recent"):
        TrackerConfig(memory_policy="distractor_aware", reference_policy=True)


def test_a_prompt_begins_a_trail() -> None:
    tracker = Tracker(small_model(), TrackerConfig(max_objects=1, memory_policy="distractor_aware"))
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
        own = own_masks(MemoryPolicy(), drawn, [one], frame)
        update_trails(MemoryPolicy(), [one], frame, own, [observed], [presence])
        assert one.trail.frames[-1] == newest
    assert one.trail.boxes[-1] == pytest.approx((0.2, 0.2, 0.8, 0.8))
