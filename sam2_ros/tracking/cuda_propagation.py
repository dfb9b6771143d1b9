"""Tracking on a GPU: memories are encoded before the host has judged the masks.

Meanwhile the host looks at the masks. If it changes one, the memories are encoded again. On a CPU
that would be wasted work, so there the host decides first (:mod:`.propagation`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sam2_ros.model.network import ABSENT_LOGIT
from sam2_ros.tracking.bank import MemoryBank
from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.cuda_graphs import DecodedObjects, TrackingGraphs, first
from sam2_ros.tracking.cuda_masks import pack_masks
from sam2_ros.tracking.history import View
from sam2_ros.tracking.mask_parts import masks_of
from sam2_ros.tracking.objects import LiveObject
from sam2_ros.tracking.propagation import Decoded, Lap, Propagation, Tracked
from sam2_ros.tracking.sights import Sight
from sam2_ros.tracking.transfer import Fetched
from sam2_ros.tracking.types import CroppedMask
from sam2_ros.tracking.viewer import Viewer

if TYPE_CHECKING:
    from sam2_ros.tracking.shared_model import SharedModel


class CudaPropagation(Propagation):
    """:class:`Propagation` by the CUDA graphs of ``shared``, where it has any and the settings allow it."""

    def __init__(self, shared: SharedModel, viewer: Viewer, bank: MemoryBank, config: TrackerConfig) -> None:
        self.shared = shared
        super().__init__(viewer, bank, config, shared.dtype)

    def configure(self, config: TrackerConfig) -> None:
        super().configure(config)
        self.use_graphs = self.shared.tracks_by_graphs(config)

    def _track_due(
        self, looked_for: list[tuple[View, list[LiveObject]]], bystanders: list[LiveObject], lap: Lap
    ) -> list[Tracked]:
        if len(looked_for) == 1:  # of several windows nothing is remembered before all are seen
            tracked = self._by_graphs(looked_for[0][1], bystanders, looked_for[0][0], lap)
            if tracked is not None:
                return [tracked]
        return super()._track_due(looked_for, bystanders, lap)

    def _see(self, objects: list[LiveObject], view: View, lap: Lap) -> Decoded:
        found = self._decoded(objects, view, lap)
        if found is None:
            return super()._see(objects, view, lap)
        decoded = found[1]
        scores, ious = decoded.table[:2].clone()
        drawn, present, pointers = decoded.drawn.clone(), decoded.present.clone(), decoded.pointers.clone()
        masks = masks_of(drawn) if self.follows else []
        return Decoded(Sight(objects, view, present, scores, masks), drawn, ious, pointers)

    def _decoded(self, objects: list[LiveObject], view: View, lap: Lap) -> tuple[TrackingGraphs, DecodedObjects] | None:
        """The output of the decoder's graph, which the next one overwrites; None where there are no graphs."""
        if not self.use_graphs or view.model is not self.model:
            return None
        rows = [obj.row for obj in objects]
        self.bank.fit(rows, view.model.config.memory_tokens)
        plan = self.bank.plan(rows, view.frame, self.workload.recent_frames)
        found = self.shared.graphs_for(self.bank, plan, view.features)
        if found is None:
            return None
        graphs, plan = found
        graphs.load(view.features, self.bank, plan)
        graphs.attend()
        lap("memory_attention")
        return graphs, first(graphs.decode(), len(rows))

    def _by_graphs(
        self, objects: list[LiveObject], bystanders: list[LiveObject], view: View, lap: Lap
    ) -> Tracked | None:
        found = self._decoded(objects, view, lap)
        if found is None:
            return None
        graphs, decoded = found
        rows = [obj.row for obj in objects]
        table, small = Fetched(decoded.table), Fetched(decoded.masks)
        packed = self._pack(decoded.drawn, view)  # so that the host has them while the GPU encodes memories
        lap("decode")
        memory = graphs.encode_memory()[: len(rows)]
        # Written before the host knows whether to remember them: then it only has to commit.
        self.bank.write_recent(rows, view.frame, memory, decoded.pointers)
        lap("memory_encode")
        drawn, own = decoded.drawn.clone(), None  # a copy: the next frame overwrites the graph's result

        summary = table.tensor()
        if self.follows:
            width = drawn.shape[3]
            masks = [CroppedMask.from_packed(bits, width) for bits in small.tensor().numpy()]
            sight = Sight(objects, view, summary[2] > 0, summary[0], masks)
            (division,) = self._divisions([sight], bystanders)
            own = self._own_masks(drawn, sight, division)
            if own.changed.any():
                areas = own.areas / (view.shares[2] * view.shares[3])
                summary = torch.cat((summary[:3], torch.from_numpy(areas).float()[None]))
                drawn = own.logits
                memory = self._encode_again(graphs, decoded, drawn)
                self.bank.write_recent(rows, view.frame, memory, decoded.pointers)
                packed = self._pack(drawn, view)
        observations = self._observations(summary, view)
        presences, remembered = self._decide(objects, view, observations, own)
        remembered_rows = [row for row, wanted in zip(rows, remembered, strict=True) if wanted]
        if remembered_rows:
            self.bank.commit_recent(remembered_rows, view.frame)
        return Tracked(objects, view, drawn, presences, observations, packed)

    def _pack(self, drawn: Tensor, view: View) -> Fetched | None:
        """Masks in the size of the window; None where they depend on what the host decides."""
        if self.config.non_overlap or self.config.hole_area:
            return None
        return Fetched(pack_masks(drawn, view.window.height, view.window.width))

    def _encode_again(self, graphs: TrackingGraphs, decoded: DecodedObjects, drawn: Tensor) -> Tensor:
        decoded.logits.copy_(torch.where(decoded.present[:, None, None, None], drawn, ABSENT_LOGIT))
        return graphs.encode_memory()[: len(drawn)]
