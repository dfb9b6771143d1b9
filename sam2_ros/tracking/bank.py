"""The memory bank: a fixed table of slots, allocated once, whatever the length of the stream.

Every object owns one row. A row has slots for prompted frames, a ring of recent frames and a ring of recent object
pointers (prompted frames keep theirs beside their memory). Which frame lies in which slot is known on the host, so that
choosing memories never waits for the device.

Age is counted by a clock of each row's own. It ticks with every frame that is remembered and stands still while a
hidden object's memory waits. What the clock said after each of the newest frames is kept, so that any of them can be
worked on again, as if no later one had come.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sam2_ros.model.appearance import BINS, Reference, color_shares, coverage_of
from sam2_ros.model.sam2 import ImageFeatures, Sam2Model
from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.policies import POLICIES
from sam2_ros.tracking.transfer import upload

Table: TypeAlias = NDArray[np.int64]

EMPTY = -1
POINTER_FRAMES = 15  # frames before the current one whose pointers SAM 2 looks at


@dataclass(frozen=True)
class Memories:
    """What memory attention is given for ``B`` objects."""

    tokens: Tensor  # [B, K, memory_dim] whole frames first, pointer tokens last
    codes: Tensor  # [B, K, memory_dim] position codes
    num_pointers: int  # pointer tokens at the end
    mask: Tensor | None  # [B, K] bool, False = ignore; None: all count


@dataclass(frozen=True)
class Plan:
    """Where in the bank the memories of ``B`` objects lie, those that count first; S and P are the same for all."""

    frames: Table  # [B, S] index among all slots of all rows
    codes: Table  # [B, S] row of the temporal code
    num_frames: Table  # [B] that count
    pointers: Table  # [B, P] index among all pointer slots of all rows
    ages: Table  # [B, P] in frames
    num_pointers: Table  # [B] that count

    def cut(self, frames: int, pointers: int) -> Plan | None:
        """The plan with so many frames and pointers of each object, if all objects have just as many."""
        if not ((self.num_frames == frames).all() and (self.num_pointers == pointers).all()):
            return None
        return Plan(
            self.frames[:, :frames], self.codes[:, :frames], self.num_frames, self.pointers[:, :pointers],
            self.ages[:, :pointers], self.num_pointers,
        )  # fmt: skip


@dataclass(frozen=True)
class _Held:
    slots: Table  # [B, S]
    valid: NDArray[np.bool_]  # [B, S]
    codes: Table  # [S] row of the temporal code
    pointer_slots: Table  # [B, P]
    pointer_valid: NDArray[np.bool_]  # [B, P]
    ages: Table  # [B, P] in frames


@dataclass(frozen=True)
class RowBackup:
    """One row as it was."""

    tensors: tuple[Tensor, ...]
    tables: tuple[Table, ...]


def kept_slots(config: TrackerConfig) -> int:
    """Slots of an object for frames that newer ones don't push out: prompted ones and anchors."""
    return config.prompted_slots + POLICIES[config.memory_policy].anchors


