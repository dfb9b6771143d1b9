"""Objects: permanent ids, unique names, rows without leakage, independence, one pass for all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

import numpy as np
import pytest
import torch
from sam2_reference import difference
from small_tracker import add, box, click, logits, object_score, rectangle, run, scene, small_model, stepped

from sam2_ros.model import Sam2Model
from sam2_ros.tracking import AddRequest, ObjectResult, Prompt, PromptCode, PromptError, Tracker, TrackerConfig

SAME = 1e-4  # a batch of another size rounds differently


@pytest.fixture
def tracker() -> Tracker:
    return Tracker(small_model(), TrackerConfig(max_objects=4))


def follow(prompts: dict[int, Prompt], frames: int, first: int = 0) -> dict[int, list[torch.Tensor]]:
    """Logits per frame of objects added on the frames that are the keys, by that frame, in one tracker."""
    tracker = Tracker(small_model(), TrackerConfig(max_objects=4))
    ids: dict[int, int] = {}
    found: dict[int, list[torch.Tensor]] = {frame: [] for frame in prompts}
    for frame in range(first, frames):
        tracker.step(scene(frame), frame)
        if frame in prompts:
            (ids[frame],) = add(tracker, prompts[frame])
        for key, object_id in ids.items():
            found[key].append(logits(tracker, object_id).clone())
    return found


# -- ids and names -------------------------------------------------------------------------------------------


def test_ids_count_up_and_are_never_used_again(tracker: Tracker) -> None:
    assert stepped(tracker, [box(), click()]) == [1, 2]
    assert tracker.remove(2)
    assert add(tracker, click()) == [3]
    assert tracker.reset() == 2
    assert tracker.objects() is not None and tracker.objects().objects == ()  # type: ignore[union-attr]
    run(tracker, 1, 1)
    assert add(tracker, box(), click()) == [4, 5]
    assert [one.object_id for one in tracker.step(scene(2), 2).objects] == [4, 5]


def test_ids_may_go_on_from_an_earlier_tracker(tracker: Tracker) -> None:
    tracker.next_id = 8
    assert stepped(tracker, [box(), click()]) == [8, 9]


def test_a_removed_object_is_unknown(tracker: Tracker) -> None:
    (one,) = stepped(tracker, [box()])
    assert tracker.remove(one)
    assert not tracker.remove(one)
    answer = tracker.refine(AddRequest(click(), one))
    assert answer.code is PromptCode.UNKNOWN_OBJECT
    assert answer.message == f"there is no object {one}; living objects: none"
    with pytest.raises(PromptError, match="there is no object 1"):
        tracker.rename(one, "cup", "")


def test_names_are_unique_among_living_objects(tracker: Tracker) -> None:
    tracker.step(scene(0), 0)
    first, second, third = tracker.add(
        [AddRequest(box(), name="cup"), AddRequest(click(), name="cup"), AddRequest(click(), name="dish")]
    )
    assert first.success and third.success
    assert second.code is PromptCode.DUPLICATE_NAME
    assert second.message == "object 1 is already named 'cup'; choose another name"
    with pytest.raises(PromptError, match="already named 'cup'"):
        tracker.rename(third.object_id, "cup", "plate")
    refused = tracker.refine(AddRequest(click(), third.object_id, name="cup", label="plate"))
    assert refused.code is PromptCode.DUPLICATE_NAME
    assert [(one.name, one.label) for one in run(tracker, 1, 1)[0].objects] == [("cup", ""), ("dish", "")]
    tracker.remove(first.object_id)
    tracker.rename(third.object_id, "cup", "plate")  # free again
    assert [(one.name, one.label) for one in run(tracker, 2, 2)[0].objects] == [("cup", "plate")]


def test_objects_without_a_name_do_not_collide(tracker: Tracker) -> None:
    assert len(stepped(tracker, [box(), click(), click(60, 30)])) == 3


def test_a_full_tracker_refuses_with_the_reason(tracker: Tracker) -> None:
    stepped(tracker, [box()] * 4)
    (answer,) = tracker.add([AddRequest(click())])
    assert answer.code is PromptCode.FULL and not answer.success
    assert answer.message == "4 objects are tracked already (tracker.max_objects); remove one first"
    tracker.remove(2)
    assert add(tracker, click()) == [5]  # the refusal used up no id


# -- rows ----------------------------------------------------------------------------------------------------


def test_a_freed_row_keeps_nothing_of_its_last_owner() -> None:
    """An object in a used row gives, bit for bit, what it gives in a fresh tracker."""
    used, fresh = (Tracker(small_model(), TrackerConfig(max_objects=1)) for _ in range(2))
    (old,) = stepped(used, [rectangle(0, 0, 80, 60)])
    run(used, 1, 20)
    used.refine(AddRequest(click(100, 30), old))  # a second prompted slot
    run(used, 21, 22)
    used.remove(old)
    assert used.bank.spatial.any()  # the bytes are still there; nobody looks at them
    for tracker in (used, fresh):
        stepped(tracker, [box()], frame=0)
        run(tracker, 1, 18)
    (one,), (other,) = used._objects.values(), fresh._objects.values()
    assert one.row == other.row and one.object_id != other.object_id
    assert one.logits is not None and other.logits is not None
    assert torch.equal(one.logits, other.logits)
    assert one.object_score == other.object_score


# -- independence --------------------------------------------------------------------------------------------


def test_objects_do_not_influence_each_other() -> None:
    """With other objects, prompted on other frames, an object is tracked as it is alone."""
    prompts = {0: box(), 3: click(90, 40), 7: rectangle(60, 15, 90, 45)}
    together = follow(prompts, 20)
    for frame, prompt in prompts.items():
        alone = follow({frame: prompt}, 20)[frame]
        differences = [difference(a, b) for a, b in zip(together[frame], alone, strict=True)]
        assert max(differences) <= SAME
    # They are different objects, or this would show nothing.
    assert difference(together[0][8], together[3][5]) > 10 * SAME
    assert difference(together[3][5], together[7][1]) > 10 * SAME


def test_the_removal_of_an_object_does_not_touch_the_others() -> None:
    with_removal, without = (Tracker(small_model(), TrackerConfig(max_objects=4)) for _ in range(2))
    for tracker in (with_removal, without):
        stepped(tracker, [box(), click(90, 40), rectangle(60, 15, 90, 45)])
        run(tracker, 1, 5)
    with_removal.remove(2)
    for tracker in (with_removal, without):
        run(tracker, 6, 14)
    for object_id in (1, 3):
        assert difference(logits(with_removal, object_id), logits(without, object_id)) <= SAME
    assert sorted(with_removal._objects) == [1, 3]


def test_a_prompt_for_one_object_does_not_touch_the_others(tracker: Tracker) -> None:
    first, second = stepped(tracker, [box(), click(90, 40)])
    run(tracker, 1, 3)
    before, memory = logits(tracker, second).clone(), tracker.bank.spatial[1].clone()
    assert tracker.refine(AddRequest(click(60, 60), first)).success
    assert torch.equal(logits(tracker, second), before)
    assert torch.equal(tracker.bank.spatial[1], memory)


# -- cost ----------------------------------------------------------------------------------------------------

MODULES = ("image_encoder", "memory_attention", "sam_mask_decoder", "memory_encoder")


@contextmanager
def counted(model: Sam2Model) -> Iterator[Counter[str]]:
    """Counts the calls of the network's parts."""
    calls: Counter[str] = Counter()
    with ExitStack() as stack:
        for name in MODULES:
            hook = model.get_submodule(name).register_forward_hook(lambda *_, name=name: calls.update([name]))
            stack.callback(hook.remove)
        yield calls


