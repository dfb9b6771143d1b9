"""Tracks objects on an encoded frame, all of them as one batch; it doesn't matter whether the frame is the newest."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from sam2_ros.model.mask_decoder import choose
from sam2_ros.model.sam2 import ABSENT_LOGIT, Sam2Model
from sam2_ros.tracking.bank import MemoryBank
from sam2_ros.tracking.changes import state_change
from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.deadline import Measures
from sam2_ros.tracking.history import StoredFrame
from sam2_ros.tracking.mask_parts import OwnMasks, choose_candidates, own_masks, remember
from sam2_ros.tracking.masks import fill_holes, image_masks
from sam2_ros.tracking.objects import TrackedObject
from sam2_ros.tracking.policies import policy_of
from sam2_ros.tracking.recognition import SURE, recognise, recognises
from sam2_ros.tracking.transfer import Fetched, upload
from sam2_ros.tracking.types import CroppedMask, ObjectChange, ObjectState
from sam2_ros.tracking.visibility import Evidence, Sight

Lap = Callable[[str], None]


class Clock:
    """Milliseconds per stage, on the steady clock."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = self.laps.get(name, 0.0) + (now - self._last) * 1e3
        self._last = now

    def finish(self) -> dict[str, float]:
        """The laps."""
        return self.laps


