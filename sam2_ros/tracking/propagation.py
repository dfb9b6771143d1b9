"""Tracks objects on an encoded frame, all of them as one batch. The frame may be the newest or an older one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from sam2_ros.model.arrays import autocast, device_of, float32, inference, module_of, on_cpu, on_host
from sam2_ros.model.choice import choose
from sam2_ros.model.network import ABSENT_LOGIT, Array, Network
from sam2_ros.tracking.bank import MemoryBank
from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.deadline import Workload
from sam2_ros.tracking.history import StoredFrame, View
from sam2_ros.tracking.look_alikes import Division
from sam2_ros.tracking.lost import look_around
from sam2_ros.tracking.mask_parts import OwnMasks, masks_of, own_masks, update_trails
from sam2_ros.tracking.masks import fill_holes, image_masks, masks_in_windows
from sam2_ros.tracking.objects import LiveObject
from sam2_ros.tracking.picture_prompt import find
from sam2_ros.tracking.recognition import SURE, looks_for_things, recognise, recognises
from sam2_ros.tracking.sights import Sight, tell_apart
from sam2_ros.tracking.transfer import Fetched, upload
from sam2_ros.tracking.types import CroppedMask, ObjectChange, ObjectState
from sam2_ros.tracking.viewer import Viewer
from sam2_ros.tracking.visibility import Observation, Presence, visibility_in_frame
from sam2_ros.tracking.waiting import carry, give_way, waits

Lap = Callable[[str], None]


@dataclass(frozen=True)
class Tracked:
    """Objects seen through one window, and the outcome for each."""

    objects: list[LiveObject]
    view: View
    drawn: Array  # [B, 1, h, w] logits, in memory that no later frame overwrites
    presences: list[Presence]
    observations: list[Observation]
    packed: Fetched | None = None  # the masks in the size of the window, if known (see pack_masks)


@dataclass(frozen=True)
class Decoded:
    """What the network says of the objects that are seen through one window."""

    sight: Sight
    drawn: Array  # [B, 1, h, w] logits
    ious: Array  # [B] predicted
    pointers: Array  # [B, C]


def _masks_of(tracked: Tracked, logits: Array) -> list[CroppedMask]:
    view, window = tracked.view, tracked.view.window
    if tracked.packed is None:
        masks = image_masks(logits, window.height, window.width, non_overlap=False)
    else:
        masks = [CroppedMask.from_packed(bits, window.width) for bits in tracked.packed.tensor().numpy()]
    return [mask.within(window.x0, window.y0, view.width, view.height) for mask in masks]


class Propagation:
    """One pass of every module of the network, for one tracker's objects."""

    use_graphs = False  # CUDA graphs; :class:`.cuda_propagation.CudaPropagation` may

    def __init__(self, viewer: Viewer, bank: MemoryBank, config: TrackerConfig, dtype: str) -> None:
        self.viewer = viewer
        self.model = viewer.model
        self.bank = bank
        self.dtype = dtype
        self.workload = Workload()
        self.configure(config)

    def configure(self, config: TrackerConfig) -> None:
        self.config = config
        self.follows = config.rejects_strays or config.tells_apart  # where the objects are, on the host
        self.recognises = recognises(self.model, config)

    def track(
        self, objects: list[LiveObject], stored: StoredFrame, lap: Lap = lambda _: None, again: bool = False
    ) -> list[ObjectChange]:
        """Tracks ``objects`` from the frame before ``stored``, updates their memory, and returns what changed. LOST
        objects are searched for on some frames only. ``again``: ``stored`` was tracked before, for all objects."""
        with inference(self.model.device):
            return self._track(objects, stored, lap, again)

    def _track(self, objects: list[LiveObject], stored: StoredFrame, lap: Lap, again: bool) -> list[ObjectChange]:
        for obj in objects:
            obj.follow_camera(stored.motion, stored.width, stored.height)
        self.bank.stand_still([obj.row for obj in objects], stored.frame)  # unless it is remembered below
        due = self.due(objects, stored.frame, self.workload)
        if not again:
            due = [obj for obj in due if not waits(obj, stored)]
        changes, busy = [], {obj.object_id for obj in due}
        carried: list[LiveObject] = []
        before: dict[int, LiveObject] = {}  # by id, as they were
        for obj in objects:
            if obj.object_id in busy:
                continue
            if not again and waits(obj, stored) and stored.waiting[obj.object_id].mask.crop.size:
                window = self.viewer.next_window(obj, stored.width, stored.height, stored.frame, self.workload)
                before[obj.object_id] = obj.snapshot()
                carry(obj, stored, window, self.model, self.config)
                carried.append(obj)
            else:
                changes += self._pass(obj, stored)
        looked_for = self.viewer.look(due, stored, self.workload)
        # Where frames are tracked again for some objects, the others are as they were.
        known = {obj.object_id for obj in objects}
        bystanders = [then for object_id, then in stored.objects.items() if object_id not in known] + carried
        if looked_for:
            tracked = self._track_due(looked_for, bystanders, lap)
            changes += self._show(tracked, stored)
            if self.config.non_overlap:
                for obj in give_way(carried, due):
                    obj.restore(before[obj.object_id])
                    changes += self._pass(obj, stored)
            lap("masks")
        if looks_for_things(self.config) and self.viewer.looks_at_all(stored):
            changes += self._find_awaited(objects, stored)
            turn = self.viewer.turn_of_all(stored.frame)
            if turn is not None:
                with autocast(self.model.device, self.dtype):
                    look_around(objects, stored, self.viewer, self.bank, turn, self.recognises)
        return changes

    def _pass(self, obj: LiveObject, stored: StoredFrame) -> list[ObjectChange]:
        """Takes an object past a frame on which nobody looks for it."""
        obj.logits, obj.prompted, obj.candidates = None, False, None
        presence = obj.presence.passed(stored.frame, stored.stamp, self.config)
        return obj.state_change(obj.set_presence(presence, CroppedMask.empty(stored.width, stored.height)))

    def due(self, objects: list[LiveObject], frame: int, workload: Workload) -> list[LiveObject]:
        """The objects that are tracked on ``frame``, or searched for by their memory."""
        if self.config.reference_policy:
            return objects
        factor = workload.search_factor
        return [obj for obj in objects if obj.awaited is None and obj.presence.due(frame, self.config, factor)]

    def searches(self, objects: list[LiveObject], frame: int) -> bool:
        """Whether the whole frame number ``frame`` is searched for hidden ones among ``objects``, beside windows."""
        hidden = any(obj.state is not ObjectState.VISIBLE for obj in objects)
        return hidden and looks_for_things(self.config) and self.viewer.turn_of_all(frame) is not None

    def _find_awaited(self, objects: list[LiveObject], stored: StoredFrame) -> list[ObjectChange]:
        """Prompts the awaited ones among ``objects`` where ``stored`` shows something that looks like their picture."""
        factor = self.workload.search_factor
        awaited = [obj for obj in objects if obj.awaited is not None]
        if self.viewer.turn_of_all(stored.frame) is None:
            awaited = [obj for obj in awaited if obj.presence.due(stored.frame, self.config, factor)]
        if not awaited:
            return []
        known = {obj.object_id for obj in objects}
        others = objects + [then for object_id, then in stored.objects.items() if object_id not in known]
        changes: list[ObjectChange] = []
        with autocast(self.model.device, self.dtype):
            for found in find(self.viewer, awaited, stored):
                seen = [obj.mask for obj in others if obj.state is ObjectState.VISIBLE and obj.mask is not None]
                visibility = visibility_of(self.model, found.score, found.iou)
                changes += found.prompt(
                    stored, self.bank, self.config, visibility, seen if self.config.non_overlap else ()
                )
        return changes

    def _track_due(
        self, looked_for: list[tuple[View, list[LiveObject]]], bystanders: list[LiveObject], lap: Lap
    ) -> list[Tracked]:
        """Tracks the objects of each view. They are told apart across views before anything is remembered."""
        decoded = [self._see(objects, view, lap) for view, objects in looked_for]
        divisions = self._divisions([each.sight for each in decoded], bystanders)
        return [self._settle(each, division, lap) for each, division in zip(decoded, divisions, strict=True)]

    def _divisions(self, sights: list[Sight], bystanders: list[LiveObject]) -> list[Division | None]:
        return tell_apart(sights, bystanders) if self.config.tells_apart else [None] * len(sights)

    def _own_masks(self, drawn: Array, sight: Sight, division: Division | None) -> OwnMasks:
        view = sight.view
        return own_masks(
            drawn, sight.objects, view.frame, sight.masks, view.shares, self.config.rejects_strays, division
        )

    def _see(self, objects: list[LiveObject], view: View, lap: Lap) -> Decoded:
        model, features, frame = view.model, view.features, view.frame
        rows = [obj.row for obj in objects]
        memories = self.bank.gather(rows, frame, self.workload.recent_frames, model)
        with autocast(model.device, self.dtype):
            conditioned = model.with_memory(features, *memories)
            lap("memory_attention")
            decoded = model.decode(conditioned, features, *model.no_prompt(len(rows)))
            chosen = choose(decoded, multimask=True, stability_fallback=False)
            scores = float32(decoded.object_score[:, 0])
            if self.recognises:
                references = self.bank.references(rows, frame)
                chosen, scores = recognise(model, references, features, decoded, chosen)
            present = model.present(scores, chosen.iou)
            pointers, drawn = model.pointer(chosen.token, present), float32(chosen.logits)
            sight = Sight(objects, view, present, scores, masks_of(drawn) if self.follows else [])
        lap("decode")
        return Decoded(sight, drawn, chosen.iou, pointers)

    def _settle(self, decoded: Decoded, division: Division | None, lap: Lap) -> Tracked:
        """Decides what of the masks is whose, and what is remembered."""
        sight, drawn, scores = decoded.sight, decoded.drawn, decoded.sight.scores
        objects, view, present, rows = sight.objects, sight.view, sight.present, [obj.row for obj in sight.objects]
        with autocast(view.model.device, self.dtype):
            own = self._own_masks(drawn, sight, division) if self.follows else None
            drawn = drawn if own is None else own.logits
            logits = module_of(drawn).where(present[:, None, None, None], drawn, ABSENT_LOGIT)
            observations = self._observations(summary_of(scores, decoded.ious, present, drawn), view)
            if self.recognises and own is not None and view.shares != (0.0, 0.0, 1.0, 1.0):
                observations = [
                    replace(seen, close=True, leap=obj.leap_to(box, view.frame, view.width, view.height))
                    for obj, seen, box in zip(objects, observations, own.boxes, strict=True)
                ]
            presences, remembered = self._decide(objects, view, observations, own)
            lap("decode")
            self._remember(rows, view, logits, present, decoded.pointers, remembered)
            if self.recognises:
                for i, (row, seen) in enumerate(zip(rows, observations, strict=True)):
                    if remembered[i] and seen.score > SURE:
                        self.bank.store_sure(row, view.frame, view.features, logits[i, 0], view.model)
        lap("memory_encode")
        return Tracked(objects, view, drawn, presences, observations)

    def _observations(self, table: Array, view: View) -> list[Observation]:
        """What the network says of each object; ``table`` is :func:`summary_of`."""
        table = table if on_host(table) else table.cpu()
        share = view.shares[2] * view.shares[3]
        visibilities = self.model.visibility(table[0], table[1])
        return [
            Observation(
                bool(there),
                area * share,
                iou,
                self.recognises and bool(there),
                score,
                visibility_in_frame(visibility, share),
            )
            for score, iou, there, area, visibility in module_of(table)
            .concatenate((table, visibilities[None]))
            .T.tolist()
        ]

    def _decide(
        self, objects: list[LiveObject], view: View, observations: list[Observation], own: OwnMasks | None
    ) -> tuple[list[Presence], list[bool]]:
        """Decides the presence of each object after the frame, and whether its memory takes the frame; updates the
        trails."""
        presences = [
            obj.presence.after(view.frame, view.stamp, observation, self.config)
            for obj, observation in zip(objects, observations, strict=True)
        ]
        remembered = [self._is_remembered(*pair) for pair in zip(observations, presences, strict=True)]
        if own is None:
            return presences, remembered
        update_trails(objects, view.frame, own, observations, presences)
        return presences, (remembered & ~own.undecided).tolist()

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
        view: View,
        logits: Array,
        present: Array,
        pointers: Array,
        remembered: list[bool],
    ) -> None:
        index = [i for i, wanted in enumerate(remembered) if wanted]
        if not index:
            return
        if len(index) < len(rows):
            logits, present, pointers = logits[index], present[index], pointers[index]
        memory = view.model.encode_low_memory(view.features, logits, present)
        self.bank.store_recent([rows[i] for i in index], view.frame, memory, pointers)

    def _show(self, tracked: list[Tracked], stored: StoredFrame) -> list[ObjectChange]:
        """Takes the outcome of a frame over into the objects."""
        shown = [self._shown_logits(each) for each in tracked]
        if self.config.non_overlap:
            flat = [row for logits in shown for row in logits]
            windows = [each.view.window for each in tracked for _ in each.objects]
            masks = masks_in_windows(flat, windows, stored.height, stored.width, non_overlap=True)
        else:
            masks = [mask for each, logits in zip(tracked, shown, strict=True) for mask in _masks_of(each, logits)]
        changes: list[ObjectChange] = []
        remaining = iter(masks)
        for each, logits in zip(tracked, shown, strict=True):
            for index, obj in enumerate(each.objects):
                changes += self._show_one(obj, each, index, logits[index], next(remaining))
        return changes

    def _shown_logits(self, tracked: Tracked) -> Array:
        shown = [
            observation.present or presence.state is ObjectState.VISIBLE
            for observation, presence in zip(tracked.observations, tracked.presences, strict=True)
        ]
        logits = tracked.drawn
        if not all(shown):
            chosen = upload(shown, device_of(logits))[:, None, None, None]
            logits = module_of(logits).where(chosen, logits, ABSENT_LOGIT)
        return fill_holes(logits, self.config.hole_area) if self.config.hole_area else logits

    def _show_one(
        self, obj: LiveObject, tracked: Tracked, index: int, logits: Array, mask: CroppedMask
    ) -> list[ObjectChange]:
        view, presence, observation = tracked.view, tracked.presences[index], tracked.observations[index]
        if presence.state is ObjectState.VISIBLE and not mask.crop.size:
            # Too small for the image's pixels, or another object's by non-overlap: there is no mask to show.
            nothing = replace(observation, area=0.0)
            presence = obj.presence.after(view.frame, view.stamp, nothing, self.config)
        elif presence.state is not ObjectState.VISIBLE:
            mask = CroppedMask.empty(view.width, view.height)
        obj.logits, obj.window, obj.prompted, obj.candidates = logits, view.window, False, None
        obj.looked_frame = view.frame
        obj.set_scores(observation.score, observation.visibility, observation.predicted_iou)
        return obj.state_change(obj.set_presence(presence, mask))

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
                self.track(tracked, stored, again=True)
            stored.store(objects)

    def _pass_prompted(self, obj: LiveObject, then: LiveObject, stored: StoredFrame) -> None:
        obj.follow_camera(stored.motion, stored.width, stored.height)
        self.bank.tick_prompted(obj.row, stored.frame)
        assert then.mask is not None
        obj.prompt_frame, obj.points, obj.labels = then.prompt_frame, then.points, then.labels
        obj.logits, obj.window, obj.prompted, obj.candidates = then.logits, then.window, True, then.candidates
        obj.awaited, obj.looked_frame = then.awaited, stored.frame
        obj.set_scores(then.object_score, then.visibility, then.predicted_iou)
        presence = obj.presence.prompted(
            stored.frame, stored.stamp, then.presence.prompted_area, bool(then.presence.areas), self.config
        )
        obj.set_presence(presence, then.mask)


def summary_of(scores: Array, ious: Array, present: Array, drawn: Array) -> Array:
    """What the host needs of ``B`` objects, float32 ``[4, B]``: object score, predicted IoU, whether it is present, and
    the share of the frame that its mask ``drawn`` (``[B, 1, h, w]``) covers."""
    areas = float32(drawn > 0).reshape(len(drawn), -1).mean(1)
    return module_of(scores).stack((float32(scores), float32(ious), float32(present), areas))


def visibility_of(model: Network, score: float, iou: float) -> float:
    """:meth:`Network.visibility` of one object."""
    numbers = on_cpu(np.array([score, iou], np.float32), model.device)
    return float(model.visibility(*numbers))
