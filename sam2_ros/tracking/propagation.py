"""Tracks objects on an encoded frame, all of them as one batch. The frame may be the newest or an older one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

import torch
from torch import Tensor

from sam2_ros.model.mask_decoder import choose
from sam2_ros.model.sam2 import ABSENT_LOGIT, Sam2Model
from sam2_ros.tracking.bank import MemoryBank
from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.deadline import Workload
from sam2_ros.tracking.history import StoredFrame
from sam2_ros.tracking.mask_parts import OwnMasks, choose_candidates, own_masks, update_trails
from sam2_ros.tracking.masks import fill_holes, image_masks
from sam2_ros.tracking.objects import LiveObject
from sam2_ros.tracking.policies import policy_of
from sam2_ros.tracking.recognition import SURE, recognise, recognises
from sam2_ros.tracking.transfer import Fetched, upload
from sam2_ros.tracking.types import CroppedMask, ObjectChange, ObjectState
from sam2_ros.tracking.visibility import Observation, Presence

Lap = Callable[[str], None]


def autocast(model: Sam2Model, dtype: str) -> AbstractContextManager[object]:
    """The precision in which a tracker runs its network."""
    return torch.autocast(model.device.type, torch.bfloat16, enabled=dtype == "bfloat16")


class Propagation:
    """One pass of every module of the network, for one tracker's objects."""

    def __init__(self, model: Sam2Model, bank: MemoryBank, config: TrackerConfig, dtype: str) -> None:
        self.model = model
        self.bank = bank
        self.dtype = dtype
        self.workload = Workload()
        self.configure(config)

    def configure(self, config: TrackerConfig) -> None:
        self.config = config
        self.policy = policy_of(config.memory_policy, config.rejects_strays)
        self.recognises = recognises(self.model, config)

    @torch.inference_mode()
    def track(self, objects: list[LiveObject], stored: StoredFrame, lap: Lap = lambda _: None) -> list[ObjectChange]:
        """Tracks ``objects`` from the frame before ``stored``, updates their memory, and returns what changed. LOST
        objects are searched for on some frames only; they pass the others."""
        self.bank.stand_still([obj.row for obj in objects], stored.frame)  # unless it is remembered below
        changes = []
        due = []
        for obj in objects:
            if self.config.reference_policy or obj.presence.due(stored.frame, self.config, self.workload.search_factor):
                due.append(obj)
                continue
            obj.logits, obj.prompted, obj.candidates = None, False, None
            presence = obj.presence.passed(stored.frame, stored.stamp, self.config)
            changes += obj.state_change(obj.set_presence(presence, CroppedMask.empty(stored.width, stored.height)))
        if due:
            changes += self._track_due(due, stored, lap)
        return changes

    def _track_due(self, objects: list[LiveObject], stored: StoredFrame, lap: Lap) -> list[ObjectChange]:
        model, features, frame = self.model, stored.features, stored.frame
        rows = [obj.row for obj in objects]
        memories = self.bank.gather(rows, frame, self.workload.recent_frames)
        with autocast(model, self.dtype):
            conditioned = model.with_memory(features, *memories)
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
            observations = self._observations(summary_of(scores, chosen.iou, present, drawn).cpu())
            presences, remembered, anchored = self._decide(objects, stored, observations, own)
            lap("decode")
            self._remember(rows, stored, logits, present, pointers, remembered, anchored)
            if self.recognises:
                for i, (row, seen) in enumerate(zip(rows, observations, strict=True)):
                    if remembered[i] and seen.score > SURE:
                        self.bank.store_sure(row, frame, features, logits[i, 0])
        lap("memory_encode")
        changes = self._show(objects, stored, drawn, presences, observations)
        lap("masks")
        return changes

    def _observations(self, table: Tensor) -> list[Observation]:
        """What the network says of each object; ``table`` is :func:`summary_of` on the host."""
        visibilities = self.model.visibility(table[0], table[1])
        return [
            Observation(bool(there), area, iou, self.recognises and bool(there), score, visibility)
            for score, iou, there, area, visibility in torch.cat((table, visibilities[None])).T.tolist()
        ]

    def _decide(
        self, objects: list[LiveObject], stored: StoredFrame, observations: list[Observation], own: OwnMasks | None
    ) -> tuple[list[Presence], list[bool], list[bool]]:
        """Decides the presence of each object after the frame, whether its memory takes the frame, and whether as an
        anchor; updates the trails."""
        presences = [
            obj.presence.after(stored.frame, stored.stamp, observation, self.config)
            for obj, observation in zip(objects, observations, strict=True)
        ]
        remembered = [self._is_remembered(*pair) for pair in zip(observations, presences, strict=True)]
        if own is None:
            return presences, remembered, [False] * len(objects)
        enters, anchored = update_trails(self.policy, objects, stored.frame, own, observations, presences)
        return presences, (enters & remembered).tolist(), anchored.tolist()

    def _is_remembered(self, observation: Observation, presence: Presence) -> bool:
        """Not where the mask is doubted, nor where a LOST object is absent. With some models the memory of a hidden
        object waits (``ModelConfig.memory_waits``)."""
        if self.config.reference_policy:
            return True
        if presence.doubted or (presence.state is ObjectState.LOST and not observation.present):
            return False
        return observation.present or not self.model.config.memory_waits

    def _remember(
        self,
        rows: list[int],
        stored: StoredFrame,
        logits: Tensor,
        present: Tensor,
        pointers: Tensor,
        remembered: list[bool],
        anchored: list[bool],
    ) -> None:
        index = [i for i, wanted in enumerate(remembered) if wanted]
        if not index:
            return
        if len(index) < len(rows):
            logits, present, pointers = logits[index], present[index], pointers[index]
        memory = self.model.encode_low_memory(stored.features, logits, present)
        self.bank.store_recent([rows[i] for i in index], stored.frame, memory, pointers)
        for position, i in enumerate(index):
            if anchored[i]:
                self.bank.store_anchor(rows[i], stored.frame, memory[position], pointers[position])

    def _show(
        self,
        objects: list[LiveObject],
        stored: StoredFrame,
        drawn: Tensor,
        presences: list[Presence],
        observations: list[Observation],
        packed: Fetched | None = None,
    ) -> list[ObjectChange]:
        """Takes the outcome over into the objects.

        Args:
            drawn: ``[B, 1, h, w]`` logits, in memory that no later frame overwrites.
            packed: these masks in the size of the image, if known (:func:`~sam2_ros.tracking.masks.pack_masks`).
        """
        shown = [
            observation.present or presence.state is ObjectState.VISIBLE
            for observation, presence in zip(observations, presences, strict=True)
        ]
        logits = drawn
        if not all(shown):
            logits = torch.where(upload(shown, drawn.device)[:, None, None, None], drawn, ABSENT_LOGIT)
        if self.config.hole_area:
            logits = fill_holes(logits, self.config.hole_area)
        if packed is None:
            masks = image_masks(logits, stored.height, stored.width, self.config.non_overlap)
        else:
            masks = [CroppedMask.from_packed(bits, stored.width) for bits in packed.tensor().numpy()]
        changes = []
        for index, (obj, presence, observation) in enumerate(zip(objects, presences, observations, strict=True)):
            mask = masks[index]
            if presence.state is ObjectState.VISIBLE and not mask.crop.size:
                # Too small for the image's pixels, or another object's by non-overlap: there is no mask to show.
                nothing = replace(observation, area=0.0)
                presence = obj.presence.after(stored.frame, stored.stamp, nothing, self.config)
            elif presence.state is not ObjectState.VISIBLE:
                mask = CroppedMask.empty(stored.width, stored.height)
            obj.logits, obj.prompted, obj.candidates = logits[index], False, None
            obj.set_scores(observation.score, observation.visibility, observation.predicted_iou)
            changes += obj.state_change(obj.set_presence(presence, mask))
        return changes

    def catch_up(self, objects: list[LiveObject], frames: list[StoredFrame]) -> None:
        """Tracks ``objects`` through later ``frames`` after a late prompt, and stores there what they have become.

        A frame on which an object was prompted stays as it is for that object: tracking never overwrites a prompt.
        """
        for stored in frames:
            tracked = []
            for obj in objects:
                then = stored.objects.get(obj.object_id)
                if then is None or not then.prompted:
                    tracked.append(obj)
                else:
                    self._pass_prompted(obj, then, stored)
            if tracked:
                self.track(tracked, stored)
            stored.store(objects)

    def _pass_prompted(self, obj: LiveObject, then: LiveObject, stored: StoredFrame) -> None:
        self.bank.tick_prompted(obj.row, stored.frame)
        assert then.mask is not None
        obj.prompt_frame, obj.points, obj.labels = then.prompt_frame, then.points, then.labels
        obj.logits, obj.prompted, obj.candidates = then.logits, True, then.candidates
        obj.set_scores(then.object_score, then.visibility, then.predicted_iou)
        presence = obj.presence.prompted(
            stored.frame, stored.stamp, then.presence.prompted_area, bool(then.presence.areas), self.config
        )
        obj.set_presence(presence, then.mask)


def summary_of(scores: Tensor, ious: Tensor, present: Tensor, drawn: Tensor) -> Tensor:
    """What the host needs of ``B`` objects, float32 ``[4, B]``: object score, predicted IoU, whether it is present, and
    the share of the frame that its mask ``drawn`` (``[B, 1, h, w]``) covers."""
    areas = (drawn > 0).flatten(1).float().mean(dim=1)
    return torch.stack((scores.float(), ious.float(), present.float(), areas))
