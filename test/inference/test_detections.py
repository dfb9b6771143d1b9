"""Detections as prompts: what matches, what is new, what is corrected, and that nothing is there twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sam2_ros.inference import NullBackend
from sam2_ros.inference.detections import MAX_DETECTIONS, Counts, Detection, DetectionFeeder, DetectionSettings
from sam2_ros.inference.matching import assign, coverages, distances, ious
from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.types import (
    CroppedMask,
    FrameResult,
    ObjectState,
    Prompt,
    PromptCode,
    PromptError,
    PromptRequest,
    PromptResult,
)

SECOND = 1_000_000_000
IMAGE = np.zeros((100, 200, 3), np.uint8)
PERSON, OTHER = (20.0, 20.0, 40.0, 70.0), (120.0, 20.0, 140.0, 70.0)
AT_ONCE = DetectionSettings(new_after=1)


class Scene:
    """A camera of the engine without a network; objects in ``hidden`` are out of sight, ``quality`` is theirs."""

    def __init__(self, max_objects: int = 8) -> None:
        self.backend = NullBackend(TrackerConfig(history=4, max_objects=max_objects))
        self.feeder = DetectionFeeder(4)
        self.hidden: set[int] = set()
        self.quality = 1.0
        self.shown: dict[int, tuple[float, float, float, float]] = {}  # boxes of masks that are not where they were
        self.number = 0

    def frame(self) -> FrameResult:
        self.number += 1
        result = self.backend.step(IMAGE, self.number * SECOND)
        nothing = CroppedMask.empty(200, 100)
        objects = [replace(obj, predicted_iou=self.quality) for obj in result.objects]
        objects = [
            replace(obj, mask=nothing, state=ObjectState.LOST) if obj.object_id in self.hidden else obj
            for obj in objects
        ]
        objects = [
            replace(obj, mask=filled(self.shown[obj.object_id])) if obj.object_id in self.shown else obj
            for obj in objects
        ]
        result = replace(result, objects=tuple(objects))
        self.feeder.note(result)
        return result

    def detect(
        self, *boxes: Any, settings: DetectionSettings = AT_ONCE, age: int = 0, label: str = "person"
    ) -> list[PromptResult]:
        detections = [box if isinstance(box, Detection) else Detection(box, label, 0.8) for box in boxes]
        return self.feeder.apply(self.backend, detections, (self.number - age) * SECOND, settings)

    @property
    def ids(self) -> list[int]:
        living = self.backend.objects()
        return [obj.object_id for obj in living.objects] if living else []


@pytest.fixture
def scene() -> Scene:
    scene = Scene()
    scene.frame()
    return scene


def filled(box: Sequence[float]) -> CroppedMask:
    mask = np.zeros((100, 200), np.bool_)
    x0, y0, x1, y1 = (int(edge) for edge in box)
    mask[y0:y1, x0:x1] = True
    return CroppedMask.from_full(mask)


def moved(box: Sequence[float], x: float) -> tuple[float, float, float, float]:
    return box[0] + x, box[1], box[2] + x, box[3]


def test_overlaps() -> None:
    first = np.array([[0, 0, 10, 10]], np.float64)
    second = np.array([[5, 0, 15, 10], [2, 2, 4, 4], [20, 20, 30, 30]], np.float64)
    np.testing.assert_allclose(ious(first, second), [[50 / 150, 4 / 100, 0]])
    np.testing.assert_allclose(coverages(first, second), [[0.5, 1, 0]])
    np.testing.assert_allclose(distances(first, second)[0, :2], [5 / np.hypot(10, 10), np.hypot(2, 2) / np.hypot(2, 2)])


def test_the_assignment_is_the_best_of_all_and_not_the_greedy_one() -> None:
    overlap = np.array([[0.9, 0.8], [0.8, 0.1]])
    assert assign(1 - overlap, overlap >= 0.3) == [(0, 1), (1, 0)]
    assert assign(1 - overlap, overlap >= 0.85) == [(0, 0)]
    assert assign(np.zeros((0, 3)), np.zeros((0, 3), bool)) == []


def test_something_new_becomes_an_object_after_n_images(scene: Scene) -> None:
    settings = DetectionSettings(new_after=3)
    for step in range(3):
        assert scene.ids == []
        scene.detect(moved(PERSON, step), settings=settings)
        scene.detect(moved(PERSON, step), settings=settings)  # the same image counts once
        if step < 2:
            scene.frame()
    assert scene.ids == [1]
    (obj,) = scene.frame().objects
    assert (obj.label, obj.label_score, obj.mask.box) == ("person", 0.8, (22, 20, 42, 70))


def test_what_is_detected_now_and_then_becomes_none(scene: Scene) -> None:
    settings = DetectionSettings(new_after=2)
    for _ in range(4):
        scene.detect(PERSON, settings=settings)
        for _ in range(2):
            scene.frame()
            scene.detect(settings=settings)
        scene.frame()
    assert scene.ids == []


def test_a_detector_that_repeats_itself_duplicates_nothing(scene: Scene) -> None:
    """The same message again, late ones, two boxes for one person, and a part of one."""
    part = (21.0, 21.0, 39.0, 40.0)
    for _ in range(6):
        scene.detect(PERSON, moved(PERSON, 2), part, OTHER)
        scene.detect(PERSON, moved(PERSON, 2), part, OTHER)
        scene.frame()
        scene.detect(PERSON, OTHER, part, age=1)
    assert scene.ids == [1, 2]
    assert scene.feeder.counts.added == 2


def test_a_late_detection_is_compared_with_the_frame_that_it_saw(scene: Scene) -> None:
    scene.detect(PERSON)
    scene.frame()
    scene.frame()
    scene.detect(PERSON, OTHER, age=2)
    assert scene.ids == [1, 2]
    scene.frame()
    scene.detect(OTHER, age=1)
    assert scene.ids == [1, 2]


def test_score_label_and_box_decide_what_is_ignored(scene: Scene) -> None:
    settings = replace(AT_ONCE, min_score=0.6, labels=("person", "dog"))
    given = (
        Detection(PERSON, "person", 0.59), Detection(PERSON, "car", 0.9), Detection(PERSON, "", 0.9),
        Detection(OTHER, "dog", 0.6),
    )  # fmt: skip
    assert [result.success for result in scene.detect(*given, settings=settings)] == [True]
    assert [(obj.label, obj.label_score) for obj in scene.frame().objects] == [("dog", 0.6)]
    assert scene.feeder.counts == Counts(received=4, ignored=3, added=1)


@pytest.mark.parametrize("label", ["traffic light", "39", "0", "hot dog", "人", "toilet/WC (2)"])
def test_a_label_is_any_printable_text(scene: Scene, label: str) -> None:
    """COCO has labels with spaces; many detectors send class ids."""
    scene.detect(PERSON, label=label, settings=replace(AT_ONCE, labels=("cat", label)))
    assert [obj.label for obj in scene.frame().objects] == [label]
    scene.detect(PERSON, label="cat")
    assert [obj.label for obj in scene.frame().objects] == [label]


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (Detection((NAN, 20, 40, 70)), "has the box (nan, 20, 40, 70); accepted: finite edges in pixels"),
        (Detection((20, 20, INF, 70)), "has the box (20, 20, inf, 70); accepted: finite edges in pixels"),
        (Detection((20, -1e300, 40, 70)), "has the box (20, -1e+300, 40, 70); accepted: finite edges in pixels"),
        (Detection((20, 20, 20, 70)), "has the box (20, 20, 20, 70); accepted: a width and a height above 0"),
        (Detection((20, 20, 40, 20)), "has the box (20, 20, 40, 20); accepted: a width and a height above 0"),
        (Detection((40, 20, 20, 70)), "has the box (40, 20, 20, 70); accepted: a width and a height above 0"),
        (Detection(PERSON, "dog", NAN), "has the score nan; accepted: 0 to 1"),
        (Detection(PERSON, "dog", INF), "has the score inf; accepted: 0 to 1"),
        (Detection(PERSON, "dog", 95.0), "has the score 95; accepted: 0 to 1"),
        (Detection(PERSON, "dog", -0.1), "has the score -0.1; accepted: 0 to 1"),
        (Detection(PERSON, "dog\n"), "label holds the character U+000A; accepted: printable characters and spaces"),
        (Detection(PERSON, "x" * 257), "label has 257 characters; accepted: up to 256; choose a shorter one"),
    ],
)
def test_what_can_not_be_used_costs_itself_alone_and_is_told(scene: Scene, bad: Detection, problem: str) -> None:
    refused, accepted = scene.detect(bad, Detection(OTHER, "dog", 0.9))
    assert accepted.success
    assert refused.code is PromptCode.INVALID_PROMPT and refused.message.endswith(problem)
    assert [obj.mask.box for obj in scene.frame().objects] == [OTHER]
    assert scene.feeder.counts == Counts(received=2, unusable=1, added=1)


def test_as_many_boxes_as_a_message_may_hold(scene: Scene) -> None:
    """Overlapping ones, and the same ones again."""
    boxes = [(x / 8, 10.0, x / 8 + 9, 30.0) for x in range(MAX_DETECTIONS)]
    settings = replace(AT_ONCE, max_objects=4)
    scene.detect(*boxes, settings=settings)
    scene.frame()
    scene.detect(*reversed(boxes), settings=settings)
    assert scene.ids == [1, 2, 3, 4]
    assert scene.feeder.counts.received == 2 * MAX_DETECTIONS


def test_no_more_objects_than_allowed(scene: Scene) -> None:
    settings = replace(AT_ONCE, max_objects=1)
    scene.detect(PERSON, OTHER, settings=settings)
    assert scene.ids == [1]
    scene.backend.remove(1)
    scene.frame()
    scene.detect(OTHER, settings=settings)
    assert scene.ids == [2]


def test_a_matched_object_keeps_the_surest_label(scene: Scene) -> None:
    scene.detect(PERSON, label="")
    for label, score in (("person", 0.7), ("tree", 0.6), ("woman", 0.9)):
        scene.frame()
        scene.detect(Detection(PERSON, label, score))
    (obj,) = scene.frame().objects
    assert (obj.object_id, obj.label, obj.label_score) == (1, "woman", 0.9)


def test_a_bad_track_is_corrected_every_so_often(scene: Scene) -> None:
    settings = replace(AT_ONCE, correct_below=0.6, correct_every=3)
    scene.detect(PERSON, settings=settings)
    scene.quality = 0.5
    for _ in range(9):
        scene.frame()
        scene.detect(moved(PERSON, 4), settings=settings)
    assert scene.feeder.counts.corrected == 3 and scene.ids == [1]
    scene.quality = 0.7
    for _ in range(9):
        scene.frame()
        scene.detect(moved(PERSON, 4), settings=settings)
    assert scene.feeder.counts.corrected == 3


def test_a_track_that_is_not_where_it_is_detected_is_corrected(scene: Scene) -> None:
    """However sure the network is: its box and the detector's disagree."""
    scene.detect(PERSON)
    scene.frame()
    scene.shown[1] = moved(PERSON, 5)
    scene.frame()
    scene.detect(PERSON, settings=replace(AT_ONCE, correct_below=0.5))  # IoU 0.6
    assert scene.feeder.counts.corrected == 0
    scene.detect(PERSON, settings=replace(AT_ONCE, correct_below=0.7, correct_every=2))
    assert scene.feeder.counts.corrected == 1 and scene.ids == [1]


