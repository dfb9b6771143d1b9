"""Objects: permanent ids, unique names, rows without leakage, independence, one pass for all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
import torch
from sam2_reference import difference
from small_tracker import add, box, click, logits, rectangle, run, scene, small_model, stepped

from sam2_ros.model import Sam2Model
from sam2_ros.tracking import Prompt, PromptRequest, Tracker, TrackerConfig

SAME = 1e-4  # a batch of another size rounds differently


@pytest.fixture
def tracker() -> Tracker:
    return Tracker(small_model(), TrackerConfig(max_objects=4))


def follow(prompts: dict[int, Prompt], frames: int, first: int = 0) -> dict[int, list[torch.Tensor]]:
    """Logits per frame of objects added on the frames that are the keys, by that frame, in one tracker that lets two
    of them have a mask of one thing."""
    tracker = Tracker(small_model(), TrackerConfig(max_objects=4, look_alikes=False))
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


# -- rows ----------------------------------------------------------------------------------------------------


def test_a_freed_row_keeps_nothing_of_its_last_owner() -> None:
    """An object in a used row gives, bit for bit, what it gives in a fresh tracker."""
    used, fresh = (Tracker(small_model(), TrackerConfig(max_objects=1)) for _ in range(2))
    (old,) = stepped(used, [rectangle(0, 0, 80, 60)])
    run(used, 1, 20)
    used.refine(PromptRequest(click(100, 30), old))  # a second prompted slot
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
    config = TrackerConfig(max_objects=4, look_alikes=False)
    with_removal, without = (Tracker(small_model(), config) for _ in range(2))
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
    assert tracker.refine(PromptRequest(click(60, 60), first)).success
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
            tracker.refine(PromptRequest(click(60, 60), living[0].object_id))
        assert tracker.bank.nbytes == size
    assert (tracker.bank.spatial is tensors[0]) and (tracker.bank.pointers is tensors[1])
    assert size == sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    assert added > 8 and max(len(living) for living in ids) == 4
    assert all(living == sorted(living) for living in ids)
