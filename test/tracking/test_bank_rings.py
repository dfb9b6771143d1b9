"""The memory bank's rings against plain lists over random streams: frames remembered or not, written before that is
decided, tracked again after late prompts, and restored after a failure."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from sam2_ros.tracking.bank import POINTER_FRAMES, MemoryBank
from sam2_ros.tracking.config import TrackerConfig

FRAMES = 120
Kept = tuple[float | None, ...]
"""What an object remembers after a frame, the newest last; None for a prompted frame, which has another slot."""


class Stream:
    """One object's memories, each a number of its own, in the bank and in lists."""

    def __init__(self, seed: int, history: int, recent: int) -> None:
        self.random = random.Random(seed)
        sizes = {
            "memory_tokens": 1,
            "memory_dim": 1,
            "hidden_dim": 1,
            "grid": 1,
            "appearance_dim": 0,
            "num_memory_frames": 7,
        }
        model: Any = SimpleNamespace(config=SimpleNamespace(**sizes), device=torch.device("cpu"), appearance=None)
        self.history = history
        self.bank = MemoryBank(model, TrackerConfig(max_objects=1, history=history, recent_slots=recent))
        self.bank.spatial = self.bank.spatial.float()
        self.after: dict[int, Kept] = {}
        self.number = 0.0

    def check(self, frame: int) -> None:
        """Checks that ``frame`` attends to what the lists say."""
        bank, wanted = self.bank, self.after.get(frame - 1, ())
        for count, tensor, table in (
            (bank.config.recent_slots, bank.spatial[..., 0, 0], bank.recent_frames),
            (POINTER_FRAMES, bank.pointers[..., 0], bank.pointer_frames),
        ):
            slots, there = bank._recent(np.array([0]), frame, np.arange(1, count + 1), table)
            found = [
                tensor[0, bank.config.prompted_slots + int(slot)].item() if known else None
                for slot, known in zip(slots[0], there[0], strict=True)
            ]
            expected: list[float | None] = list(reversed(wanted[-count:]))
            assert found == expected + [None] * (count - len(expected))

    def track(self, frame: int, keeps: float) -> None:
        self.bank.stand_still([0], frame)
        self.check(frame)
        for _ in range(self.random.choice((1, 1, 2))):  # a second time where stray parts were removed
            self.number += 1
            self.bank.write_recent([0], frame, torch.full((1, 1, 1), self.number), torch.full((1, 1), self.number))
        before = self.after.get(frame - 1, ())
        if self.random.random() < keeps:
            self.bank.commit_recent([0], frame)
            before = (*before, self.number)
        self.after[frame] = before

    def prompt(self, frame: int) -> None:
        self.check(frame)
        self.bank.tick_prompted(0, frame)
        self.after[frame] = (*self.after.get(frame - 1, ()), None)

    def prompt_late(self, frame: int, newest: int, keeps: float) -> None:
        """A prompt on ``frame``, after which all later frames are tracked again; at times restored."""
        backup = self.bank.save(0), dict(self.after)
        self.prompt(frame)
        for later in range(frame + 1, newest + 1):
            self.track(later, keeps)
        if self.random.random() < 0.3:
            self.bank.restore(0, backup[0])
            self.after = backup[1]


@pytest.mark.parametrize("recent", [1, 3, 6])
@pytest.mark.parametrize("history", [0, 1, 3, 8])
def test_looks_at_what_was_kept(history: int, recent: int) -> None:
    for seed in range(8):
        stream = Stream(seed, history, recent)
        stream.prompt(0)
        keeps = 1.0
        for frame in range(1, FRAMES):
            if stream.random.random() < 0.2:
                keeps = stream.random.choice((0.0, 0.2, 0.5, 0.9, 1.0))
            stream.track(frame, keeps)
            if stream.random.random() < 0.3:
                stream.prompt_late(stream.random.randint(max(0, frame - history), frame), frame, keeps)
        assert stream.number > FRAMES
        assert any(one is not None for one in stream.after[FRAMES - 1])


def test_forgetting_before_a_frame_keeps_that_frame() -> None:
    stream = Stream(0, 3, 6)
    for frame in range(1, 6):
        stream.track(frame, 1.0)
    stream.bank.forget_recent(0, 5)
    newest = stream.after[5][-1]
    stream.after[5] = (None, None, None, None, newest)
    stream.check(6)


def attended(bank: MemoryBank, frame: int, recent: int | None = None) -> tuple[dict[float, int], dict[float, int]]:
    """What the first object attends to on ``frame``: each memory's time code, and each pointer's age."""
    plan = bank.plan([0], frame, recent)
    maps = bank.spatial.flatten(0, 1)[plan.frames[0], 0, 0].tolist()[: plan.num_frames[0]]
    pointers = bank.pointers.flatten(0, 1)[plan.pointers[0], 0].tolist()[: plan.num_pointers[0]]
    return dict(zip(maps, plan.codes[0].tolist(), strict=False)), dict(
        zip(pointers, plan.ages[0].tolist(), strict=False)
    )


def test_a_frame_attends_to_earlier_prompted_frames_and_recent_ones() -> None:
    bank = Stream(0, 3, 3).bank
    for frame in range(1, 6):
        bank.store_recent([0], frame, torch.full((1, 1, 1), float(frame)), torch.full((1, 1), float(frame)))
    # without a prompted frame, nothing else bounds the recent ones
    assert attended(bank, 6, recent=1) == ({5: 0, 4: 1, 3: 2}, {5: 1, 4: 2, 3: 3, 2: 4, 1: 5})
    assert bank.store_prompted(0, 6, torch.full((1, 1), 60.0), torch.full((1,), 60.0)) is None
    assert 60 not in attended(bank, 6)[0]
    assert attended(bank, 7) == ({60: 6, 5: 1, 4: 2}, {60: 1, 5: 2, 4: 3, 3: 4, 2: 5, 1: 6})
    assert attended(bank, 7, recent=2) == ({60: 6, 5: 1}, {60: 1, 5: 2, 4: 3, 3: 4, 2: 5, 1: 6})


def test_an_object_remembers_only_frames_before() -> None:
    bank = Stream(0, 3, 3).bank
    bank.store_prompted(0, 6, torch.full((1, 1), 60.0), torch.full((1,), 60.0))
    assert [bank.remembers(0, frame) for frame in (5, 6, 7)] == [False, False, True]