@pytest.mark.parametrize("objects", [0, 1, 4])
def test_each_module_runs_once_a_frame(objects: int) -> None:
    """Whatever the number of objects and the frames of their prompts."""
    tracker = Tracker(small_model(), TrackerConfig(max_objects=4))
    for frame in range(objects):
        stepped(tracker, [box()], frame)
    with counted(small_model()) as calls:
        run(tracker, objects, objects + 2)
    assert calls == dict.fromkeys(MODULES if objects else MODULES[:1], 3)


def test_prompts_of_one_kind_share_a_pass_and_never_encode_the_image_again(tracker: Tracker) -> None:
    tracker.step(scene(0), 0)
    with counted(small_model()) as calls:
        add(tracker, box(), box(40, 20, 90, 70), box(60, 20, 90, 70))
        assert calls == {"sam_mask_decoder": 1, "memory_encoder": 1}
        add(tracker, click())
    assert calls == {"sam_mask_decoder": 2, "memory_encoder": 2}


# -- everything together -------------------------------------------------------------------------------------


def test_objects_that_come_and_go_leave_the_bank_as_large_as_it_was(tracker: Tracker) -> None:
    """120 frames; the bank is the same two tensors at the end, and ``nbytes`` says their size."""
    random = np.random.default_rng(0)
    tensors, size = (tracker.bank.spatial, tracker.bank.pointers), tracker.bank.nbytes
    config = small_model().config
    rows, tokens = 4, config.memory_grid**2
    assert size == rows * ((4 + 6 + 9) * tokens * 64 * 2 + (4 + 15 + 9) * 256 * 4)
    ids, added = [], 0
    for frame in range(120):
        living = tracker.step(scene(frame), frame).objects
        ids.append([one.object_id for one in living])
        if len(living) < 4 and random.random() < 0.3:
            added += len(add(tracker, box() if random.random() < 0.5 else click(90, 40)))
        if living and random.random() < 0.1:
            tracker.remove(int(random.choice([one.object_id for one in living])))
        if living and random.random() < 0.1:
            tracker.refine(AddRequest(click(60, 60), living[0].object_id))
        assert tracker.bank.nbytes == size
    assert (tracker.bank.spatial is tensors[0]) and (tracker.bank.pointers is tensors[1])
    assert size == sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    assert added > 8 and max(len(living) for living in ids) == 4
    assert all(living == sorted(living) for living in ids)


