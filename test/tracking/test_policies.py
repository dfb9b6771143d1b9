"""Memory policies: each rule by itself, and the engine that follows them."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from sam2_reference import difference
from small_tracker import add, box, click, logits, run, scene, small_model, stepped

from sam2_ros.tracking import AddRequest, Tracker, TrackerConfig
from sam2_ros.tracking.looking import own_masks
from sam2_ros.tracking.policies import POLICIES, DistractorPolicy, Drawn, MemoryPolicy, Parts, QualityPolicy, Trail


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
    assert moving(1).predicted(2) is None and moving(4).predicted(40) is None
    assert len(moving(50).frames) == 10  # it does not grow
    assert moving(3).seen(2, (0, 0, 1, 1), 1.0).boxes[-1] == (0, 0, 1, 1)  # a prompt replaces its frame's sighting
    assert moving(3).seen(2, (0, 0, 1, 1), 1.0).frames == (0, 1, 2)


def test_recent_takes_the_best_and_everything() -> None:
    policy, drawn = MemoryPolicy(), Drawn(np.array([[0.2, 0.9, 0.5]]), np.full((1, 3), 0.1), np.zeros((1, 3, 4)))
    assert policy.choose(drawn, [Trail()], 0).tolist() == [1]
    assert policy.own_parts(parts(0.1, 0.7), moving(4), 4).tolist() == [True, True]
    assert policy.enters(np.array([0.1]), np.array([0.9]), [moving(4)]).tolist() == [True]


def test_quality_prefers_the_candidate_where_the_object_was_heading() -> None:
    """For all objects at once; without a past, the predicted IoU alone counts."""
    boxes = np.array([[[0.3, 0.4, 0.4, 0.5], [0.7, 0.4, 0.8, 0.5], [0, 0, 0, 0]]])
    drawn = Drawn(np.array([[0.8, 0.9, 0.1]] * 2), np.full((2, 3), 0.01), boxes.repeat(2, axis=0))
    assert QualityPolicy().choose(drawn, [moving(4), Trail()], 4).tolist() == [0, 1]


def test_parts_where_the_object_was_not_heading_are_another_ones() -> None:
    policy, trail = QualityPolicy(), moving(4)  # at 0.3 on frame 4
    assert policy.own_parts(parts(0.3, 0.6), trail, 4).tolist() == [True, False]
    assert policy.own_parts(parts(0.31, 0.33), trail, 4).tolist() == [True, True]  # behind a thin post
    assert policy.own_parts(parts(0.45, 0.8), trail, 4).tolist() == [True, False]  # the nearest one
    assert policy.own_parts(parts(0.8), trail, 4).tolist() == [True]  # an object may jump
    assert policy.own_parts(parts(0.3, 0.6), Trail(), 4).tolist() == [True, True]


def test_quality_remembers_sure_frames_of_the_usual_size() -> None:
    ious, areas = np.array([0.9, 0.5, 0.9, 0.9]), np.array([0.011, 0.01, 0.02, 0.004])
    assert QualityPolicy().enters(ious, areas, [moving(4)] * 4).tolist() == [True, False, False, False]
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
    own = own_masks(QualityPolicy(), drawn, [one], 4)
    assert own.rejected.tolist() == [True] and own.boxes[0] == pytest.approx([0.3, 0.4, 0.4, 0.5])
    assert int((own.logits > 0).sum()) == 100 and (own.logits[0, 0, 40:50, 30:40] == 5).all()
    assert int((drawn > 0).sum()) == 200  # what came in is left as it was
    assert not own_masks(MemoryPolicy(), drawn, [one], 4).rejected.any()


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
    tracker.refine(AddRequest(click(60, 60), 1))
    assert tracker.bank.prompted_frames[0].tolist() == [0, 3, 6, 4, 5]
    tracker.bank.forget_anchors(0, 5)
    assert tracker.bank.prompted_frames[0].tolist() == [0, 3, -1, 4, -1]


def test_frames_that_do_not_enter_leave_the_memory_as_it_was() -> None:
    """The drawn weights' predicted IoU is too low for `quality`."""
    tracker = Tracker(copy.copy(small_model()), TrackerConfig(max_objects=1, memory_policy="quality"))
    (one,) = stepped(tracker, [click()])
    memory = tracker.bank.spatial.clone()
    results = run(tracker, 1, 5)
    assert all(result.object(one).predicted_iou < 0.7 and result.object(one).mask.area for result in results)
    assert torch.equal(tracker.bank.spatial, memory)


def test_unknown_policies_are_refused() -> None:
    with pytest.raises(ValueError, match="memory_policy is 'best'; accepted: recent, quality, distractor_aware"):
        TrackerConfig(memory_policy="best")
    with pytest.raises(ValueError, match="accepted with reference_policy: recent"):
        TrackerConfig(memory_policy="quality", reference_policy=True)


def test_a_prompt_begins_a_trail() -> None:
    tracker = Tracker(small_model(), TrackerConfig(max_objects=1, memory_policy="quality"))
    tracker.step(scene(0), 0)
    add(tracker, box())
    trail = tracker._objects[1].trail
    assert trail.frames == (0,) and all(0 <= edge <= 1 for edge in trail.boxes[0])