class MemoryBank:
    """Memory of up to ``config.max_objects`` objects.

    The newest frame and the ``config.history`` frames before it can be worked on again: the rings are longer by as many
    slots, so that what each of those frames looks at is still there.
    """

    def __init__(self, model: Sam2Model, config: TrackerConfig) -> None:
        self.model = model
        self.config = config
        self.kept = kept_slots(config)
        rows, prompted, again = config.max_objects, self.kept, config.history + 1
        self.ring = config.recent_slots + again
        self.pointer_ring = POINTER_FRAMES + again
        tokens, channels = model.config.memory_grid**2, model.config.memory_dim
        device, pointer_dim = model.device, model.config.hidden_dim
        # bfloat16 as in the reference, also where the network computes in float32.
        self.spatial = torch.zeros(rows, prompted + self.ring, tokens, channels, dtype=torch.bfloat16, device=device)
        self.pointers = torch.zeros(rows, prompted + self.pointer_ring, pointer_dim, device=device)
        # What the prompted frames looked like, cell by cell, and how much of each cell the object covers, and the same
        # of the newest frame on which the object was surely recognised. For a model that can; else of no size.
        cells, looks = (model.config.grid**2, model.config.appearance_dim) if model.appearance is not None else (0, 0)
        slots = config.prompted_slots + 1
        self.looks = torch.zeros(rows, slots, cells, looks, dtype=torch.bfloat16, device=device)
        self.coverage = torch.zeros(rows, slots, cells, dtype=torch.bfloat16, device=device)
        self.colors = torch.zeros(rows, slots, (BINS**2 + BINS) * bool(looks), device=device)
        self.prompted_frames = np.full((rows, prompted), EMPTY, np.int64)
        self.recent_frames = np.full((rows, self.ring), EMPTY, np.int64)
        self.pointer_frames = np.full((rows, self.pointer_ring), EMPTY, np.int64)
        self.sure_frames = np.full((rows, 1), EMPTY, np.int64)
        self.ticks = np.full((rows, again + 1), EMPTY, np.int64)  # of each row's clock after a frame, by frame

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All that it holds."""
        return self.spatial, self.pointers, self.looks, self.coverage, self.colors

    @property
    def nbytes(self) -> int:
        """Bytes of the bank; constant."""
        return sum(t.numel() * t.element_size() for t in self.tensors)

    def clear(self, row: int) -> None:
        """Empties a row for its next owner."""
        for table in self._tables():
            table[row] = EMPTY

    def hold(self, rows: list[int], frame: int) -> None:
        """Lets ``frame`` pass without being remembered: on the next one the memory is as old as on this one."""
        self.ticks[rows, frame % self.ticks.shape[1]] = self._before(np.asarray(rows), frame)

    def store_recent(self, rows: list[int], frame: int, memory: Tensor, pointers: Tensor) -> None:
        """Keeps a tracked frame until newer ones need its slot.

        ``memory`` is ``[B, HW, memory_dim]``, ``pointers`` ``[B, C]``.
        """
        self.write_recent(rows, frame, memory, pointers)
        self.keep_recent(rows, frame)

    def write_recent(self, rows: list[int], frame: int, memory: Tensor, pointers: Tensor) -> None:
        """The first half of :meth:`store_recent`: puts memories where nobody looks until the second half was done.

        The rings have a slot for the frame that is being worked on; if it is not kept, the next one gets that slot.
        """
        slots, pointer_slots = self._slots(self._before(np.asarray(rows), frame) + 1)
        where = np.stack((np.asarray(rows), self.kept + slots, self.kept + pointer_slots))
        index, slot, pointer_slot = upload(where, self.spatial.device)
        self.spatial[index, slot] = memory.to(self.spatial.dtype)
        self.pointers[index, pointer_slot] = pointers.float()

    def keep_recent(self, rows: list[int], frame: int) -> None:
        """The second half of :meth:`store_recent`: the clock ticks, and what was written counts."""
        slots, pointer_slots = self._tick(rows, frame)
        self.recent_frames[rows, slots] = frame
        self.pointer_frames[rows, pointer_slots] = frame

    def store_anchor(self, row: int, frame: int, memory: Tensor, pointer: Tensor) -> None:
        """Keeps a tracked frame as an anchor (``memory`` ``[HW, memory_dim]``, ``pointer`` ``[C]``) beside the prompted
        frames; the oldest anchor gives way."""
        table = self.prompted_frames[row, self.config.prompted_slots :]
        slot = int(table.argmin())  # an empty one, or the oldest
        table[slot] = frame
        self.spatial[row, self.config.prompted_slots + slot] = memory.to(self.spatial.dtype)
        self.pointers[row, self.config.prompted_slots + slot] = pointer.float()

    def forget_anchors(self, row: int, frame: int) -> None:
        """Forgets the anchors from ``frame`` on, and the look of a tracked frame from then on."""
        for table in (self.prompted_frames[row, self.config.prompted_slots :], self.sure_frames[row]):
            table[table >= frame] = EMPTY

    def forget_recent(self, row: int, frame: int) -> None:
        """Forgets the tracked frames before ``frame``; prompted ones stay."""
        for table in (self.recent_frames[row], self.pointer_frames[row], self.sure_frames[row]):
            table[table < frame] = EMPTY

    def skip(self, row: int, frame: int) -> None:
        """Lets the clock tick for a prompted frame: it must not also count as a recent one."""
        slots, pointer_slots = self._tick([row], frame)
        self.recent_frames[row, slots] = EMPTY
        self.pointer_frames[row, pointer_slots] = EMPTY

    def store_prompted(
        self,
        row: int,
        frame: int,
        memory: Tensor,
        pointer: Tensor,
        features: ImageFeatures | None = None,
        logits: Tensor | None = None,
    ) -> int | None:
        """Keeps a prompted frame (``memory`` ``[HW, memory_dim]``, ``pointer`` ``[C]``); tracking never overwrites it.

        The image's ``features`` and the mask's ``logits`` ``[h, w]`` are what the object is recognised by.

        When all slots are taken, the oldest prompted frame but the first gives way; with a single slot, the first does.

        Returns:
            The frame that was let go, or None.
        """
        table = self.prompted_frames[row, : self.config.prompted_slots]
        released: int | None = None
        if frame in table:
            slot = int(np.flatnonzero(table == frame)[0])
        elif (table == EMPTY).any():
            slot = int(np.flatnonzero(table == EMPTY)[0])
        else:
            first = int(table.argmin())
            candidates = [index for index in range(len(table)) if index != first] or [first]
            slot = min(candidates, key=lambda index: int(table[index]))
            released = int(table[slot])
        self.spatial[row, slot] = memory.to(self.spatial.dtype)
        self.pointers[row, slot] = pointer.float()
        if features is not None and logits is not None:
            self._store_look(row, slot, features, logits)
        table[slot] = frame
        self.skip(row, frame)
        return released

    def store_sure(self, row: int, frame: int, features: ImageFeatures, logits: Tensor) -> None:
        """Keeps what a tracked frame looked like on which the object was surely recognised; the last such goes."""
        self._store_look(row, self.config.prompted_slots, features, logits)
        self.sure_frames[row] = frame

    def _store_look(self, row: int, slot: int, features: ImageFeatures, logits: Tensor) -> None:
        if features.appearance is None or features.picture is None:
            return
        self.looks[row, slot] = features.appearance[0].to(self.looks.dtype)
        self.colors[row, slot] = color_shares(features.picture, logits[None])[0]
        self.coverage[row, slot] = coverage_of(logits[None], self.model.config.grid)[0].to(self.coverage.dtype)

    def remembers(self, row: int, frame: int) -> bool:
        """Whether a frame before ``frame`` is kept that :meth:`gather` would look at."""
        prompted, rows = self.prompted_frames[row], np.array([row])
        _, recent = self._recent(rows, frame, np.arange(1, self.config.recent_slots + 1))
        return bool(((prompted != EMPTY) & (prompted < frame)).any() or recent.any())

    def gather(self, rows: list[int], frame: int, recent: int | None = None) -> Memories:
        """The memories that the objects in ``rows`` look at on ``frame``; objects may hold different numbers of them.

        Each must hold one (:meth:`remembers`). ``recent`` bounds the recent frames further than the settings do.
        """
        model = self.model
        held = self._held(rows, frame, recent)
        kept = [index for index in range(held.slots.shape[1]) if held.valid[:, index].any()]
        pointer_kept = [index for index in range(held.pointer_slots.shape[1]) if held.pointer_valid[:, index].any()]
        slots, pointer_slots = held.slots[:, kept], held.pointer_slots[:, pointer_kept]
        columns, pointer_columns = held.valid[:, kept], held.pointer_valid[:, pointer_kept]
        codes, ages = held.codes[kept], held.ages[:, pointer_kept]

        device, split = self.spatial.device, model.config.hidden_dim // model.config.memory_dim
        index = torch.as_tensor(rows, device=device)[:, None]
        spatial = self.spatial[index, torch.as_tensor(slots, device=device)]  # [B, S, HW, memory_dim]
        pointers = self.pointers[index, torch.as_tensor(pointer_slots, device=device)]  # [B, P, C]
        time_codes = model.maskmem_tpos_enc[torch.as_tensor(codes, device=device), 0]  # [S, 1, memory_dim]
        spatial_codes = (model.memory_code + time_codes).flatten(0, 1)[None].expand(len(rows), -1, -1)
        pointer_codes = model.pointer_code(torch.as_tensor(ages, device=device))
        tokens = torch.cat((spatial.flatten(1, 2).float(), pointers.unflatten(2, (split, -1)).flatten(1, 2)), dim=1)
        all_codes = torch.cat((spatial_codes, pointer_codes.repeat_interleave(split, dim=1)), dim=1)

        mask = None
        if not (columns.all() and pointer_columns.all()):
            per_slot = torch.as_tensor(columns, device=device)
            per_pointer = torch.as_tensor(pointer_columns, device=device)
            mask = torch.cat(
                (
                    per_slot.repeat_interleave(self.spatial.shape[2], dim=1),
                    per_pointer.repeat_interleave(split, dim=1),
                ),
                dim=1,
            )
        return Memories(tokens, all_codes, len(pointer_kept) * split, mask)

    def plan(self, rows: list[int], frame: int, recent: int | None = None) -> Plan:
        """The same as :meth:`gather` looks at, as places in the bank, in tables of one shape whatever is held."""
        held = self._held(rows, frame, recent)
        order = np.argsort(~held.valid, axis=1, kind="stable")  # those that count come first
        pointer_order = np.argsort(~held.pointer_valid, axis=1, kind="stable")
        table = np.asarray(rows)[:, None]
        return Plan(
            np.take_along_axis(table * self.spatial.shape[1] + held.slots, order, axis=1),
            held.codes[order],
            held.valid.sum(axis=1),
            np.take_along_axis(table * self.pointers.shape[1] + held.pointer_slots, pointer_order, axis=1),
            np.take_along_axis(held.ages, pointer_order, axis=1),
            held.pointer_valid.sum(axis=1),
        )

    def _held(self, rows: list[int], frame: int, recent: int | None) -> _Held:
        """All slots that the objects in ``rows`` could look at on ``frame``, and which of them hold something."""
        config, prompted, table = self.config, self.kept, np.asarray(rows)
        frames = self.prompted_frames[table]
        held = (frames != EMPTY) & (frames < frame)
        kept = np.broadcast_to(np.arange(prompted), held.shape)
        last = config.recent_slots
        if recent is not None and held.any():
            last = min(last, recent)
        ages, pointer_ages = np.arange(1, config.recent_slots + 1), np.arange(1, POINTER_FRAMES + 1)
        slots, valid = self._recent(table, frame, ages)
        valid &= ages <= last
        pointer_slots, pointer_valid = self._recent(table, frame, pointer_ages, self.pointer_frames)
        oldest = self.model.config.num_memory_frames - 1
        return _Held(
            np.concatenate((kept, prompted + slots), axis=1),
            np.concatenate((held, valid), axis=1),
            np.concatenate((np.full(prompted, oldest), np.arange(config.recent_slots))),
            np.concatenate((kept, prompted + pointer_slots), axis=1),
            np.concatenate((held, pointer_valid), axis=1),
            np.concatenate(
                (
                    self._bounded(np.where(held, frame - frames, 0)),
                    np.broadcast_to(pointer_ages, (len(table), POINTER_FRAMES)),
                ),
                axis=1,
            ),
        )

    def references(self, rows: list[int], frame: int) -> Reference:
        """What the objects in ``rows`` looked like before ``frame``: on the frames with a prompt, and on the newest one
        on which they were surely recognised."""
        table, prompted = np.asarray(rows), self.config.prompted_slots
        frames = np.concatenate((self.prompted_frames[table, :prompted], self.sure_frames[table]), axis=1)
        held = (frames != EMPTY) & (frames < frame)
        used = np.flatnonzero(held.any(axis=0)).tolist()
        index = torch.as_tensor(rows, device=self.looks.device)[:, None]
        slots = torch.as_tensor(used, device=index.device)
        there = torch.as_tensor(held[:, used], device=index.device)[:, :, None]
        coverage = torch.where(there, self.coverage[index, slots].float(), -1.0)
        colors = torch.where(there, self.colors[index, slots], 0.0)
        return Reference(self.looks[index, slots].flatten(1, 2), coverage.flatten(1, 2), colors)

    def _bounded(self, ages: np.ndarray) -> np.ndarray:
        """Ages of prompted pointers, no greater than training saw unless the reference is to be followed."""
        return ages if self.config.reference_policy else np.minimum(ages, self.config.max_pointer_age)

    def save(self, row: int) -> RowBackup:
        """A copy of a row, for :meth:`restore` after a failure."""
        tables = tuple(table[row].copy() for table in self._tables())
        return RowBackup(tuple(tensor[row].clone() for tensor in self.tensors), tables)

    def restore(self, row: int, backup: RowBackup) -> None:
        for tensor, values in zip(self.tensors, backup.tensors, strict=True):
            tensor[row] = values
        for table, past in zip(self._tables(), backup.tables, strict=True):
            table[row] = past

    def _tables(self) -> tuple[Table, ...]:
        return self.prompted_frames, self.recent_frames, self.pointer_frames, self.sure_frames, self.ticks

    def _before(self, rows: Table, frame: int) -> Table:
        """What the rows' clocks said after the frame before ``frame``."""
        return self.ticks[rows, (frame - 1) % self.ticks.shape[1]]

    def _tick(self, rows: list[int], frame: int) -> tuple[Table, Table]:
        """Lets the rows' clocks tick on ``frame``; returns the slots of the rings that this gives them."""
        now = self._before(np.asarray(rows), frame) + 1
        self.ticks[rows, frame % self.ticks.shape[1]] = now
        return self._slots(now)

    def _slots(self, ticks: Table) -> tuple[Table, Table]:
        """The slots of both rings that belong to ``ticks`` of a row's clock."""
        return ticks % self.ring, ticks % self.pointer_ring

    def _recent(
        self, rows: Table, frame: int, ages: Table, frames: Table | None = None
    ) -> tuple[Table, NDArray[np.bool_]]:
        """Slots of each row's memories that are ``ages`` (``[A]``) ticks old on ``frame``, and whether there is one
        (``[B, A]`` both).

        ``frames`` is the table of the ring that is asked for, by default that of memory maps.
        """
        frames = self.recent_frames if frames is None else frames
        ticks = self._before(rows, frame)[:, None] + 1 - ages
        slots = ticks % frames.shape[1]
        return slots, (ticks >= 0) & (frames[rows[:, None], slots] != EMPTY)
