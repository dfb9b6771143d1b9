"""Tracking on a GPU: everything that a frame may need is given to it at once, before the host looks at any of it.

While the GPU is at the memories, the host looks at the masks. What it then says otherwise, because a part of a mask is
another object's, is worked out again. A CPU would work for nothing; it looks first (:mod:`.propagation`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sam2_ros.model.sam2 import ABSENT_LOGIT
from sam2_ros.tracking.bank import MemoryBank
from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.cuda_graphs import Decided, FrameWork, first
from sam2_ros.tracking.history import StoredFrame
from sam2_ros.tracking.mask_parts import own_masks
from sam2_ros.tracking.masks import pack_masks
from sam2_ros.tracking.objects import TrackedObject
from sam2_ros.tracking.propagation import Lap, Propagation
from sam2_ros.tracking.transfer import Fetched
from sam2_ros.tracking.types import CroppedMask, ObjectChange

if TYPE_CHECKING:
    from sam2_ros.tracking.shared_model import SharedModel


class ReplayedPropagation(Propagation):
    """:class:`Propagation` by the recordings of ``shared``, where it has any and the settings allow it."""

    def __init__(self, shared: SharedModel, bank: MemoryBank, config: TrackerConfig) -> None:
        self.shared = shared
        super().__init__(shared.model, bank, config, shared.dtype)

    def configure(self, config: TrackerConfig) -> None:
        super().configure(config)
        self.replays = self.shared.replays_for(config)

    def _track_due(self, objects: list[TrackedObject], stored: StoredFrame, lap: Lap) -> list[ObjectChange]:
        if not self.replays:
            return super()._track_due(objects, stored, lap)
        rows = [one.row for one in objects]
        plan = self.bank.plan(rows, stored.frame, self.measures.recent_frames)
        found = self.shared.work_for(self.bank, plan, stored.features)
        if found is None:
            return super()._track_due(objects, stored, lap)
        work, plan = found
        work.load(stored.features, self.bank, plan)
        work.condition()
        lap("memory_attention")
        decided = first(work.decide(), len(rows))
        table, small = Fetched(decided.table), Fetched(decided.masks)
        packed = self._pack(decided.drawn, stored)  # so that the host has them while the GPU is at the memories
        lap("decode")
        memory = work.remember()[: len(rows)]
        # Before the host knows whether they are kept: then there is nothing left to do but to say so.
        self.bank.write_recent(rows, stored.frame, memory, decided.pointers)
        lap("memory_encode")
        drawn, own = decided.drawn.clone(), None  # the next frame overwrites what was recorded

        said = table.tensor()
        if self.policy.looks:
            width = drawn.shape[3]
            masks = [CroppedMask.from_packed(bits, width) for bits in small.numpy()]
            own = own_masks(self.policy, drawn, objects, stored.frame, masks)
            if own.rejected.any():
                said = torch.cat((said[:3], torch.from_numpy(own.areas).float()[None]))
                drawn = own.logits
                memory = self._again(work, decided, drawn)
                self.bank.write_recent(rows, stored.frame, memory, decided.pointers)
                packed = self._pack(drawn, stored)
        findings = self._findings(said)
        verdicts = self._judge(objects, stored, findings, own)
        kept = [row for row, keep in zip(rows, verdicts.kept, strict=True) if keep]
        if kept:
            self.bank.keep_recent(kept, stored.frame)
        changes = self._show(objects, stored, drawn, verdicts.sights, findings, packed)
        lap("masks")
        return changes

    def _pack(self, drawn: Tensor, stored: StoredFrame) -> Fetched | None:
        """Masks in the size of the image, unless they depend on what the host says."""
        if self.config.non_overlap or self.config.hole_area:
            return None
        return Fetched(pack_masks(drawn, stored.height, stored.width))

    def _again(self, work: FrameWork, decided: Decided, drawn: Tensor) -> Tensor:
        """The memories, of masks without what is not the objects' own."""
        decided.logits.copy_(torch.where(decided.present[:, None, None, None], drawn, ABSENT_LOGIT))
        return work.remember()[: len(drawn)]