class DeviceClock(Clock):
    """Milliseconds per stage as a GPU works on them, without waiting for it; the last stage ends with
    :meth:`finish`."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device
        self._start = time.perf_counter()
        self._marks = [("", self._mark())]

    def _mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def lap(self, name: str) -> None:
        self._marks.append((name, self._mark()))

    def finish(self) -> dict[str, float]:
        self._marks[-1][1].synchronize()
        for (_, before), (name, after) in pairwise(self._marks):
            self.laps[name] = self.laps.get(name, 0.0) + before.elapsed_time(after)
        whole = (time.perf_counter() - self._start) * 1e3
        last = self._marks[-1][0]
        if last:  # what the host did while the GPU had nothing to do
            self.laps[last] += max(0.0, whole - sum(self.laps.values()))
        return self.laps


def clock_of(device: torch.device) -> Clock:
    """The clock for a network on ``device``."""
    return DeviceClock(device) if device.type == "cuda" else Clock()


def autocast(model: Sam2Model, dtype: str) -> AbstractContextManager[object]:
    """The precision in which a tracker runs its network."""
    return torch.autocast(model.device.type, torch.bfloat16, enabled=dtype == "bfloat16")


class Propagation:
    """One pass of every module of the network, for one tracker's objects."""

    def __init__(self, model: Sam2Model, bank: MemoryBank, config: TrackerConfig, dtype: str) -> None:
        self.model = model
        self.bank = bank
        self.dtype = dtype
        self.measures = Measures()
        self.configure(config)

    def configure(self, config: TrackerConfig) -> None:
        """Goes on with other settings."""
        self.config = config
        self.policy = policy_of(config.memory_policy, config.rejects_strays)
        self.recognises = recognises(self.model, config)

    @torch.inference_mode()
    def track(self, objects: list[TrackedObject], stored: StoredFrame, lap: Lap = lambda _: None) -> list[ObjectChange]:
        """Tracks ``objects`` from the frame before ``stored``, remembers what comes out, and says what changed.

        Of the lost ones only those are looked for whose turn it is; the others pass the frame.
        """
        self.bank.hold([one.row for one in objects], stored.frame)  # unless it is remembered below
        changes = []
        due = []
        for one in objects:
            if self.config.reference_policy or one.sight.due(stored.frame, self.config, self.measures.search_factor):
                due.append(one)
            else:
                changes += self._pass(one, stored)
        if due:
            changes += self._track_due(due, stored, lap)
        return changes

    def _track_due(self, objects: list[TrackedObject], stored: StoredFrame, lap: Lap) -> list[ObjectChange]:
        model, features, frame = self.model, stored.features, stored.frame
        rows = [one.row for one in objects]
        memories = self.bank.gather(rows, frame, self.measures.recent_frames)
        with autocast(model, self.dtype):
            conditioned = model.with_memory(
                features, memories.tokens, memories.codes, memories.num_pointers, memories.mask
            )
            lap("memory_attention")
            decoded = model.decode(conditioned, features, *model.no_prompt(len(rows)))
            index = choose_candidates(self.policy, decoded, objects, frame)
            chosen = choose(decoded, multimask=True, stability_fallback=False, candidate=index)
            scores = decoded.object_score[:, 0].float()
            if self.recognises:
                references = self.bank.references(rows, frame)
                chosen, scores = recognise(model, references, features, decoded, chosen)
            present = model.present(scores, chosen.iou)
            pointers = model.pointer(chosen.token, present)
            drawn = chosen.logits.float()
            own = own_masks(self.policy, drawn, objects, frame) if self.policy.looks else None
            drawn = drawn if own is None else own.logits
            logits = torch.where(present[:, None, None, None], drawn, ABSENT_LOGIT)
            findings = self._findings(said_of(scores, chosen.iou, present, drawn).cpu())
            verdicts = self._judge(objects, stored, findings, own)
            lap("decode")
            self._remember(rows, stored, verdicts, pointers, lambda which: self._memory(stored, logits, present, which))
            if self.recognises:
                self._note_looks(rows, stored, logits, findings, verdicts.kept)
        lap("memory_encode")
        changes = self._show(objects, stored, drawn, verdicts.sights, findings)
        lap("masks")
        return changes

    def _judge(
        self, objects: list[TrackedObject], stored: StoredFrame, findings: list[Finding], own: OwnMasks | None
    ) -> Verdicts:
        """How the objects stand after the frame, and what of it is remembered; notes where they were seen."""
        sights = [
            one.sight.after(stored.frame, stored.stamp, finding.evidence, self.config)
            for one, finding in zip(objects, findings, strict=True)
        ]
        kept = [self._is_kept(f.evidence, sight) for f, sight in zip(findings, sights, strict=True)]
        if own is None:
            return Verdicts(sights, kept, [False] * len(objects))
        evidence = [finding.evidence for finding in findings]
        enters, anchored = remember(self.policy, objects, stored.frame, own, evidence, sights)
        return Verdicts(sights, (enters & kept).tolist(), anchored.tolist())

    def _memory(self, stored: StoredFrame, logits: Tensor, present: Tensor, which: list[int]) -> Tensor:
        if len(which) < len(logits):
            logits, present = logits[which], present[which]
        return self.model.encode_low_memory(stored.features, logits, present)

    def _findings(self, table: Tensor) -> list[Finding]:
        """What the network says of each object, from what :func:`said_of` gives, on the host."""
        visibilities = self.model.visibility(table[0], table[1])
        return [
            Finding(score, visibility, Evidence(bool(there), area, iou, self.recognises and bool(there)))
            for score, iou, there, area, visibility in torch.cat((table, visibilities[None])).T.tolist()
        ]

    def _is_kept(self, evidence: Evidence, sight: Sight) -> bool:
        """Whether a frame is remembered. A doubted mask is not, nor a frame without an object that is lost. With some
        models the memory of when an object was seen waits while it is hidden (``ModelConfig.memory_waits``)."""
        if self.config.reference_policy:
            return True
        if sight.doubted or (sight.state is ObjectState.LOST and not evidence.present):
            return False
        return evidence.present or not self.model.config.memory_waits

    def _remember(
        self,
        rows: list[int],
        stored: StoredFrame,
        verdicts: Verdicts,
        pointers: Tensor,
        memory_of: Callable[[list[int]], Tensor],
    ) -> None:
        """Stores what is to be kept; ``memory_of`` gives the memories (``[N, HW, memory_dim]``) of some of the rows, by
        index."""
        index = [i for i, keep in enumerate(verdicts.kept) if keep]
        if not index:
            return
        memory = memory_of(index)
        pointers = pointers if len(index) == len(rows) else pointers[index]
        self.bank.store_recent([rows[i] for i in index], stored.frame, memory, pointers)
        for position, i in enumerate(index):
            if verdicts.anchored[i]:
                self.bank.store_anchor(rows[i], stored.frame, memory[position], pointers[position])

    def _note_looks(
        self, rows: list[int], stored: StoredFrame, logits: Tensor, findings: list[Finding], kept: list[bool]
    ) -> None:
        """Objects turn and come closer: what they looked like when surely recognised is compared with, too."""
        for index, (row, finding, keep) in enumerate(zip(rows, findings, kept, strict=True)):
            if keep and finding.score > SURE:
                self.bank.store_sure(row, stored.frame, stored.features, logits[index, 0])

    def _show(
        self,
        objects: list[TrackedObject],
        stored: StoredFrame,
        drawn: Tensor,
        sights: list[Sight],
        findings: list[Finding],
        packed: Fetched | None = None,
    ) -> list[ObjectChange]:
        """Takes everything over into the objects; ``drawn`` is in memory that no later frame overwrites, ``packed`` are
        these masks in the size of the image, if they are known (:func:`~sam2_ros.tracking.masks.pack_masks`)."""
        logits = _shown(drawn, sights, findings)
        if self.config.hole_area:
            logits = fill_holes(logits, self.config.hole_area)
        if packed is None:
            masks = image_masks(logits, stored.height, stored.width, self.config.non_overlap)
        else:
            masks = [CroppedMask.from_packed(bits, stored.width) for bits in packed.numpy()]
        changes = []
        for index, (one, sight, finding) in enumerate(zip(objects, sights, findings, strict=True)):
            mask = masks[index]
            if sight.state is ObjectState.VISIBLE and not mask.crop.size:
                # Too small for the image's pixels, or another object's by non-overlap: there is no mask to show.
                nothing = replace(finding.evidence, area=0.0)
                sight = one.sight.after(stored.frame, stored.stamp, nothing, self.config)
            elif sight.state is not ObjectState.VISIBLE:
                mask = CroppedMask.empty(stored.width, stored.height)
            one.logits, one.prompted, one.candidates = logits[index], False, None
            one.judge(finding.score, finding.visibility, finding.evidence.predicted_iou)
            changes += state_change(one, one.stand(sight, mask))
        return changes

    def _pass(self, one: TrackedObject, stored: StoredFrame) -> list[ObjectChange]:
        """A lost object whose turn it is not."""
        one.logits, one.prompted, one.candidates = None, False, None
        sight = one.sight.passed(stored.frame, stored.stamp, self.config)
        return state_change(one, one.stand(sight, CroppedMask.empty(stored.width, stored.height)))

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
        one.judge(known.object_score, known.visibility, known.predicted_iou)
        sight = one.sight.prompted(
            stored.frame, stored.stamp, known.sight.prompted_area, bool(known.sight.areas), self.config
        )
        one.stand(sight, known.mask)


