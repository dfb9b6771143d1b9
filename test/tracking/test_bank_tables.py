"""The memory bank by hand: which slots hold what, what an object attends to, and maps and looks of other sizes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_tracker import small_model

from sam2_ros.model.network import ImageFeatures
from sam2_ros.model.sam2 import Sam2Model
from sam2_ros.tracking.bank import EMPTY, MemoryBank
from sam2_ros.tracking.config import TrackerConfig

MAP = (64, 64)  # tokens and channels of a memory of the small network
CELLS = 16  # of a look here


def bank_of(**settings: Any) -> MemoryBank:
    return MemoryBank(small_model(), TrackerConfig(max_objects=3, **settings))


def tiny(**settings: Any) -> MemoryBank:
    """Maps of 4 x 4 cells of one number each, and looks of as many cells of two numbers."""
    sizes = {"memory_tokens": 16, "memory_dim": 1, "hidden_dim": 1, "grid": 4, "appearance_dim": 2}
    model: Any = SimpleNamespace(
        config=SimpleNamespace(**sizes, num_memory_frames=7), device=torch.device("cpu"), appearance=True
    )
    model.looks = lambda features: features.appearance
    model.look = lambda *shown: Sam2Model.look(model, *shown)
    return MemoryBank(model, TrackerConfig(max_objects=3, **settings))


def prompt(bank: MemoryBank, row: int, frame: int, value: float) -> int | None:
    tokens, channels = bank.spatial.shape[2:]
    pointer = torch.full(bank.pointers.shape[2:], value)
    return bank.store_prompted(row, frame, torch.full((tokens, channels), value), pointer)


def recent(bank: MemoryBank, frame: int, values: dict[int, float]) -> None:
    """Remembers a tracked frame for these rows."""
    number = torch.tensor(list(values.values()))
    tokens, channels = bank.spatial.shape[2:]
    memory = number[:, None, None].expand(-1, tokens, channels)
    bank.store_recent(list(values), frame, memory, number[:, None].expand(-1, bank.pointers.shape[2]))


def two_objects() -> MemoryBank:
    """Row 1 was prompted on frame 0 and remembers 1 and 2; row 2 does not remember 2."""
    bank = bank_of(prompted_slots=2, recent_slots=3, history=1)
    for row in (1, 2):
        prompt(bank, row, 0, 10.0 * row)
    recent(bank, 1, {1: 11.0, 2: 21.0})
    bank.stand_still([1, 2], 2)
    recent(bank, 2, {1: 12.0})
    return bank


def test_each_object_attends_to_its_own_memories() -> None:
    bank, model = two_objects(), small_model()
    memories = bank.gather([1, 2], 3)
    maps, split = 3, model.config.hidden_dim // model.config.memory_dim
    assert split == memories.num_pointers // 3 == 4
    assert memories.tokens.shape == memories.codes.shape == (2, maps * 64 + memories.num_pointers, 64)
    starts = [64 * index for index in range(maps)] + [maps * 64 + split * index for index in range(3)]
    assert memories.tokens[0, starts, 5].tolist() == [10, 12, 11, 10, 12, 11]
    assert memories.mask is not None
    known = memories.mask[1, starts].tolist()
    assert memories.mask[0].all() and known == [True, True, False] * 2
    assert memories.mask[1].tolist() == [True] * 128 + [False] * 64 + [True] * 8 + [False] * 4
    assert memories.tokens[1, starts, 5][known].tolist() == [20, 21, 20, 21]
    # The prompted frame has the code of the oldest one, the newest frame the first.
    for index, code in enumerate((6, 0, 1)):
        expected = model.memory_code + model.maskmem_tpos_enc[code, 0]
        assert torch.allclose(memories.codes[0, 64 * index : 64 * index + 64], expected.reshape(64, 64))
    ages = memories.codes[0, maps * 64 :].reshape(3, split, 64)
    assert torch.allclose(ages, model.pointer_code(torch.tensor([[3, 1, 2]]))[0][:, None].expand(-1, split, -1))


def test_objects_that_remember_as_much_need_no_mask() -> None:
    bank = two_objects()
    assert bank.gather([1], 3).mask is None and bank.gather([2], 3).mask is None
    assert bank.gather([2], 3).tokens.shape[1] == 2 * 64 + 2 * 4
    prompt(bank, 0, 0, 5.0)
    assert bank.gather([0], 1).tokens.unique().tolist() == [5]
    newest = bank.gather([1], 3, recent=1)
    assert newest.tokens[0, :128:64, 0].tolist() == [10, 12] and newest.tokens.shape[1] == 2 * 64 + 3 * 4


def test_a_plan_has_the_same_places_for_all_and_valid_ones_first() -> None:
    bank = two_objects()
    plan = bank.plan([1, 2], 3)
    maps, pointers = bank.spatial.flatten(0, 1)[..., 0, 0], bank.pointers.flatten(0, 1)[..., 0]
    for index, values in enumerate(([10, 12, 11], [20, 21])):
        count = len(values)
        assert plan.num_frames[index] == plan.num_pointers[index] == count
        assert maps[plan.frames[index, :count]].tolist() == values == pointers[plan.pointers[index, :count]].tolist()
        assert plan.codes[index, :count].tolist() == [6, 0, 1][:count]
        assert plan.ages[index, :count].tolist() == [3, 1, 2][:count]
    assert plan.frames.shape == (2, 2 + 3) and plan.pointers.shape == (2, 2 + 15)
    assert plan.cut(3, 3) is None and plan.cut(2, 2) is None
    alone = bank.plan([1], 3)
    assert alone.cut(2, 3) is None and alone.cut(3, 2) is None
    cut = alone.cut(3, 3)
    assert cut is not None
    assert [each.shape for each in (cut.frames, cut.codes, cut.pointers, cut.ages)] == [(1, 3)] * 4
    assert (cut.num_frames.tolist(), cut.num_pointers.tolist()) == ([3], [3])


@pytest.mark.parametrize(("policy", "age"), [({"max_pointer_age": 4}, 4), ({"reference_policy": True}, 9), ({}, 9)])
def test_pointers_are_not_older_than_the_network_was_taught(policy: dict[str, Any], age: int) -> None:
    bank = bank_of(**policy)
    prompt(bank, 0, 3, 1.0)
    assert bank.plan([0], 12).ages[0, 0] == age
    assert bank.plan([0], 5).ages[0, 0] == 2


def test_prompted_frames_take_free_slots_then_that_of_the_oldest_but_the_first() -> None:
    bank = bank_of(prompted_slots=3)
    assert [prompt(bank, 1, frame, float(frame)) for frame in (7, 2, 5)] == [None] * 3
    assert prompt(bank, 1, 5, 50.0) is None, "the same frame again"
    assert bank.conditioning_frames[1].tolist() == [7, 2, 5] and bank.spatial[1, 2, 0, 0] == 50
    assert prompt(bank, 1, 9, 9.0) == 5, "the oldest is that of frame 2"
    assert prompt(bank, 1, 11, 11.0) == 7
    assert bank.conditioning_frames[1].tolist() == [11, 2, 9] and bank.pointers[1, :3, 0].tolist() == [11, 2, 9]
    assert (bank.conditioning_frames[[0, 2]] == EMPTY).all()
    single = bank_of(prompted_slots=1)
    assert [prompt(single, 0, frame, 1.0) for frame in (3, 4, 4, 6)] == [None, 3, None, 4]


def test_an_object_remembers_what_was_before() -> None:
    bank = two_objects()
    bank.conditioning_frames[1] = EMPTY
    assert [bank.remembers(1, frame) for frame in (2, 3)] == [True, True] and not bank.remembers(0, 3)
    assert bank.remembers(2, 3)
    bank.forget_recent(1, 3)
    assert not bank.remembers(1, 3)


def test_a_row_is_cleared_alone() -> None:
    bank = two_objects()
    size, others = bank.nbytes, [table[2].copy() for table in bank._tables()]
    bank.clear(1)
    assert all((table[1] == EMPTY).all() for table in bank._tables())
    assert all((table[2] == before).all() for table, before in zip(bank._tables(), others, strict=True))
    assert bank.nbytes == size == sum(tensor.nbytes for tensor in bank.tensors)
    assert not bank.remembers(1, 3) and bank.remembers(2, 3)


# -- other sizes ---------------------------------------------------------------------------------------------


def test_maps_are_resampled_where_a_frame_is_seen_in_another_size() -> None:
    bank = tiny()
    pointer = torch.zeros(1, 1)
    bank.store_recent([0], 1, torch.arange(4.0).reshape(1, 4, 1), pointer)
    bank.store_recent([1], 1, torch.arange(16.0).reshape(1, 16, 1), pointer)
    bank.fit([0, 1, 2], 16)
    slot = bank.config.prompted_slots + int((bank.recent_frames[0] == 1).argmax())
    large = bank.spatial[:2, slot, :, 0]
    assert large[0].tolist() == [0, 0, 1, 1] * 2 + [2, 2, 3, 3] * 2
    assert large[1].tolist() == list(range(16)) and bank.tokens[:, 0].tolist() == [16] * 3
    bank.fit([0], 4)
    assert bank.spatial[0, slot, :4, 0].tolist() == [0, 1, 2, 3] and bank.tokens[:, 0].tolist() == [4, 16, 16]


def test_what_is_stored_in_another_size_makes_the_others_fit() -> None:
    """Prompted or tracked, the maps of one object have one size."""
    bank = tiny(prompted_slots=2)
    bank.store_prompted(0, 0, torch.full((16, 1), 5.0), torch.zeros(1))
    bank.store_recent([0], 1, torch.full((1, 4, 1), 7.0), torch.zeros(1, 1))
    assert bank.tokens[0, 0] == 4 and bank.spatial[0, 0, :4, 0].tolist() == [5.0] * 4
    bank.store_prompted(0, 2, torch.full((16, 1), 6.0), torch.zeros(1))
    slot = bank.config.prompted_slots + int((bank.recent_frames[0] == 1).argmax())
    assert bank.tokens[0, 0] == 16 and bank.spatial[0, slot, :, 0].tolist() == [7.0] * 16


# -- looks ---------------------------------------------------------------------------------------------------


def look(value: float, side: int = 4) -> ImageFeatures:
    nothing = torch.empty(0)
    looks = torch.full((1, side**2, 2), value)
    return ImageFeatures(nothing, nothing, nothing, torch.zeros(1, 3, 4 * side, 4 * side), looks)


def covering(cell: int, side: int = 4) -> torch.Tensor:
    """Logits of a mask of a single cell."""
    logits = torch.full((side, side, 4, 4), -1.0)
    logits[cell // side, cell % side] = 1.0
    return logits.transpose(1, 2).reshape(4 * side, 4 * side)


def test_references_are_those_before_a_frame_of_each_object() -> None:
    bank = tiny(prompted_slots=2)
    for row, frame, value in ((0, 0, 1.0), (0, 4, 2.0), (1, 2, 3.0)):
        bank.store_prompted(row, frame, torch.zeros(16, 1), torch.zeros(1), look(value), covering(frame))
    bank.store_sure(1, 6, look(4.0), covering(6))
    known = bank.references([0, 1], 7)
    assert known.tokens.shape == (2, 3 * CELLS, 2) and known.coverage.shape == (2, 3 * CELLS)
    assert known.tokens[0, : 2 * CELLS : CELLS, 0].tolist() == [1, 2]
    assert known.tokens[1, [0, 2 * CELLS], 0].tolist() == [3, 4]
    assert (known.coverage[0, 2 * CELLS :] == -1).all() and (known.coverage[1, CELLS : 2 * CELLS] == -1).all()
    assert [torch.nonzero(row == 1)[:, 0].tolist() for row in known.coverage] == [[0, CELLS + 4], [2, 2 * CELLS + 6]]
    assert known.colors.sum(dim=2).tolist() == [[2, 2, 0], [2, 0, 2]], "chroma and brightness, of known frames"
    for frame, count in ((7, 2), (6, 1), (3, 1), (2, 0)):
        assert bank.references([1], frame).tokens.shape[1] == count * CELLS
    assert bank.references([0], 4).tokens.shape[1] == CELLS


def test_a_prompted_frame_without_a_look_is_not_known() -> None:
    bank = tiny()
    prompt(bank, 0, 0, 1.0)
    assert bank.references([0], 1).known.tolist() == [False]


def test_looks_of_another_size_leave_the_rest_unknown() -> None:
    bank = tiny(prompted_slots=2)
    bank.store_prompted(0, 0, torch.zeros(16, 1), torch.zeros(1), look(1.0), covering(5))
    bank.store_prompted(0, 1, torch.zeros(4, 1), torch.zeros(1), look(2.0, side=2), covering(3, side=2))
    known = bank.references([0], 2)
    assert known.coverage[0, CELLS:].tolist() == [0, 0, 0, 1] + [-1] * 12
    bank.store_prompted(0, 0, torch.zeros(4, 1), torch.zeros(1), look(3.0, side=2), covering(0, side=2))
    assert bank.references([0], 2).coverage[0].tolist() == [1, 0, 0, 0, 0, 0, 0, 1], "as many cells as the largest has"


def test_a_sure_look_is_forgotten_from_its_frame_on_or_before_another() -> None:
    def sure(frame: int) -> MemoryBank:
        bank = tiny()
        for row in (0, 1):
            bank.store_sure(row, frame, look(1.0), covering(0))
        return bank

    for frame, kept in ((4, False), (5, False), (6, True)):
        bank = sure(5)
        bank.forget_from(0, frame)
        assert (bank.sure_frames[:2, 0] == 5).tolist() == [kept, True]
    for frame, kept in ((4, True), (5, True), (6, False)):
        bank = sure(5)
        bank.forget_recent(0, frame)
        assert (bank.sure_frames[:2, 0] == 5).tolist() == [kept, True]


def test_a_backup_brings_everything_back() -> None:
    bank = tiny(prompted_slots=2)
    bank.store_prompted(1, 0, torch.full((16, 1), 3.0), torch.ones(1), look(1.0), covering(1))
    recent(bank, 1, {1: 4.0})
    before = bank.save(1)
    expected = [tensor[1].clone() for tensor in bank.tensors], [table[1].copy() for table in bank._tables()]
    bank.store_prompted(1, 0, torch.full((4, 1), 9.0), torch.zeros(1), look(2.0), covering(2))
    bank.store_sure(1, 2, look(5.0), covering(3))
    recent(bank, 2, {0: 1.0, 1: 8.0})
    bank.restore(1, before)
    assert all(torch.equal(tensor[1], past) for tensor, past in zip(bank.tensors, expected[0], strict=True))
    assert all((table[1] == past).all() for table, past in zip(bank._tables(), expected[1], strict=True))
    assert bank.remembers(0, 3), "the other object keeps what it has"
