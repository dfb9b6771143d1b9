"""The engine without a network keeps what Backend promises, and never imports torch."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from bad_prompts import BAD

from sam2_ros.inference import NullBackend, commands, is_null_model, make_backend
from sam2_ros.tracking import ObjectState, Prompt, PromptCode, PromptError, PromptRequest, TrackerConfig

RGB = np.zeros((40, 60, 3), np.uint8)


def box(*edges: float) -> Prompt:
    return Prompt(box=np.array(edges, np.float32))


@pytest.fixture
def backend() -> NullBackend:
    backend = NullBackend(TrackerConfig(max_objects=2))
    backend.step(RGB, 100)
    return backend


def test_a_box_becomes_a_mask_that_stays(backend: NullBackend) -> None:
    (answer,) = backend.add([PromptRequest(box(5, 6, 15, 26), name="cup", label="thing")])
    assert (answer.code, answer.object_id, answer.applied_stamp) == (PromptCode.OK, 1, 100)
    result = backend.step(RGB, 200).object(1)
    assert result.mask.box == (5, 6, 15, 26)
    assert (result.mask.area, result.state, result.name, result.label) == (200, ObjectState.VISIBLE, "cup", "thing")
    assert (result.first_seen, result.last_seen, result.frames_tracked, result.prompted) == (100, 200, 1, False)
    assert (result.visibility, result.predicted_iou) == (1, 1) and result.object_score > 0, "as sure as can be"


def test_points_and_masks(backend: NullBackend) -> None:
    points = Prompt(points=np.array([[20, 20], [50, 30]], np.float32), labels=np.array([1, 0], np.int32))
    mask = np.zeros((40, 60), np.bool_)
    mask[3:5, 7:9] = True
    answers = backend.add([PromptRequest(points), PromptRequest(Prompt(mask=mask))])
    assert [answer.result.mask.box for answer in answers if answer.result] == [(12, 12, 29, 29), (7, 3, 9, 5)]


def test_refusals_say_why_and_touch_nobody_else(backend: NullBackend) -> None:
    answers = backend.add(
        [
            PromptRequest(box(1, 1, 5, 5), name="a"),
            PromptRequest(box(1, 1, 5, 5), name="a"),
            PromptRequest(box(100, 100, 120, 120)),
            PromptRequest(Prompt()),
            PromptRequest(Prompt(mask=np.ones((4, 4), np.bool_))),
            PromptRequest(box(1, 1, 5, 5), object_id=77),
            PromptRequest(box(1, 1, 5, 5)),
            PromptRequest(box(1, 1, 5, 5)),
        ]
    )
    assert [answer.code for answer in answers] == [
        PromptCode.OK, PromptCode.DUPLICATE_NAME, PromptCode.INVALID_PROMPT, PromptCode.INVALID_PROMPT,
        PromptCode.INVALID_PROMPT, PromptCode.UNKNOWN_OBJECT, PromptCode.OK, PromptCode.FULL,
    ]  # fmt: skip
    assert "outside the image of 60 x 40" in answers[2].message
    assert "4 x 4 pixels, the image 60 x 40" in answers[4].message
    assert len(commands.living(backend)) == 2


def test_ids_are_never_used_again(backend: NullBackend) -> None:
    backend.add([PromptRequest(box(1, 1, 5, 5))])
    assert backend.remove(1) and not backend.remove(1)
    assert backend.add([PromptRequest(box(1, 1, 5, 5))])[0].object_id == 2
    assert backend.reset() == 1
    assert backend.add([PromptRequest(box(1, 1, 5, 5))])[0].object_id == 3


def test_changes(backend: NullBackend) -> None:
    backend.add([PromptRequest(box(1, 1, 5, 5), name="a")])
    backend.refine(PromptRequest(box(1, 1, 6, 6), object_id=1))
    backend.reset()
    changes = backend.take_changes()
    assert [(change.event, change.object_id, change.name) for change in changes] == [
        (1, 1, "a"),
        (3, 1, "a"),
        (4, 1, "a"),
    ]
    assert backend.take_changes() == []


def test_a_change_is_of_the_newest_frame(backend: NullBackend) -> None:
    backend.add([PromptRequest(box(0, 0, 9, 9))])
    backend.step(RGB, 200)
    backend.take_changes()
    backend.remove(1)
    (removed,) = backend.take_changes()
    assert removed.last_seen == 200 and backend.objects() is not None


def test_before_the_first_frame() -> None:
    backend = NullBackend()
    assert backend.objects() is None
    assert backend.add([PromptRequest(box(1, 1, 5, 5))])[0].code is PromptCode.NO_FRAME


def test_objects_are_found_by_name_or_id(backend: NullBackend) -> None:
    backend.add([PromptRequest(box(1, 1, 5, 5), name="2nd"), PromptRequest(box(1, 1, 5, 5), name="cup")])
    assert commands.find(backend, "2nd") == 1
    assert commands.find(backend, "cup") == 2
    assert commands.find(backend, "1") == 1
    with pytest.raises(PromptError, match=r"'spoon'; living: 1 \(2nd\), 2 \(cup\)") as caught:
        commands.find(backend, "spoon")
    assert caught.value.code is PromptCode.UNKNOWN_OBJECT


def test_adding_a_living_name_corrects_that_object(backend: NullBackend) -> None:
    bad = PromptError(PromptCode.INVALID_PROMPT, "no such thing")
    commands.add(backend, [PromptRequest(box(1, 1, 5, 5), name="cup")])
    results = commands.add(backend, [bad, PromptRequest(box(2, 2, 9, 9), name="cup")])
    assert [(result.code, result.object_id) for result in results] == [
        (PromptCode.INVALID_PROMPT, 0),
        (PromptCode.OK, 1),
    ]
    assert commands.living(backend)[0].mask.box == (2, 2, 9, 9)


def test_refine_and_rename_by_name(backend: NullBackend) -> None:
    commands.add(backend, [PromptRequest(box(1, 1, 5, 5), name="cup"), PromptRequest(box(1, 1, 5, 5), name="box")])
    assert commands.refine(backend, PromptRequest(box(2, 2, 9, 9), name="cup")).object_id == 1
    assert commands.refine(backend, PromptRequest(box(2, 2, 9, 9), name="spoon")).code is PromptCode.UNKNOWN_OBJECT
    assert commands.rename(backend, "cup", "mug", "dish") == 1
    assert (commands.living(backend)[0].name, commands.living(backend)[0].label) == ("mug", "dish")
    with pytest.raises(PromptError, match="called 'box' already"):
        commands.rename(backend, "mug", "box", "")


def test_a_refusal_is_one_short_line_whatever_was_asked_for() -> None:
    backend = NullBackend(TrackerConfig(max_objects=1000))
    backend.step(RGB, 100)
    assert all(answer.success for answer in backend.add([PromptRequest(box(1, 1, 5, 5), name="x" * 250)] * 1))
    assert all(answer.success for answer in backend.add([PromptRequest(box(1, 1, 5, 5))] * 500))
    for name in ("y" * 1_000_000, "\x1b[31m\n[ERROR] fake", "4294967297", "-1", "01", "+1", "1.0", "\u0661"):
        with pytest.raises(PromptError) as caught:
            commands.find(backend, name)
        message = str(caught.value)
        assert message.isprintable() and len(message) < 1000 and "and 481 more" in message, message[:100]
        assert caught.value.code is PromptCode.UNKNOWN_OBJECT


def test_model_names() -> None:
    assert is_null_model("null") and is_null_model("null:250")
    assert not is_null_model("null:fast") and not is_null_model("nullable.pt")
    assert make_backend("null", config=TrackerConfig(max_objects=3)).info.max_objects == 3


def test_torch_is_not_imported() -> None:
    code = "import sys, sam2_ros.inference as i; i.make_backend('null'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", BAD)
def test_a_bad_prompt_is_refused_as_by_a_network(name: str) -> None:
    backend = NullBackend()
    backend.step(np.zeros((120, 160, 3), np.uint8), 1)
    prompt, message = BAD[name]
    (answer,) = backend.add([PromptRequest(prompt)])
    assert (answer.code, answer.message) == (PromptCode.INVALID_PROMPT, message)


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        (Prompt(box=np.array([1, 1, 9, 9], np.float32), labels=np.array(1, np.int32)), "labels came without points"),
        (Prompt(points=np.array(3, np.float32), candidate=1), "candidates are offered for a single point"),
        (Prompt(points=np.array(3, np.float32)), "points have shape ()"),
    ],
)
def test_a_number_is_no_list(backend: NullBackend, prompt: Prompt, reason: str) -> None:
    """Also where a client sends an array without dimensions."""
    (refused,) = backend.add([PromptRequest(prompt)])
    assert refused.code is PromptCode.INVALID_PROMPT and reason in refused.message


def test_a_late_prompt_says_which_frame_it_took_and_how_late_it_came() -> None:
    backend = NullBackend(TrackerConfig(history=3, history_tolerance=0.1))
    for number in range(1, 6):
        backend.step(RGB, number * 10**9)
    asked = ((0, 5.0, 0.0), (5 * 10**9, 5.0, 0.0), (3 * 10**9 + 4 * 10**7, 3.0, 0.04), (2 * 10**9, 2.0, 0.0))
    for stamp, applied, difference in asked:
        (answer,) = backend.add([PromptRequest(box(1, 1, 5, 5))], stamp)
        assert (answer.applied_stamp / 1e9, answer.prompt_age, answer.frames_caught_up) == (
            applied, 5 - applied, 5 - round(applied),
        )  # fmt: skip
        assert answer.stamp_difference == pytest.approx(difference)
        assert answer.result is not None and answer.result.first_seen == answer.result.last_seen == 5 * 10**9
    assert backend.add([PromptRequest(box(1, 1, 5, 5))], 10**9)[0].code is PromptCode.TOO_OLD
    assert backend.add([PromptRequest(box(1, 1, 5, 5))], 3 * 10**9 + 2 * 10**8)[0].code is PromptCode.NO_FRAME


def test_a_correction_needs_a_living_object_and_says_what_was_done(backend: NullBackend) -> None:
    backend.add([PromptRequest(box(1, 1, 5, 5), name="cup")])
    answer = backend.refine(PromptRequest(box(2, 2, 9, 9), object_id=1))
    assert (answer.message, answer.name, answer.stability) == ("object 1: corrected", "cup", 1.0)
    assert answer.result is not None and answer.result.prompted and answer.result.mask.box == (2, 2, 9, 9)
    assert backend.refine(PromptRequest(box(2, 2, 9, 9))).message.startswith("no object was named")
    assert backend.refine(PromptRequest(box(2, 2, 9, 9), object_id=2)).code is PromptCode.UNKNOWN_OBJECT


def test_a_new_name_keeps_the_score_unless_there_is_a_new_one(backend: NullBackend) -> None:
    backend.add([PromptRequest(box(1, 1, 5, 5), name="cup", label="dish", label_score=0.25)])
    for score, shown in ((None, 0.25), (0.75, 0.75), (0.0, 0.0)):
        backend.rename(1, "cup", "mug", score)  # its own name is no other object's
        assert [(obj.label, obj.label_score) for obj in commands.living(backend)] == [("mug", shown)]


def test_where_the_images_have_another_size_nothing_is_known_of_the_masks(backend: NullBackend) -> None:
    backend.add([PromptRequest(box(1, 1, 5, 5))])
    (obj,) = backend.step(np.zeros((20, 30, 3), np.uint8), 200).objects
    assert (obj.mask.area, obj.mask.width, obj.mask.height) == (0, 30, 20)
    backend.refine(PromptRequest(box(20, 10, 50, 50), object_id=1))
    result = backend.step(np.zeros((20, 30, 3), np.uint8), 300)
    assert (result.frame_index, result.stamp, result.width, result.height) == (2, 300, 30, 20)
    assert [obj.mask.box for obj in result.objects] == [(20, 10, 30, 20)]


def test_a_point_is_a_square_around_it_and_one_beside_the_object_is_none(backend: NullBackend) -> None:
    points = Prompt(points=np.array([[2, 3]], np.float32), labels=np.array([1], np.int32))
    beside = Prompt(points=np.array([[2, 3]], np.float32), labels=np.array([0], np.int32))
    (done,) = backend.add([PromptRequest(points)])
    assert done.result is not None and done.result.mask.box == (0, 0, 11, 12)
    refused = backend.refine(PromptRequest(beside, object_id=1))
    assert refused.code is PromptCode.INVALID_PROMPT and "give a box, a mask or a positive point" in refused.message