def test_a_mask_that_swells_over_the_scene_neither_hides_others_nor_keeps_its_object(scene: Scene) -> None:
    scene.detect(PERSON)
    scene.frame()
    scene.shown[1] = (0.0, 0.0, 180.0, 90.0)
    scene.frame()
    scene.detect(OTHER, moved(PERSON, 3), settings=replace(AT_ONCE, correct_every=2))
    assert scene.ids == [1, 2]
    living = scene.backend.objects()
    assert living is not None and [obj.mask.box for obj in living.objects] == [(23, 20, 43, 70), (120, 20, 140, 70)]


def test_an_object_that_was_never_detected_has_no_usual_size(scene: Scene) -> None:
    """Its mask is no larger than it should be, so a detection of a part of it is one of it."""
    scene.backend.add([PromptRequest(Prompt(box=np.array(PERSON, np.float32)))])
    scene.frame()
    scene.detect((20.0, 20.0, 40.0, 40.0))
    assert scene.ids == [1] and scene.feeder.counts.matched == 1


def test_what_grows_as_the_detector_says_has_not_swollen(scene: Scene) -> None:
    """An object that comes near between two messages: no correction is called for, and nothing is there twice."""
    scene.detect(PERSON)
    scene.frame()
    scene.shown[1] = (10.0, 5.0, 70.0, 95.0)
    scene.frame()
    scene.detect((12.0, 5.0, 70.0, 95.0))
    assert scene.ids == [1] and scene.feeder.counts.corrected == 0 and scene.feeder.counts.matched == 1