def test_results_are_complete(tracker: Tracker) -> None:
    tracker.step(scene(0), 1000)
    tracker.add([AddRequest(box(), name="ball", label="toy", label_score=0.75)])
    result = tracker.step(scene(1), 2000)
    assert (result.frame_index, result.stamp, result.width, result.height) == (1, 2000, 160, 120)
    (one,) = result.objects
    assert (one.name, one.label, one.label_score, one.prompted) == ("ball", "toy", 0.75, False)
    assert (one.first_seen, one.last_seen, one.frames_since_seen, one.frames_tracked) == (1000, 2000, 0, 1)
    assert one.object_score > 0 and one.visibility == pytest.approx(1 / (1 + np.exp(-one.object_score)))
    assert 0 <= one.predicted_iou <= 1
    assert one.mask.full().shape == (120, 160) and 0 < one.mask.area < 120 * 160
    assert result.object(1) is one
    with pytest.raises(KeyError, match="object 2 is not in frame 1"):
        result.object(2)
    assert set(result.timings_ms) == {"resize", "encode", "memory_attention", "decode", "memory_encode", "masks"}


def test_a_failing_prompt_leaves_no_object_behind(tracker: Tracker) -> None:
    """An error inside the network reaches the caller; what was tracked before goes on."""
    (one,) = stepped(tracker, [box()])
    with (
        mock.patch.object(small_model(), "encode_memory", side_effect=RuntimeError("out of memory")),
        pytest.raises(RuntimeError, match="out of memory"),
    ):
        tracker.add([AddRequest(click())])
    (found,) = run(tracker, 1, 1)[0].objects
    assert found.object_id == one
    assert add(tracker, click()) == [3]


def test_results_on_the_frame_of_the_prompt(tracker: Tracker) -> None:
    """The answer and :meth:`objects` agree; there is nothing before the first frame."""
    assert tracker.objects() is None
    tracker.step(scene(0), 7)
    with object_score(small_model(), 2.0):
        (answer,) = tracker.add([AddRequest(box())])
    newest = tracker.objects()
    assert newest is not None and answer.result is not None
    found: ObjectResult = newest.object(1)
    assert found.mask.area == answer.result.mask.area > 0
    assert found.prompted and found.object_score == answer.result.object_score == pytest.approx(2.0)
    assert answer.applied_stamp == 7
    assert 0 <= answer.stability <= 1
