"""The memory bank: a fixed table of slots, allocated once, whatever the length of the stream.

Every object owns one row. A row has slots for prompted frames, a ring of recent frames and a ring of recent object
pointers (prompted frames keep theirs beside their memory). Which frame lies in which slot is known on the host, so that
choosing memories never waits for the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sam2_ros.model.sam2 import Sam2Model
from sam2_ros.tracking.config import TrackerConfig

EMPTY = -1
POINTER_FRAMES = 15  # frames before the current one whose pointers SAM 2 looks at


@dataclass(frozen=True)
class Memories:
    """What memory attention is given for ``B`` objects."""

    tokens: Tensor  # [B, K, memory_dim] whole frames first, pointer tokens last
    codes: Tensor  # [B, K, memory_dim] position codes
    num_pointers: int  # pointer tokens at the end
    mask: Tensor | None  # [B, K] bool, False = ignore; None: all count


class MemoryBank:
    """Memory of up to ``config.max_objects`` objects.

    ``history`` is how many of the newest frames can still be worked on again: the rings are longer by as many slots, so
    that the six frames before each of those are still there.
    """

    def __init__(self, model: Sam2Model, config: TrackerConfig, history: int = 1) -> None:
        self.model = model
        self.config = config
        rows, prompted = config.max_objects, config.prompted_slots
        self.ring = config.recent_slots + history
        self.pointer_ring = POINTER_FRAMES + history
        tokens, channels = model.config.memory_grid**2, model.config.memory_dim
        device, pointer_dim = model.device, model.config.hidden_dim
        # bfloat16 as in the reference, also where the network computes in float32.
        self.spatial = torch.zeros(rows, prompted + self.ring, tokens, channels, dtype=torch.bfloat16, device=device)
        self.pointers = torch.zeros(rows, prompted + self.pointer_ring, pointer_dim, device=device)
        self.prompted_frames = np.full((rows, prompted), EMPTY, np.int64)
        self.recent_frames = np.full((rows, self.ring), EMPTY, np.int64)
        self.pointer_frames = np.full((rows, self.pointer_ring), EMPTY, np.int64)

    @property
    def nbytes(self) -> int:
        """Bytes of the bank; constant."""
        return sum(t.numel() * t.element_size() for t in (self.spatial, self.pointers))

    def clear(self, row: int) -> None:
        """Empties a row for its next owner."""
        for table in (self.prompted_frames, self.recent_frames, self.pointer_frames):
            table[row] = EMPTY

    def store_recent(self, rows: list[int], frame: int, memory: Tensor, pointers: Tensor) -> None:
        """Keeps a tracked frame until newer ones need its slot.

        ``memory`` is ``[B, HW, memory_dim]``, ``pointers`` ``[B, C]``.
        """
        slot, pointer_slot = frame % self.ring, frame % self.pointer_ring
        index = torch.as_tensor(rows, device=self.spatial.device)
        prompted = self.config.prompted_slots
        self.spatial[index, prompted + slot] = memory.to(self.spatial.dtype)
        self.pointers[index, prompted + pointer_slot] = pointers.float()
        self.recent_frames[rows, slot] = frame
        self.pointer_frames[rows, pointer_slot] = frame

    def hold(self, row: int) -> None:
        """Lets a row's recent frames and pointers wait one frame: on the next one they are as old as on this one."""
        prompted = self.config.prompted_slots
        for stored, table in ((self.spatial, self.recent_frames), (self.pointers, self.pointer_frames)):
            stored[row, prompted:] = stored[row, prompted:].roll(1, dims=0)
            table[row] = np.roll(np.where(table[row] == EMPTY, EMPTY, table[row] + 1), 1)

    def store_prompted(self, row: int, frame: int, memory: Tensor, pointer: Tensor) -> int | None:
        """Keeps a prompted frame (``memory`` ``[HW, memory_dim]``, ``pointer`` ``[C]``); tracking never overwrites it.

        When all slots are taken, the oldest prompted frame but the first gives way; with a single slot, the first does.

        Returns:
            The frame that was let go, or None.
        """
        table = self.prompted_frames[row]
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
        table[slot] = frame
        # The same frame must not also count as a recent one.
        for recent in (self.recent_frames[row], self.pointer_frames[row]):
            recent[recent == frame] = EMPTY
        return released

    def remembers(self, row: int, frame: int) -> bool:
        """Whether a frame before ``frame`` is kept that :meth:`gather` would look at."""
        prompted, recent = self.prompted_frames[row], self.recent_frames[row]
        oldest = max(0, frame - self.config.recent_slots)
        return bool(((prompted != EMPTY) & (prompted < frame)).any() or ((recent >= oldest) & (recent < frame)).any())

    def gather(self, rows: list[int], frame: int) -> Memories:
        """The memories that the objects in ``rows`` look at on ``frame``; objects may hold different numbers of them.

        Each must hold one (:meth:`remembers`).
        """
        model, config = self.model, self.config
        prompted = config.prompted_slots
        table = np.asarray(rows)

        held = (self.prompted_frames[table] != EMPTY) & (self.prompted_frames[table] < frame)
        slots = [index for index in range(prompted) if held[:, index].any()]
        columns = [held[:, index] for index in slots]
        codes = [model.config.num_memory_frames - 1] * len(slots)
        for age in range(1, config.recent_slots + 1):
            slot = (frame - age) % self.ring
            valid = self.recent_frames[table, slot] == frame - age
            if frame >= age and valid.any():
                slots.append(prompted + slot)
                columns.append(valid)
                codes.append(age - 1)

        pointer_slots = [index for index in range(prompted) if held[:, index].any()]
        pointer_columns = [held[:, index] for index in pointer_slots]
        ages = [self._bounded(frame - self.prompted_frames[table, index]) for index in pointer_slots]
        for age in range(1, POINTER_FRAMES + 1):
            slot = (frame - age) % self.pointer_ring
            valid = self.pointer_frames[table, slot] == frame - age
            if frame >= age and valid.any():
                pointer_slots.append(prompted + slot)
                pointer_columns.append(valid)
                ages.append(np.full(len(rows), age))

        device, split = self.spatial.device, model.config.hidden_dim // model.config.memory_dim
        index = torch.as_tensor(rows, device=device)[:, None]
        spatial = self.spatial[index, torch.as_tensor(slots, device=device)]  # [B, S, HW, memory_dim]
        pointers = self.pointers[index, torch.as_tensor(pointer_slots, device=device)]  # [B, P, C]
        time_codes = model.maskmem_tpos_enc[torch.as_tensor(codes, device=device), 0]  # [S, 1, memory_dim]
        spatial_codes = (model.memory_code + time_codes).flatten(0, 1)[None].expand(len(rows), -1, -1)
        pointer_codes = model.pointer_code(torch.as_tensor(np.stack(ages, axis=1), device=device))
        tokens = torch.cat((spatial.flatten(1, 2).float(), pointers.unflatten(2, (split, -1)).flatten(1, 2)), dim=1)
        all_codes = torch.cat((spatial_codes, pointer_codes.repeat_interleave(split, dim=1)), dim=1)

        mask = None
        if not all(column.all() for column in columns + pointer_columns):
            per_slot = torch.as_tensor(np.stack(columns, axis=1), device=device)
            per_pointer = torch.as_tensor(np.stack(pointer_columns, axis=1), device=device)
            mask = torch.cat(
                (
                    per_slot.repeat_interleave(self.spatial.shape[2], dim=1),
                    per_pointer.repeat_interleave(split, dim=1),
                ),
                dim=1,
            )
        return Memories(tokens, all_codes, len(pointer_slots) * split, mask)

    def _bounded(self, ages: np.ndarray) -> np.ndarray:
        """Ages of prompted pointers, no greater than training saw unless the reference is to be followed."""
        return ages if self.config.reference_policy else np.minimum(ages, self.config.max_pointer_age)
