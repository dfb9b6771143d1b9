"""Applies prompts to one stored frame: checks them, decodes them, and tracks the objects from there to now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sam2_ros.model.arrays import autocast, inference
from sam2_ros.text import counted
from sam2_ros.tracking.frame_lookup import seconds
from sam2_ros.tracking.history import FrameHistory, StoredFrame
from sam2_ros.tracking.mask_parts import trail_after_prompt
from sam2_ros.tracking.masks import masks_in_windows
from sam2_ros.tracking.objects import LiveObject
from sam2_ros.tracking.picture_prompt import reference_of
from sam2_ros.tracking.prompt_checks import check_request, check_sum
from sam2_ros.tracking.prompt_decoder import Answer, PromptDecoder, adds_to_earlier
from sam2_ros.tracking.propagation import Propagation, visibility_of
from sam2_ros.tracking.recognition import looks_for_things
from sam2_ros.tracking.registry import Registry
from sam2_ros.tracking.types import (
    CroppedMask,
    EventCode,
    ObjectChange,
    ObjectState,
    Prompt,
    PromptCode,
    PromptError,
    PromptRequest,
    PromptResult,
)
from sam2_ros.tracking.visibility import Observation, Presence
from sam2_ros.tracking.windows import Window

_NO_PICTURES = (
    "this tracker does not compare things with a picture; turn tracker.recognition on and tracker.reference_policy off"
)


@dataclass(frozen=True)
class _Accepted:
    """A checked request and its object."""

    request: PromptRequest
    obj: LiveObject
    undo: Callable[[], None]  # for when the network fails

    @property
    def is_new(self) -> bool:
        return self.request.object_id is None


class PromptTransaction:
    """The prompts of one call, all on the frame ``stored``.

    If that is not the newest frame, the prompts are late. They are applied as if no later frame had come. Then the
    objects are tracked through the later frames, whose images are not encoded again. ``asked`` is the stamp that was
    asked for, nanoseconds; 0 = none.
    """

    def __init__(
        self,
        registry: Registry,
        history: FrameHistory,
        prompts: PromptDecoder,
        propagation: Propagation,
        stored: StoredFrame,
        asked: int,
    ) -> None:
        self.registry, self.history, self.prompts, self.propagation = registry, history, prompts, propagation
        self.bank, self.config = propagation.bank, propagation.config
        self.stored = stored
        self.later = history.after(stored)
        self.newest = self.later[-1] if self.later else stored
        self.late = bool(self.later)
        self.difference = abs(stored.stamp - asked) / 1e9 if asked else 0.0
        self._accepted: list[_Accepted] = []

    def holds(self, object_id: int | None) -> bool:
        """Whether a prompt for this object was admitted and not yet applied."""
        return any(a.obj.object_id == object_id for a in self._accepted)

    def admit(self, request: PromptRequest) -> None:
        """Checks a request and gives a new object its row.

        Raises:
            PromptError: it can't be applied; nothing has changed then.
        """
        registry, stored = self.registry, self.stored
        if self.late and self.config.reference_policy:
            raise PromptError(
                PromptCode.UNSUPPORTED,
                "with tracker.reference_policy prompts apply to the newest frame; send stamp 0, or turn it off",
            )
        check_request(request, (stored.width, stored.height))
        if request.object_id is None:
            obj = registry.create(request, stored.frame)
            self.bank.clear(obj.row)
            self._accepted.append(_Accepted(request, obj, lambda: self._remove(obj)))
            return
        obj = registry.living(request.object_id)
        then = stored.objects.get(obj.object_id) if self.late else obj
        if then is None:
            raise PromptError(
                PromptCode.TOO_OLD,
                f"object {obj.object_id} was added after the frame stamped {seconds(stored.stamp)}; accepted: that of "
                "its first prompt and later ones",
            )
        if request.prompt.candidate is not None:
            _check_candidate(request.prompt, then, stored.frame)
        if request.prompt.points is not None and adds_to_earlier(request.prompt, then, stored.frame):
            check_sum(obj.object_id, int((then.labels < 2).sum()), len(request.prompt.points))
        named = obj.name, obj.label, obj.label_score
        if request.name and request.name != obj.name:
            registry.check_name(request.name, obj.object_id)
            obj.name = request.name
        if request.label:
            obj.label, obj.label_score = request.label, request.label_score
        row, now = self.bank.save(obj.row), obj.snapshot()
        past = [(each, each.objects.get(obj.object_id)) for each in (stored, *self.later)]

        def undo() -> None:
            self.bank.restore(obj.row, row)
            obj.restore(now)
            obj.name, obj.label, obj.label_score = named
            for each, known in past:
                if known is not None:
                    each.objects[obj.object_id] = known

        self._accepted.append(_Accepted(request, obj, undo))

    def add_awaited(self, request: PromptRequest) -> tuple[PromptResult, ObjectChange]:
        """Adds an object that is LOST until a frame after this one shows something like the request's picture.

        Raises:
            PromptError: it can't be added; nothing has changed then.
        """
        check_request(request)
        if not looks_for_things(self.config):
            raise PromptError(PromptCode.UNSUPPORTED, _NO_PICTURES)
        stored, viewer = self.stored, self.prompts.viewer
        obj = self.registry.create(request, stored.frame)
        self.bank.clear(obj.row)
        obj.presence = obj.presence_before = Presence.awaiting(stored.frame, self.config)
        try:
            with inference(viewer.model.device), autocast(viewer.model.device, self.propagation.dtype):
                obj.awaited = reference_of(viewer.shared, request.prompt, stored.width, stored.height)
            stored.store([obj])
            self.propagation.catch_up([obj], self.later)
        except Exception:
            self._remove(obj)
            raise
        result = PromptResult(
            PromptCode.OK,
            f"object {obj.object_id} added; it is {obj.state.name} until something looks like the picture",
            object_id=obj.object_id,
            name=obj.name,
            applied_stamp=stored.stamp,
            prompt_age=(self.newest.stamp - stored.stamp) / 1e9,
            frames_caught_up=self.newest.frame - stored.frame,
            stamp_difference=self.difference,
            result=obj.result(stored.width, stored.height),
        )
        return result, obj.change(EventCode.ADDED, None, "added by a picture")

    def _remove(self, obj: LiveObject) -> None:
        del self.registry.objects[obj.object_id]
        self.history.forget(obj.object_id)

    def apply(self) -> tuple[list[PromptResult], list[ObjectChange]]:
        """Applies what was admitted since the last call; if the network fails, restores everything. Returns the results
        in the order of the requests, and the events."""
        accepted, self._accepted = self._accepted, []
        objects = [a.obj for a in accepted]
        before = [obj.state for obj in objects]
        others = [(obj, obj.state, obj.snapshot()) for obj in self.registry.objects.values() if obj not in objects]
        try:
            answers, results = self._apply_on_frame(accepted)
            self.propagation.catch_up(objects, self.later)
            if self.late and self.config.non_overlap:
                self._masks_on_newest([])
            if self.late:
                self.prompts.viewer.draw(self.registry.objects.values(), self.newest)
        except Exception:
            for a in accepted:
                a.undo()
            for obj, _, now in others:  # with non-overlap they gave pixels away
                obj.restore(now)
            raise
        changes = []
        for a, answer, state in zip(accepted, answers, before, strict=True):
            changes += _events(a, answer, state)
        for obj, state, _ in others:
            changes += obj.state_change(state)
        return results, changes

    def _apply_on_frame(self, accepted: list[_Accepted]) -> tuple[list[Answer], list[PromptResult]]:
        model, stored = self.propagation.model, self.stored
        if self.late:
            for a in accepted:
                if not a.is_new:
                    a.obj.restore(stored.objects[a.obj.object_id])
                    self.bank.forget_from(a.obj.row, stored.frame)
        with inference(model.device), autocast(model.device, self.propagation.dtype):
            prompts = [(a.request.prompt, a.obj) for a in accepted]
            answers = self.prompts.apply(prompts, stored)
        for a, answer in zip(accepted, answers, strict=True):
            a.obj.logits, a.obj.prompted, a.obj.looked_frame = answer.logits, True, stored.frame
        for a, answer, mask in zip(accepted, answers, self._prompted_masks([a.obj for a in accepted]), strict=True):
            obj = a.obj
            visibility = visibility_of(model, answer.object_score, answer.iou)
            area = mask.area / (stored.width * stored.height)
            before = obj.presence_before_frame(stored.frame)
            obj.set_scores(answer.object_score, visibility, answer.iou)
            bounded = a.request.prompt.box is not None or a.request.prompt.mask is not None
            if self.propagation.follows and mask.crop.size:
                obj.trail = trail_after_prompt(
                    obj.trail,
                    stored.frame,
                    answer.logits,
                    bounded,
                    self._window(obj).shares(stored.width, stored.height),
                )
            obj.set_presence(before.prompted(stored.frame, stored.stamp, area, bounded, self.config), mask)
            if area:
                obj.awaited = None
            self.history.forget_candidates(obj.object_id)
        stored.store(a.obj for a in accepted)
        given = {a.obj.object_id: a.request.prompt.mask for a in accepted if a.request.prompt.mask is not None}
        shown = [a.obj for a in accepted] if self.late else self.registry.objects.values()
        self.prompts.viewer.draw(shown, stored, given)
        return answers, [self._result(a, answer) for a, answer in zip(accepted, answers, strict=True)]

    def _result(self, a: _Accepted, answer: Answer) -> PromptResult:
        obj, stored = a.obj, self.stored
        caught_up = self.newest.frame - stored.frame
        age = (self.newest.stamp - stored.stamp) / 1e9
        message = f"object {obj.object_id} {'added' if a.is_new else 'corrected'} on frame {stored.frame}"
        if caught_up:
            message += f", {age:.3f} s old; caught up through {counted(caught_up, 'frame')}"
        if self.difference:
            message += f"; the stored frame nearest to the stamp, {self.difference:.3f} s from it"
        if answer.released is not None:
            message += f"; its prompt of frame {answer.released} was released (tracker.prompted_slots)"
        return PromptResult(
            PromptCode.OK,
            message,
            object_id=obj.object_id,
            name=obj.name,
            applied_stamp=stored.stamp,
            prompt_age=age,
            frames_caught_up=caught_up,
            stamp_difference=self.difference,
            result=obj.result(stored.width, stored.height),
            stability=answer.stability,
            candidates=self.prompts.candidate_masks(obj, stored),
        )

    def _prompted_masks(self, prompted: list[LiveObject]) -> list[CroppedMask]:
        """Masks of the prompted objects on their frame. With non-overlap, others lose pixels on the newest one."""
        if self.config.non_overlap and not self.late:
            self._masks_on_newest(prompted)
            return [obj.mask for obj in prompted if obj.mask is not None]
        return self._masks(prompted, self.stored, self.config.non_overlap)

    def _masks(self, objects: list[LiveObject], stored: StoredFrame, non_overlap: bool) -> list[CroppedMask]:
        logits = [obj.logits for obj in objects if obj.logits is not None]
        windows = [self._window(obj) for obj in objects]
        return masks_in_windows(logits, windows, stored.height, stored.width, non_overlap)

    def _window(self, obj: LiveObject) -> Window:
        return obj.window or Window.whole(self.stored.width, self.stored.height)

    def _masks_on_newest(self, prompted: list[LiveObject]) -> None:
        """Gives every pixel of the newest frame to one object: one of the ``prompted``, or one that is VISIBLE. Another
        one that loses all its pixels is not VISIBLE any more."""
        newest = self.newest
        shown = [
            obj
            for obj in self.registry.objects.values()
            if obj in prompted or (obj.newest_frame == newest.frame and obj.state is ObjectState.VISIBLE)
        ]
        shown = [obj for obj in shown if obj.logits is not None]
        for obj, mask in zip(shown, self._masks(shown, newest, non_overlap=True), strict=True):
            obj.mask = mask
            if obj not in prompted and not mask.crop.size:
                nothing, earlier = Observation(True, 0.0, obj.predicted_iou), obj.presence_before_frame(newest.frame)
                obj.set_presence(earlier.after(newest.frame, newest.stamp, nothing, self.config), mask)


def _events(a: _Accepted, answer: Answer, before: ObjectState) -> list[ObjectChange]:
    """The events of one prompt, with the object as it is now; ``before``: its state until then."""
    obj = a.obj
    if a.is_new:
        changes = [obj.change(EventCode.ADDED, None, "added")]
    else:
        changes = [obj.change(EventCode.CORRECTED, before, "corrected"), *obj.state_change(before)]
    if answer.released is not None:
        reason = f"the prompt of frame {answer.released} was released"
        changes.append(obj.change(EventCode.PROMPT_RELEASED, obj.state, reason))
    return changes


def _check_candidate(prompt: Prompt, obj: LiveObject, frame: int) -> None:
    """Refuses a choice where no candidates are offered; ``obj`` is the object as it was on ``frame``."""
    if prompt.points is None and obj.candidates is None:
        raise PromptError(
            PromptCode.INVALID_PROMPT,
            "no candidates are stored for this object on this frame; give the point again with the choice",
        )
    if prompt.points is not None and obj.prompt_frame == frame and len(obj.labels) and not prompt.replace:
        raise PromptError(
            PromptCode.INVALID_PROMPT,
            "candidates are offered for a single point, and this object has earlier ones on this frame; give the "
            "choice alone, or the point with replace",
        )