def test_something_narrow_that_leaves_its_box_between_messages_becomes_one_object(scene: Scene) -> None:
    settings = replace(AT_ONCE, new_after=3)
    for step in range(3):
        scene.detect(moved(PERSON, 30 * step), settings=settings)
        scene.frame()
    assert scene.ids == [1] and scene.feeder.counts.added == 1


def test_a_lost_object_that_is_detected_again_has_its_id_again(scene: Scene) -> None:
    scene.detect(PERSON)
    scene.frame()
    scene.hidden = {1}
    scene.frame()
    scene.detect(moved(PERSON, 30))
    assert scene.ids == [1] and scene.feeder.counts.found_again == 1
    living = scene.backend.objects()
    assert living is not None and living.objects[0].mask.box == (50, 20, 70, 70)


@pytest.mark.parametrize(
    "detection",
    [
        Detection(OTHER, "person", 0.8),
        Detection(moved(PERSON, 30), "dog", 0.8),
        Detection((40, 20, 44, 30), "person", 0.8),
    ],
    ids=["too far", "another label", "another size"],
)
def test_what_is_not_the_lost_object_is_a_new_one(scene: Scene, detection: Detection) -> None:
    scene.detect(PERSON)
    scene.frame()
    scene.hidden = {1}
    scene.frame()
    scene.detect(detection)
    assert scene.ids == [1, 2]


