"""Tracks objects on an encoded frame, all of them as one batch; it doesn't matter whether the frame is the newest."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor

from sam2_ros.model.mask_decoder import choose
from sam2_ros.model.sam2 import ABSENT_LOGIT, Sam2Model
from sam2_ros.tracking.bank import MemoryBank
from sam2_ros.tracking.changes import state_change
from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.history import StoredFrame
from sam2_ros.tracking.masks import fill_holes, image_masks
from sam2_ros.tracking.objects import TrackedObject
from sam2_ros.tracking.types import ObjectChange

Lap = Callable[[str], None]


class Clock:
    """Milliseconds per stage, on the steady clock."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = (now - self._last) * 1e3
        self._last = now


def autocast(model: Sam2Model, dtype: str) -> AbstractContextManager[object]:
    """The precision in which a tracker runs its network."""
    return torch.autocast(model.device.type, torch.bfloat16, enabled=dtype == "bfloat16")


class Propagation:
    """One pass of every module of the network, for one tracker's objects."""

    def __init__(self, model: Sam2Model, bank: MemoryBank, config: TrackerConfig, dtype: str) -> None:
        self.model = model
        self.bank = bank
        self.config = config
        self.dtype = dtype

    @torch.inference_mode()
    def track(self, objects: list[TrackedObject], stored: StoredFrame, lap: Lap = lambda _: None) -> list[ObjectChange]:
        """Tracks ``objects`` from the frame before ``stored``, remembers what comes out, and says what changed."""
        model, features, frame = self.model, stored.features, stored.frame
        rows = [one.row for one in objects]
        self.bank.hold(rows, frame)  # what follows may fail
        memories = self.bank.gather(rows, frame)
        with autocast(model, self.dtype):
            conditioned = model.with_memory(
                features, memories.tokens, memories.codes, memories.num_pointers, memories.mask
            )
            lap("memory_attention")
            decoded = model.decode(conditioned, features, *model.no_prompt(len(rows)))
            chosen = choose(decoded, multimask=True, stability_fallback=False)
            present = model.present(decoded.object_score[:, 0], chosen.iou)
            logits = torch.where(present[:, None, None, None], chosen.logits.float(), ABSENT_LOGIT)
            pointers = model.pointer(chosen.token, present)
            lap("decode")
            size = model.config.image_size
            full = F.interpolate(logits, (size, size), mode="bilinear", align_corners=False)
            memory = model.encode_memory(features, full, present)
        self._remember(rows, frame, memory, pointers, present)
        lap("memory_encode")
        if self.config.hole_area:
            logits = fill_holes(logits, self.config.hole_area)
        masks = image_masks(logits, stored.height, stored.width, self.config.non_overlap)
        scores = decoded.object_score[:, 0].float().cpu()
        ious = chosen.iou.float().cpu()
        visibilities = model.visibility(scores, ious).tolist()
        changes = []
        for index, one in enumerate(objects):
            one.logits, one.prompted, one.candidates = logits[index], False, None
            before = one.see(
                frame, stored.stamp, masks[index], float(scores[index]), visibilities[index], float(ious[index]),
                self.config.lost_after,
            )  # fmt: skip
            changes += state_change(one, before)
        lap("masks")
        return changes

    def catch_up(self, objects: list[TrackedObject], frames: list[StoredFrame]) -> None:
        """Rolls ``objects`` forward through ``frames``, which they were seen in before or not, and notes what they
        have become there.

        A frame on which an object was prompted stays what it is for that object: tracking never overwrites a prompt.
        """
        for stored in frames:
            tracked = []
            for one in objects:
                known = stored.objects.get(one.object_id)
                if known is None or not known.prompted:
                    tracked.append(one)
                else:
                    self._pass_prompted(one, known, stored)
            if tracked:
                self.track(tracked, stored)
            stored.keep(objects)

    def _pass_prompted(self, one: TrackedObject, known: TrackedObject, stored: StoredFrame) -> None:
        self.bank.skip(one.row, stored.frame)
        assert known.mask is not None
        one.prompt_frame, one.points, one.labels = known.prompt_frame, known.points, known.labels
        one.logits, one.prompted, one.candidates = known.logits, True, known.candidates
        one.see(
            stored.frame, stored.stamp, known.mask, known.object_score, known.visibility, known.predicted_iou,
            self.config.lost_after,
        )  # fmt: skip

    def _remember(self, rows: list[int], frame: int, memory: Tensor, pointers: Tensor, present: Tensor) -> None:
        """Stores the frame for every object. A model that judges presence by predicted IoU was not trained to
        remember absences: for an object that is hidden the memory of when it was seen waits instead."""
        if not self.model.config.present_iou:
            self.bank.store_recent(rows, frame, memory, pointers)
            return
        index = [i for i, seen in enumerate(present.tolist()) if seen]
        if index:
            self.bank.store_recent([rows[i] for i in index], frame, memory[index], pointers[index])
