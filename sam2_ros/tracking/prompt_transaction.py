"""Prompts on one stored frame, from the request to the answer: checked, applied, rolled forward to now."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch

from sam2_ros.model.sam2 import Sam2Model
from sam2_ros.tracking.bank import MemoryBank, RowBackup
from sam2_ros.tracking.changes import ADDED, CORRECTED, PROMPT_RELEASED, change_of, state_change
from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.frame_lookup import seconds
from sam2_ros.tracking.history import FrameHistory, StoredFrame
from sam2_ros.tracking.mask_parts import trail_after_prompt
from sam2_ros.tracking.masks import image_masks
from sam2_ros.tracking.objects import TrackedObject
from sam2_ros.tracking.prompt_checks import check_request
from sam2_ros.tracking.prompt_decoder import Answer, PromptApplier
from sam2_ros.tracking.propagation import Propagation, autocast
from sam2_ros.tracking.registry import Registry
from sam2_ros.tracking.types import (
    AddRequest,
    CroppedMask,
    ObjectChange,
    ObjectState,
    Prompt,
    PromptCode,
    PromptError,
    PromptResult,
)


@dataclass
class Engine:
    """The parts of one tracker that a prompt goes through."""

    model: Sam2Model
    config: TrackerConfig
    dtype: str
    bank: MemoryBank
    history: FrameHistory
    registry: Registry
    prompts: PromptApplier
    propagation: Propagation
    changes: deque[ObjectChange]


@dataclass(frozen=True)
class _Accepted:
    """A checked request and its object; ``before`` is what to go back to where the network fails."""

    request: AddRequest
    one: TrackedObject
    before: _Backup | None  # None: a new object


@dataclass(frozen=True)
class _Backup:
    row: RowBackup
    now: TrackedObject
    past: dict[int, TrackedObject]  # by frame


class PromptRun:
    """The prompts of one call, for ``stored``. Where that is not the newest frame, everything is done as if no later
    one had come; then the objects are rolled forward through the later ones, and no image is encoded again."""

    def __init__(self, engine: Engine, stored: StoredFrame, asked: int) -> None:
        self.engine = engine
        self.stored = stored
        newest = engine.history.newest
        assert newest is not None
        self.newest = newest
        self.late = stored is not newest
        self.difference = abs(stored.stamp - asked) / 1e9 if asked else 0.0
        self._accepted: list[_Accepted] = []

    def holds(self, object_id: int | None) -> bool:
        """Whether a prompt for this object waits to be applied."""
        return any(a.one.object_id == object_id for a in self._accepted)

    def admit(self, request: AddRequest) -> None:
        """Checks a request and gives a new object its row.

        Raises:
            PromptError: it can't be applied; nothing has changed then.
        """
        engine, stored = self.engine, self.stored
        if self.late and engine.config.reference_policy:
            raise PromptError(
                PromptCode.UNSUPPORTED,
                "with tracker.reference_policy prompts apply to the newest frame; send stamp 0, or turn it off",
            )
        check_request(request, (stored.width, stored.height))
        if request.object_id is None:
            one = engine.registry.create(request, stored.frame)
            engine.bank.clear(one.row)
            self._accepted.append(_Accepted(request, one, None))
            return
        one = engine.registry.living(request.object_id)
        then = stored.objects.get(one.object_id) if self.late else one
        if then is None:
            raise PromptError(
                PromptCode.TOO_OLD,
                f"object {one.object_id} was added after the frame stamped {seconds(stored.stamp)}; accepted: that of "
                "its first prompt and later ones",
            )
        if request.prompt.candidate is not None:
            _check_candidate(request.prompt, then, stored.frame)
        if request.name and request.name != one.name:
            engine.registry.check_name(request.name, one.object_id)
            one.name = request.name
        if request.label:
            one.label, one.label_score = request.label, request.label_score
        past = [self.stored, *engine.history.after(self.stored)]
        known = {each.frame: each.objects[one.object_id] for each in past if one.object_id in each.objects}
        backup = _Backup(engine.bank.save(one.row), one.snapshot(), known)
        self._accepted.append(_Accepted(request, one, backup))

    def apply(self) -> list[PromptResult]:
        """Applies what was admitted since the last call; where the network fails, everything is as it was before.

        The results are in the order of the requests.
        """
        accepted, self._accepted = self._accepted, []
        objects = [a.one for a in accepted]
        before = [one.state for one in objects]
        try:
            answers, results = self._apply_then(accepted)
            self.engine.propagation.catch_up(objects, self.engine.history.after(self.stored))
        except Exception:
            self._undo(accepted)
            raise
        if self.late and self.engine.config.non_overlap:
            self._masks_on_newest(objects)
        for a, answer, state in zip(accepted, answers, before, strict=True):
            self._note(a, answer, state)
        return results

    def _apply_then(self, accepted: list[_Accepted]) -> tuple[list[Answer], list[PromptResult]]:
        """The prompts on their frame, whatever came later."""
        engine, stored, width, height = self.engine, self.stored, self.stored.width, self.stored.height
        if self.late:
            for a in accepted:
                if a.before is not None:
                    a.one.restore(stored.objects[a.one.object_id])
                    engine.bank.forget_anchors(a.one.row, stored.frame)
        with torch.inference_mode(), autocast(engine.model, engine.dtype):
            prompts = [(a.request.prompt, a.one) for a in accepted]
            answers = engine.prompts.apply(prompts, stored.features, stored.frame, width, height)
        for a, answer in zip(accepted, answers, strict=True):
            a.one.logits, a.one.prompted = answer.logits, True
        results = []
        for a, answer, mask in zip(accepted, answers, self._prompted_masks([a.one for a in accepted]), strict=True):
            one = a.one
            visibility = float(engine.model.visibility(torch.tensor(answer.object_score), torch.tensor(answer.iou)))
            area = mask.area / (stored.width * stored.height)
            before = one.sight_before_frame(stored.frame)
            one.judge(answer.object_score, visibility, answer.iou)
            bounded = a.request.prompt.box is not None or a.request.prompt.mask is not None
            if engine.propagation.policy.looks and mask.crop.size:
                one.trail = trail_after_prompt(one.trail, stored.frame, answer.logits, bounded)
            one.stand(before.prompted(stored.frame, stored.stamp, area, bounded, engine.config), mask)
            engine.history.forget_candidates(one.object_id)
            results.append(self._result(a, answer))
        stored.keep(a.one for a in accepted)
        return answers, results

    def _result(self, a: _Accepted, answer: Answer) -> PromptResult:
        one, stored = a.one, self.stored
        caught_up = self.newest.frame - stored.frame
        age = (self.newest.stamp - stored.stamp) / 1e9
        message = f"object {one.object_id} {'added' if a.before is None else 'corrected'} on frame {stored.frame}"
        if caught_up:
            message += f", {age:.3f} s old; caught up through {caught_up} frames"
        if self.difference:
            message += f"; the stored frame nearest to the stamp, {self.difference:.3f} s from it"
        if answer.released is not None:
            message += f"; its prompt of frame {answer.released} was let go (tracker.prompted_slots)"
        return PromptResult(
            PromptCode.OK,
            message,
            object_id=one.object_id,
            name=one.name,
            applied_stamp=stored.stamp,
            prompt_age=age,
            frames_caught_up=caught_up,
            stamp_difference=self.difference,
            result=one.result(stored.width, stored.height),
            stability=answer.stability,
            candidates=self.engine.prompts.candidate_masks(one, stored.width, stored.height),
        )

    def _note(self, a: _Accepted, answer: Answer, before: ObjectState) -> None:
        """The events of one prompt, with the object as it is now."""
        changes, one = self.engine.changes, a.one
        if a.before is None:
            changes.append(change_of(one, ADDED, None, "added"))
        else:
            changes.append(change_of(one, CORRECTED, before, "corrected"))
            changes.extend(state_change(one, before))
        if answer.released is not None:
            changes.append(
                change_of(one, PROMPT_RELEASED, one.state, f"the prompt of frame {answer.released} was let go")
            )

    def _prompted_masks(self, prompted: list[TrackedObject]) -> list[CroppedMask]:
        """Masks of newly prompted objects on their frame; with non-overlap, the others on the newest one give way."""
        if self.engine.config.non_overlap and not self.late:
            self._masks_on_newest(prompted)
            return [one.mask for one in prompted if one.mask is not None]
        logits = torch.stack([one.logits for one in prompted if one.logits is not None])
        return image_masks(logits, self.stored.height, self.stored.width, self.engine.config.non_overlap)

    def _masks_on_newest(self, prompted: list[TrackedObject]) -> None:
        """Gives every pixel of the newest frame to one object."""
        living = self.engine.registry.objects.values()
        shown = [one for one in living if one in prompted or one.newest_frame == self.newest.frame]
        shown = [one for one in shown if one.logits is not None]
        logits = torch.stack([one.logits for one in shown if one.logits is not None])
        masks = image_masks(logits, self.newest.height, self.newest.width, non_overlap=True)
        for one, mask in zip(shown, masks, strict=True):
            one.mask = mask

    def _undo(self, accepted: list[_Accepted]) -> None:
        engine = self.engine
        frames = [self.stored, *engine.history.after(self.stored)]
        for a in accepted:
            one = a.one
            if a.before is None:
                del engine.registry.objects[one.object_id]
                engine.history.forget(one.object_id)
                continue
            engine.bank.restore(one.row, a.before.row)
            one.restore(a.before.now)
            for stored in frames:
                if stored.frame in a.before.past:
                    stored.objects[one.object_id] = a.before.past[stored.frame]


def _check_candidate(prompt: Prompt, one: TrackedObject, frame: int) -> None:
    """Refuses a choice where nothing is offered; ``one`` is the object as it was on ``frame``."""
    if prompt.points is None and one.candidates is None:
        raise PromptError(
            PromptCode.INVALID_PROMPT,
            "no candidates are kept for this object on this frame; give the point again with the choice",
        )
    if prompt.points is not None and one.prompt_frame == frame and len(one.labels) and not prompt.replace:
        raise PromptError(
            PromptCode.INVALID_PROMPT,
            "candidates are offered for a single point, and this object has earlier ones on this frame; give the "
            "choice alone, or the point with replace",
        )
