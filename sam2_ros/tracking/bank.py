"""The memory bank: a fixed table of slots, allocated once, whatever the length of the stream.

Every object owns one row. A row has slots for conditioning frames (the prompted ones), a ring of recent frames and a
ring of recent object pointers. Conditioning frames keep their pointer beside their memory.
The host knows which frame lies in which slot, so that choosing memories never waits for the device.

Each row counts age by a clock of its own. The clock ticks with every remembered frame and stands still while a hidden
object's memory waits. The bank stores what the clock said after each of the newest frames, so that a late prompt can
work on any of them as if no later one had come.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sam2_ros.model.arrays import copied, float32, module_of, rounded, unrounded, zeros, zeros_in_bfloat16
from sam2_ros.model.network import BINS, Array, ImageFeatures, Network, Reference
from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.transfer import upload

Table: TypeAlias = NDArray[np.int64]
RowBackup: TypeAlias = tuple[list[Array], list[Table]]

EMPTY = -1
POINTER_FRAMES = 15  # frames before the current one whose pointers SAM 2 attends to


class Memories(NamedTuple):
    """The input of memory attention for ``B`` objects."""

    tokens: Array  # [B, K, memory_dim] whole frames first, pointer tokens last
    codes: Array  # [B, K, memory_dim] position codes
    num_pointers: int  # pointer tokens at the end
    mask: Array | None  # [B, K] bool, False = ignore; None: all count


@dataclass(frozen=True)
class Plan:
    """Places in the bank of the memories of ``B`` objects, valid ones first; S and P are the same for all objects."""

    frames: Table  # [B, S] index among all slots of all rows
    codes: Table  # [B, S] row of the temporal code
    num_frames: Table  # [B] valid ones
    pointers: Table  # [B, P] index among all pointer slots of all rows
    ages: Table  # [B, P] in frames
    num_pointers: Table  # [B] valid ones

    def cut(self, frames: int, pointers: int) -> Plan | None:
        """The plan of exactly so many frames and pointers per object; None if an object has another number."""
        if not ((self.num_frames == frames).all() and (self.num_pointers == pointers).all()):
            return None
        return Plan(
            self.frames[:, :frames], self.codes[:, :frames], self.num_frames, self.pointers[:, :pointers],
            self.ages[:, :pointers], self.num_pointers,
        )  # fmt: skip


@dataclass(frozen=True)
class _Slots:
    slots: Table  # [B, S]
    valid: NDArray[np.bool_]  # [B, S]
    codes: Table  # [S] row of the temporal code
    pointer_slots: Table  # [B, P]
    pointer_valid: NDArray[np.bool_]  # [B, P]
    ages: Table  # [B, P] in frames


class MemoryBank:
    """Memory of up to ``config.max_objects`` objects.

    A late prompt may work again on the newest frame and the ``config.history`` frames before it. The rings are longer
    by as many slots, so that the memories that each of those frames attends to are still there.
    """

    def __init__(self, model: Network, config: TrackerConfig) -> None:
        self.model = model
        self.config = config
        rows, prompted, again = config.max_objects, config.prompted_slots, config.history + 1
        self.ring = config.recent_slots + again
        self.pointer_ring = POINTER_FRAMES + again
        tokens, channels = model.config.memory_tokens, model.config.memory_dim
        device, pointer_dim = model.device, model.config.hidden_dim
        # bfloat16 as in the reference, also where the network computes in float32.
        self.spatial = zeros_in_bfloat16((rows, prompted + self.ring, tokens, channels), device)
        self.pointers = zeros((rows, prompted + self.pointer_ring, pointer_dim), device)
        # For recognition: appearance of the prompted frames by cell, and how much of each cell the object covers; the
        # last slot is for the newest frame on which the object was surely recognised. Empty for other models.
        cells, looks = (model.config.grid**2, model.config.appearance_dim) if model.appearance is not None else (0, 0)
        slots = config.prompted_slots + 1
        self.looks = zeros_in_bfloat16((rows, slots, cells, looks), device)
        self.coverage = zeros_in_bfloat16((rows, slots, cells), device)
        self.colors = zeros((rows, slots, (BINS**2 + BINS) * bool(looks)), device)
        self.conditioning_frames = np.full((rows, prompted), EMPTY, np.int64)
        self.recent_frames = np.full((rows, self.ring), EMPTY, np.int64)
        self.pointer_frames = np.full((rows, self.pointer_ring), EMPTY, np.int64)
        self.sure_frames = np.full((rows, 1), EMPTY, np.int64)
        self.ticks = np.full((rows, again + 1), EMPTY, np.int64)  # what each row's clock said after a frame
        self.tokens = np.full((rows, 1), EMPTY, np.int64)  # of a frame's memory, in each row
        self.cells = np.full((rows, slots), EMPTY, np.int64)  # of each stored appearance

    @property
    def tensors(self) -> tuple[Array, ...]:
        return self.spatial, self.pointers, self.looks, self.coverage, self.colors

    @property
    def nbytes(self) -> int:
        """Bytes of the bank; constant."""
        return sum(int(tensor.nbytes) for tensor in self.tensors)

    def clear(self, row: int) -> None:
        """Empties a row for its next owner."""
        for table in self._tables():
            table[row] = EMPTY

    def fit(self, rows: list[int], tokens: int) -> None:
        """Resamples the memory maps of ``rows`` to maps of so many ``tokens`` where they have another number: after
        frames that were seen in another size, see :meth:`Network.at`."""
        for row in np.asarray(rows)[(self.tokens[rows, 0] != tokens) & (self.tokens[rows, 0] != EMPTY)].tolist():
            before, grid = math.isqrt(int(self.tokens[row, 0])), math.isqrt(tokens)
            # The nearest cells: blending them would lose an object of about one cell.
            near = ((np.arange(grid) + 0.5) * (before / grid)).astype(np.int64)
            cells = upload((near[:, None] * before + near).reshape(-1), self.model.device)
            self.spatial[row, :, :tokens] = self.spatial[row][:, cells]
        self.tokens[rows] = tokens

    def stand_still(self, rows: list[int], frame: int) -> None:
        """Passes ``frame`` without remembering it: on the next one the memory is as old as on this one."""
        self.ticks[rows, frame % self.ticks.shape[1]] = self._before(np.asarray(rows), frame)

    def store_recent(self, rows: list[int], frame: int, memory: Array, pointers: Array) -> None:
        """Stores a tracked frame (``memory`` ``[B, HW, memory_dim]``, ``pointers`` ``[B, C]``)."""
        self.write_recent(rows, frame, memory, pointers)
        self.commit_recent(rows, frame)

    def write_recent(self, rows: list[int], frame: int, memory: Array, pointers: Array) -> None:
        """The first half of :meth:`store_recent`. Nothing reads the slots until :meth:`commit_recent`; without it, the
        next frame gets the same slots."""
        slots, pointer_slots = self._slots(self._before(np.asarray(rows), frame) + 1)
        where = np.stack(
            (np.asarray(rows), self.config.prompted_slots + slots, self.config.prompted_slots + pointer_slots)
        )
        index, slot, pointer_slot = upload(where, self.model.device)
        self.fit(rows, memory.shape[1])
        self.spatial[index, slot, : memory.shape[1]] = rounded(memory, self.spatial)
        self.pointers[index, pointer_slot] = float32(pointers)

    def commit_recent(self, rows: list[int], frame: int) -> None:
        """The second half of :meth:`store_recent`: the clock ticks, and what was written is valid."""
        self._tick(rows, frame, frame)

    def forget_from(self, row: int, frame: int) -> None:
        """Forgets the appearance of a tracked frame from ``frame`` on."""
        self.sure_frames[row][self.sure_frames[row] >= frame] = EMPTY

    def forget_recent(self, row: int, frame: int) -> None:
        """Forgets the tracked frames before ``frame``; prompted ones stay."""
        for table in (self.recent_frames[row], self.pointer_frames[row], self.sure_frames[row]):
            table[table < frame] = EMPTY

    def tick_prompted(self, row: int, frame: int) -> None:
        """Ticks the clock for a prompted frame, which must not also count as a recent one."""
        self._tick([row], frame, EMPTY)

    def store_prompted(
        self,
        row: int,
        frame: int,
        memory: Array,
        pointer: Array,
        features: ImageFeatures | None = None,
        logits: Array | None = None,
        model: Network | None = None,
    ) -> int | None:
        """Stores a prompted frame (``memory`` ``[HW, memory_dim]``, ``pointer`` ``[C]``); tracking never overwrites it.

        Recognition compares with the image's ``features`` and the mask's ``logits`` ``[h, w]``; ``model`` as in
        :meth:`gather`. When all slots are taken, the frame replaces the oldest prompted one but the first; with a
        single slot, it replaces the first. Returns the frame that was released, if any.
        """
        table = self.conditioning_frames[row]
        free = [*np.flatnonzero(table == frame), *np.flatnonzero(table == EMPTY)]
        slot = int(free[0] if free else table.argsort()[:2][-1])  # else the oldest but the first
        released = None if free else int(table[slot])
        self.fit([row], len(memory))
        self.spatial[row, slot, : len(memory)] = rounded(memory, self.spatial)
        self.pointers[row, slot] = float32(pointer)
        if features is not None and logits is not None:
            self._store_look(row, slot, features, logits, model)
        table[slot] = frame
        self.tick_prompted(row, frame)
        return released

    def store_sure(
        self, row: int, frame: int, features: ImageFeatures, logits: Array, model: Network | None = None
    ) -> None:
        """Stores the appearance on a tracked frame on which the object was surely recognised, in place of the last.
        ``model`` as in :meth:`gather`."""
        self._store_look(row, self.config.prompted_slots, features, logits, model)
        self.sure_frames[row] = frame

    def _store_look(self, row: int, slot: int, features: ImageFeatures, logits: Array, model: Network | None) -> None:
        if features.appearance is None or features.picture is None:
            return
        cells = features.appearance.shape[1]
        look = (model or self.model).look(features, logits[None])
        coverage = zeros(self.coverage.shape[2:], self.model.device) - 1
        coverage[:cells] = look.coverage[0]
        self.looks[row, slot, :cells] = rounded(look.tokens[0], self.looks)
        self.coverage[row, slot] = rounded(coverage, self.coverage)
        self.colors[row, slot] = look.colors[0, 0]
        self.cells[row, slot] = cells

    def remembers(self, row: int, frame: int) -> bool:
        """Whether there is a frame before ``frame`` that :meth:`gather` would use."""
        prompted, rows = self.conditioning_frames[row], np.array([row])
        _, recent = self._recent(rows, frame, np.arange(1, self.config.recent_slots + 1))
        return bool(((prompted != EMPTY) & (prompted < frame)).any() or recent.any())

    def gather(self, rows: list[int], frame: int, recent: int | None = None, model: Network | None = None) -> Memories:
        """The memories that the objects in ``rows`` attend to on ``frame``; their numbers may differ.

        Each object must have one (:meth:`remembers`). ``recent`` bounds the recent frames further than the settings do.
        ``model`` is the network in the size in which the frame is seen; None: in its usual size.
        """
        model = model or self.model
        cells = model.config.memory_tokens
        self.fit(rows, cells)
        all_slots = self._slots_at(rows, frame, recent)
        used, pointer_used = all_slots.valid.any(axis=0), all_slots.pointer_valid.any(axis=0)
        slots, pointer_slots = all_slots.slots[:, used], all_slots.pointer_slots[:, pointer_used]
        columns, pointer_columns = all_slots.valid[:, used], all_slots.pointer_valid[:, pointer_used]
        codes, ages = all_slots.codes[used], all_slots.ages[:, pointer_used]

        device, split = model.device, model.config.hidden_dim // model.config.memory_dim
        module, count, pointed, width = module_of(self.spatial), len(rows), ages.shape[1], model.config.memory_dim
        index = upload(rows, device)[:, None]
        spatial = unrounded(self.spatial[index, upload(slots, device), :cells])  # [B, S, HW, memory_dim]
        pointers = self.pointers[index, upload(pointer_slots, device)]  # [B, P, C]
        time_codes = model.maskmem_tpos_enc[upload(codes, device), 0]  # [S, 1, memory_dim]
        spatial_codes = (model.memory_code + time_codes).reshape(1, -1, width)
        pointer_codes = model.pointer_code(upload(ages, device))[:, :, None]
        shapes = (count, spatial_codes.shape[1], width), (count, pointed * split, width)
        tokens = module.concatenate((spatial.reshape(shapes[0]), pointers.reshape(shapes[1])), 1)
        pointer_codes = module.broadcast_to(pointer_codes, (count, pointed, split, width)).reshape(shapes[1])
        all_codes = module.concatenate((module.broadcast_to(spatial_codes, shapes[0]), pointer_codes), 1)

        mask = None
        if not (columns.all() and pointer_columns.all()):
            per_token = columns.repeat(cells, axis=1), pointer_columns.repeat(split, axis=1)
            mask = upload(np.concatenate(per_token, axis=1), device)
        return Memories(tokens, all_codes, pointed * split, mask)

    def plan(self, rows: list[int], frame: int, recent: int | None = None) -> Plan:
        """The memories of :meth:`gather` as places in the bank, in tables of one shape whatever is stored."""
        found = self._slots_at(rows, frame, recent)
        order = np.argsort(~found.valid, axis=1, kind="stable")  # valid ones first
        pointer_order = np.argsort(~found.pointer_valid, axis=1, kind="stable")
        table = np.asarray(rows)[:, None]
        return Plan(
            np.take_along_axis(table * self.spatial.shape[1] + found.slots, order, axis=1),
            found.codes[order],
            found.valid.sum(axis=1),
            np.take_along_axis(table * self.pointers.shape[1] + found.pointer_slots, pointer_order, axis=1),
            np.take_along_axis(found.ages, pointer_order, axis=1),
            found.pointer_valid.sum(axis=1),
        )

    def _slots_at(self, rows: list[int], frame: int, recent: int | None) -> _Slots:
        """All slots that the objects in ``rows`` could attend to on ``frame``, and which of them are valid."""
        config, prompted, table = self.config, self.config.prompted_slots, np.asarray(rows)
        frames = self.conditioning_frames[table]
        stored = (frames != EMPTY) & (frames < frame)
        first = np.broadcast_to(np.arange(prompted), stored.shape)
        stored_ages = np.where(stored, frame - frames, 0)
        if not config.reference_policy:
            stored_ages = np.minimum(stored_ages, config.max_pointer_age)  # training saw no greater ones
        last = config.recent_slots
        if recent is not None and stored.any():
            last = min(last, recent)
        ages, pointer_ages = np.arange(1, config.recent_slots + 1), np.arange(1, POINTER_FRAMES + 1)
        slots, valid = self._recent(table, frame, ages)
        valid &= ages <= last
        pointer_slots, pointer_valid = self._recent(table, frame, pointer_ages, self.pointer_frames)
        oldest = self.model.config.num_memory_frames - 1
        return _Slots(
            np.concatenate((first, prompted + slots), axis=1),
            np.concatenate((stored, valid), axis=1),
            np.concatenate((np.full(prompted, oldest), np.arange(config.recent_slots))),
            np.concatenate((first, prompted + pointer_slots), axis=1),
            np.concatenate((stored, pointer_valid), axis=1),
            np.concatenate((stored_ages, np.broadcast_to(pointer_ages, (len(table), POINTER_FRAMES))), axis=1),
        )

    def references(self, rows: list[int], frame: int) -> Reference:
        """The appearance of the objects in ``rows`` before ``frame``: on their prompted frames, and on the newest frame
        on which they were surely recognised."""
        table = np.asarray(rows)
        frames = np.concatenate((self.conditioning_frames[table], self.sure_frames[table]), axis=1)
        valid = (frames != EMPTY) & (frames < frame)
        used = np.flatnonzero(valid.any(axis=0))
        device, where = self.model.device, module_of(self.looks).where
        index, slots, mask = upload(rows, device)[:, None], upload(used, device), upload(valid[:, used, None], device)
        cells = int(self.cells[table][:, used].max(initial=1))
        coverage = where(mask, unrounded(self.coverage[index, slots, :cells]), -1.0)
        colors = where(mask, self.colors[index, slots], 0.0)
        tokens = unrounded(self.looks[index, slots, :cells])
        count = len(used) * cells
        return Reference(tokens.reshape(len(rows), count, tokens.shape[3]), coverage.reshape(len(rows), count), colors)

    def save(self, row: int) -> RowBackup:
        return [copied(tensor[row]) for tensor in self.tensors], [table[row].copy() for table in self._tables()]

    def restore(self, row: int, backup: RowBackup) -> None:
        tensors, tables = backup
        for tensor, values in zip(self.tensors, tensors, strict=True):
            tensor[row] = values
        for table, past in zip(self._tables(), tables, strict=True):
            table[row] = past

    def _tables(self) -> tuple[Table, ...]:
        return (
            self.conditioning_frames, self.recent_frames, self.pointer_frames, self.sure_frames, self.ticks,
            self.tokens, self.cells,
        )  # fmt: skip

    def _before(self, rows: Table, frame: int) -> Table:
        """What the rows' clocks said after the frame before ``frame``."""
        return self.ticks[rows, (frame - 1) % self.ticks.shape[1]]

    def _tick(self, rows: list[int], frame: int, stored: int) -> None:
        """Ticks the rows' clocks on ``frame``; ``stored`` is what both rings then hold for it."""
        now = self._before(np.asarray(rows), frame) + 1
        self.ticks[rows, frame % self.ticks.shape[1]] = now
        slots, pointer_slots = self._slots(now)
        self.recent_frames[rows, slots] = stored
        self.pointer_frames[rows, pointer_slots] = stored

    def _slots(self, ticks: Table) -> tuple[Table, Table]:
        """The slots of both rings that belong to ``ticks`` of a row's clock."""
        return ticks % self.ring, ticks % self.pointer_ring

    def _recent(
        self, rows: Table, frame: int, ages: Table, frames: Table | None = None
    ) -> tuple[Table, NDArray[np.bool_]]:
        """Slots of each row's memories that are ``ages`` (``[A]``) ticks old on ``frame``, and whether there is one
        (``[B, A]`` both). ``frames`` is the table of the ring, by default that of memory maps."""
        frames = self.recent_frames if frames is None else frames
        ticks = self._before(rows, frame)[:, None] + 1 - ages
        slots = ticks % frames.shape[1]
        return slots, (ticks >= 0) & (frames[rows[:, None], slots] != EMPTY)