@dataclass(frozen=True)
class Verdicts:
    """What the host decides about each object after a frame."""

    sights: list[Sight]
    kept: list[bool]  # the frame enters its memory
    anchored: list[bool]  # ... and stays there


@dataclass(frozen=True)
class Finding:
    """What the network says of one object on one frame."""

    score: float  # logit
    visibility: float  # [0, 1]
    evidence: Evidence


def said_of(scores: Tensor, ious: Tensor, present: Tensor, drawn: Tensor) -> Tensor:
    """What the host is told of ``B`` objects, float32 ``[4, B]``: object score, predicted IoU, whether it is there, and
    the share of the frame that its mask ``drawn`` (``[B, 1, h, w]``) covers."""
    areas = (drawn > 0).flatten(1).float().mean(dim=1)
    return torch.stack((scores.float(), ious.float(), present.float(), areas))


def _shown(drawn: Tensor, sights: list[Sight], findings: list[Finding]) -> Tensor:
    """The masks that are shown: the present objects', and those of the ones still VISIBLE without."""
    shown = [
        finding.evidence.present or sight.state is ObjectState.VISIBLE
        for finding, sight in zip(findings, sights, strict=True)
    ]
    if all(shown):
        return drawn
    return torch.where(upload(shown, drawn.device)[:, None, None, None], drawn, ABSENT_LOGIT)