def test_a_full_bank_and_a_stamp_that_is_too_old_are_refusals() -> None:
    scene = Scene(max_objects=1)
    for _ in range(8):
        scene.frame()
    results = scene.detect(PERSON, OTHER)
    assert [result.success for result in results] == [True, False]
    with pytest.raises(PromptError, match="is gone"):
        scene.detect(PERSON, age=7)
    assert scene.feeder.counts.refused == 2


def test_a_repeated_message_corrects_nothing(scene: Scene) -> None:
    scene.detect(PERSON)
    scene.detect(PERSON)
    assert scene.feeder.counts == Counts(received=2, matched=1, added=1)


def test_an_object_whose_prompt_drew_nothing_is_where_it_was_detected(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, nothing = scene.backend.add, CroppedMask.empty(200, 100)

    def draw_nothing(*arguments: Any) -> list[PromptResult]:
        return [replace(each, result=each.result and replace(each.result, mask=nothing)) for each in add(*arguments)]

    monkeypatch.setattr(scene.backend, "add", draw_nothing)
    scene.detect(PERSON)
    scene.detect(PERSON)
    assert scene.ids == [1]


def test_after_a_jump_in_time_everything_begins_anew(scene: Scene) -> None:
    settings = DetectionSettings(new_after=2)
    scene.detect(PERSON, settings=settings)
    assert scene.feeder.counts.pending == 1
    scene.feeder.forget()
    with pytest.raises(PromptError, match="no frame was processed yet"):
        scene.detect(PERSON, settings=settings)
    scene.frame()
    scene.detect(PERSON, settings=settings)
    assert scene.ids == [], "it was detected once since then"
    assert scene.feeder.counts == Counts(received=3, pending=2, refused=1)


def test_a_new_thing_that_is_missed_now_and_then_becomes_an_object(scene: Scene) -> None:
    settings = DetectionSettings(new_after=3)
    for boxes in ([PERSON], [], [PERSON], [], [PERSON]):
        assert scene.ids == []
        scene.detect(*boxes, settings=settings)
        scene.frame()
    assert scene.ids == [1]


def test_a_track_as_good_as_asked_for_is_not_corrected(scene: Scene) -> None:
    scene.detect(PERSON)
    scene.quality = 0.5
    for _ in range(6):
        scene.frame()
    scene.detect(PERSON, settings=replace(AT_ONCE, correct_below=0.5))
    assert scene.feeder.counts.corrected == 0


def test_an_object_that_grows_as_it_is_detected_is_found_again_in_its_new_size(scene: Scene) -> None:
    sizes = [PERSON, (15.0, 15.0, 60.0, 68.0), (10.0, 10.0, 85.0, 83.0), (5.0, 5.0, 140.0, 94.0)]
    for size in sizes:  # each at most 2.5 times the one before
        if scene.ids:
            scene.shown[1] = size
        scene.frame()
        scene.detect(size)
        scene.frame()
    scene.shown.clear()
    scene.hidden = {1}
    scene.frame()
    scene.detect(moved(sizes[-1], 3))
    assert scene.ids == [1] and scene.feeder.counts.found_again == 1


def test_a_swollen_mask_that_is_confirmed_once_does_not_move_the_last_trusted_box(scene: Scene) -> None:
    scene.detect(PERSON)
    scene.frame()
    scene.shown[1] = (10.0, 5.0, 70.0, 95.0)
    scene.frame()
    scene.detect((12.0, 5.0, 70.0, 95.0))
    scene.frame()
    scene.shown.clear()
    scene.hidden = {1}
    scene.frame()
    scene.detect(moved(PERSON, 20))
    assert scene.ids == [1] and scene.feeder.counts.found_again == 1


def test_an_object_that_hides_right_after_its_prompt_is_found_again(scene: Scene) -> None:
    scene.detect(PERSON)
    scene.hidden = {1}
    scene.frame()
    scene.detect(moved(PERSON, 10), (32.0, 22.0, 48.0, 40.0))  # and a part of it is nothing new
    assert scene.ids == [1] and scene.feeder.counts.found_again == 1


def test_a_late_prompt_applies_to_its_frame_and_counts_on_later_ones(scene: Scene) -> None:
    settings = replace(AT_ONCE, correct_below=0.55, correct_every=1)
    scene.quality = 0.5
    scene.frame()
    scene.frame()
    (added,) = scene.detect(PERSON, age=1, settings=settings)
    assert added.applied_stamp == (scene.number - 1) * SECOND
    scene.frame()
    scene.frame()
    (corrected,) = scene.detect(PERSON, age=1, settings=settings)
    assert corrected.applied_stamp == (scene.number - 1) * SECOND
    assert scene.detect(PERSON, settings=settings) == [], "the correction holds on the newest frame, too"


def test_a_correction_is_judged_by_the_mask_that_it_gave(scene: Scene) -> None:
    """Here half of what was asked for, because it reaches out of the image."""
    settings = replace(AT_ONCE, correct_below=0.55, correct_every=1)
    half_outside = (-20.0, 20.0, 20.0, 70.0)
    scene.frame()
    assert len(scene.detect(half_outside, age=1, settings=settings)) == 1
    assert len(scene.detect(half_outside, settings=settings)) == 1
    assert scene.feeder.counts == Counts(received=2, matched=1, added=1, corrected=1)


def test_as_many_frames_back_as_the_tracker_stores(scene: Scene) -> None:
    for _ in range(6):
        scene.frame()
    assert scene.detect(PERSON, age=4)[0].success
    with pytest.raises(PromptError, match="is gone"):
        scene.detect(PERSON, age=5)


def test_nothing_is_kept_of_objects_that_are_gone(scene: Scene) -> None:
    for _ in range(20):
        scene.detect(PERSON)
        scene.frame()
        scene.backend.reset()
        scene.frame()
    kept = scene.feeder
    assert not kept._last_boxes and not kept._usual_areas and not kept._corrected
