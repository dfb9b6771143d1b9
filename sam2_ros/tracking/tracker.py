"""The streaming tracker: one image encoding a frame, all objects as one batch, memory that never grows.

Nobody says how many frames will come. A prompt is applied to the newest frame: that of the last :meth:`Tracker.step`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sam2_ros.model.mask_decoder import choose
from sam2_ros.model.sam2 import ABSENT_LOGIT, ImageFeatures, Sam2Model
from sam2_ros.tracking.bank import MemoryBank
from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.masks import fill_holes, image_masks
from sam2_ros.tracking.objects import TrackedObject
from sam2_ros.tracking.prompting import PromptApplier
from sam2_ros.tracking.prompts import check_prompt
from sam2_ros.tracking.types import (
    AddRequest,
    CroppedMask,
    FrameResult,
    ObjectChange,
    ObjectState,
    Prompt,
    PromptCode,
    PromptError,
    PromptResult,
)

ADDED, STATE_CHANGED, CORRECTED, REMOVED, _DROPPED, PROMPT_RELEASED = range(1, 7)  # as in ObjectEvent.msg
KEPT_CHANGES = 1000  # so that a program that never takes them does not grow


class Tracker:
    """Tracks prompted objects through a stream of frames. Not thread-safe.

    Args:
        model: network with loaded weights, on its device; several trackers may share one.
        config: settings, fixed for the tracker's life.
        dtype: "float32", or "bfloat16" for autocast with float32 weights, as the official models are run.
    """

    def __init__(self, model: Sam2Model, config: TrackerConfig | None = None, dtype: str = "float32") -> None:
        if dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype is {dtype!r}; accepted: 'float32', 'bfloat16'")
        self.model = model
        self.config = config or TrackerConfig()
        self.dtype = dtype
        self.bank = MemoryBank(model, self.config)
        self._prompts = PromptApplier(model, self.bank, self.config)
        self._objects: dict[int, TrackedObject] = {}  # by permanent id, in the order of ids
        self.next_id = 1  # of the next new object; may be set before the first, to go on from an earlier tracker
        self._frame = -1  # index of the newest frame
        self._stamp = 0
        self._size = (0, 0)  # width, height
        self._features: ImageFeatures | None = None  # of the newest frame
        self._changes: deque[ObjectChange] = deque(maxlen=KEPT_CHANGES)

    # -- frames ------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def step(self, frame: NDArray[np.uint8], stamp: int = 0) -> FrameResult:
        """Tracks every object in ``frame``.

        Args:
            frame: RGB ``uint8 [H, W, 3]`` of any size.
            stamp: of the frame, nanoseconds.

        Raises:
            ValueError: not such a frame; nothing has changed then.
        """
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
            raise ValueError(f"a frame is uint8 of shape [H, W, 3]; got {frame.dtype} of shape {list(frame.shape)}")
        clock = _Clock()
        pixels = self.model.preprocess(torch.from_numpy(np.require(frame, requirements=("C", "W"))))
        clock.lap("resize")
        with self._autocast():
            features = self.model.encode_image(pixels)
        clock.lap("encode")
        self._features, self._frame, self._stamp = features, self._frame + 1, stamp
        self._size = (frame.shape[1], frame.shape[0])
        changes = self._track(list(self._objects.values()), clock) if self._objects else []
        return self._result(tuple(changes), clock.laps)

    def _track(self, objects: list[TrackedObject], clock: _Clock) -> list[ObjectChange]:
        """One pass of every module for all ``objects``, on the newest frame."""
        model, features, frame = self.model, self._features, self._frame
        assert features is not None
        rows = [one.row for one in objects]
        memories = self.bank.gather(rows, frame)
        with self._autocast():
            conditioned = model.with_memory(
                features, memories.tokens, memories.codes, memories.num_pointers, memories.mask
            )
            clock.lap("memory_attention")
            decoded = model.decode(conditioned, features, *model.no_prompt(len(rows)))
            chosen = choose(decoded, multimask=True, stability_fallback=False)
            present = model.present(decoded.object_score[:, 0], chosen.iou)
            logits = torch.where(present[:, None, None, None], chosen.logits.float(), ABSENT_LOGIT)
            pointers = model.pointer(chosen.token, present)
            clock.lap("decode")
            size = model.config.image_size
            full = F.interpolate(logits, (size, size), mode="bilinear", align_corners=False)
            memory = model.encode_memory(features, full, present)
        self._remember(rows, memory, pointers, present)
        clock.lap("memory_encode")
        if self.config.hole_area:
            logits = fill_holes(logits, self.config.hole_area)
        width, height = self._size
        masks = image_masks(logits, height, width, self.config.non_overlap)
        scores = decoded.object_score[:, 0].float().cpu()
        ious = chosen.iou.float().cpu()
        visibilities = model.visibility(scores, ious).tolist()
        changes = []
        for index, one in enumerate(objects):
            one.logits, one.prompted, one.candidates = logits[index], False, None
            score = float(scores[index])
            before = one.see(
                frame, self._stamp, masks[index], score, visibilities[index], float(ious[index]), self.config.lost_after
            )
            if one.state is not before:
                changes.append(_change(one, STATE_CHANGED, before, f"{before.name} became {one.state.name}"))
        clock.lap("masks")
        return changes

    def _remember(self, rows: list[int], memory: Tensor, pointers: Tensor, present: Tensor) -> None:
        """Stores the newest frame for every object. A model that judges presence by predicted IoU was not trained to
        remember absences: for an object that is hidden the memory of when it was seen waits instead."""
        if not self.model.config.present_iou:
            self.bank.store_recent(rows, self._frame, memory, pointers)
            return
        seen = present.tolist()
        index = [i for i, one in enumerate(seen) if one]
        if index:
            self.bank.store_recent([rows[i] for i in index], self._frame, memory[index], pointers[index])
        for row, one in zip(rows, seen, strict=True):
            if not one:
                self.bank.hold(row)

    # -- commands ----------------------------------------------------------------------------------------------

    def add(self, requests: Sequence[AddRequest], stamp: int = 0) -> list[PromptResult]:
        """Applies prompts to the newest frame; one result each, refusals included.

        A request without ``object_id`` makes a new object; with the id of a living one it corrects that object.
        ``stamp`` must be 0 or that of the newest frame.
        """
        results: dict[int, PromptResult] = {}
        accepted: dict[int, _Accepted] = {}
        for index, request in enumerate(requests):
            if any(a.one.object_id == request.object_id for a in accepted.values()):
                # A second prompt for the same object builds on the answer to the first.
                results.update(zip(accepted, self._apply(list(accepted.values())), strict=True))
                accepted.clear()
            try:
                accepted[index] = self._admit(request, stamp)
            except PromptError as error:
                results[index] = PromptResult(
                    error.code, str(error), object_id=request.object_id or 0, name=request.name
                )
        if accepted:
            results.update(zip(accepted, self._apply(list(accepted.values())), strict=True))
        return [results[index] for index in range(len(requests))]

    def refine(self, request: AddRequest, stamp: int = 0) -> PromptResult:
        """Corrects a living object (``request.object_id``) on the newest frame."""
        if request.object_id is None:
            return PromptResult(PromptCode.UNKNOWN_OBJECT, "a correction needs the id of a living object")
        return self.add([request], stamp)[0]

    def remove(self, object_id: int) -> bool:
        """Forgets an object; its id is never used again. False when there is none of this id."""
        one = self._objects.pop(object_id, None)
        if one is None:
            return False
        self.bank.clear(one.row)
        self._changes.append(_change(one, REMOVED, one.state, "removed by request", gone=True))
        return True

    def rename(self, object_id: int, name: str, label: str) -> None:
        """Changes name and label.

        Raises:
            PromptError: no such object, or the name is another one's.
        """
        one = self._living(object_id)
        self._check_name(name, object_id)
        one.name, one.label = name, label

    def reset(self) -> int:
        """Forgets every object; returns how many there were. Ids go on from where they were."""
        count = len(self._objects)
        for object_id in list(self._objects):
            self.remove(object_id)
        return count

    def objects(self) -> FrameResult | None:
        """Every living object as of the newest frame; None before the first."""
        return None if self._frame < 0 else self._result((), {})

    def take_changes(self) -> list[ObjectChange]:
        """Changes since the last call that no :class:`FrameResult` carried; the newest thousand, if nobody asks."""
        changes = list(self._changes)
        self._changes.clear()
        return changes

    def close(self) -> None:
        """Lets memory and model go."""
        self.reset()
        self._features = None

    # -- inside ------------------------------------------------------------------------------------------------

    def _admit(self, request: AddRequest, stamp: int) -> _Accepted:
        """Checks a request and gives a new object its row; raises :class:`PromptError` with the reason."""
        if self._features is None:
            raise PromptError(PromptCode.NO_FRAME, "no frame was processed yet; send the prompt after the first image")
        if stamp not in (0, self._stamp):
            code = PromptCode.TOO_OLD if stamp < self._stamp else PromptCode.NO_FRAME
            raise PromptError(
                code, f"the prompt is stamped {stamp} ns; accepted: 0 or the newest frame's stamp, {self._stamp} ns"
            )
        new = request.object_id is None
        check_prompt(request.prompt, *self._size, new_object=new)
        if request.object_id is not None:
            one = self._living(request.object_id)
            if request.prompt.candidate is not None:
                self._check_candidate(request.prompt, one)
            if request.name and request.name != one.name:
                self._check_name(request.name, one.object_id)
                one.name = request.name
            if request.label:
                one.label, one.label_score = request.label, request.label_score
            return _Accepted(request, one, new=False)
        self._check_name(request.name, None)
        taken = {one.row for one in self._objects.values()}
        row = next((row for row in range(self.config.max_objects) if row not in taken), None)
        if row is None:
            raise PromptError(
                PromptCode.FULL,
                f"{self.config.max_objects} objects are tracked already (tracker.max_objects); remove one first",
            )
        self.bank.clear(row)
        one = TrackedObject(self.next_id, row, request.name, request.label, request.label_score, self._frame)
        self.next_id += 1
        self._objects[one.object_id] = one
        return _Accepted(request, one, new=True)

    def _check_candidate(self, prompt: Prompt, one: TrackedObject) -> None:
        """Refuses a choice where nothing is offered."""
        if prompt.points is None and one.candidates is None:
            raise PromptError(
                PromptCode.INVALID_PROMPT,
                "no candidates are kept for this object on the newest frame; give the point again with the choice",
            )
        if prompt.points is not None and one.prompt_frame == self._frame and len(one.labels) and not prompt.replace:
            raise PromptError(
                PromptCode.INVALID_PROMPT,
                "candidates are offered for a single point, and this object has earlier ones on this frame; give the "
                "choice alone, or the point with replace",
            )

    def _apply(self, accepted: list[_Accepted]) -> list[PromptResult]:
        """Applies prompts of different objects; where that fails, none of the new objects stays."""
        assert self._features is not None
        width, height = self._size
        try:
            with torch.inference_mode(), self._autocast():
                prompts = [(a.request.prompt, a.one) for a in accepted]
                answers = self._prompts.apply(prompts, self._features, self._frame, width, height)
        except Exception:
            for a in accepted:
                if a.new:
                    del self._objects[a.one.object_id]
            raise
        for a, answer in zip(accepted, answers, strict=True):
            a.one.logits, a.one.prompted = answer.logits, True
        masks = self._prompted_masks([a.one for a in accepted])
        results = []
        for a, answer, mask in zip(accepted, answers, masks, strict=True):
            one = a.one
            visibility = float(self.model.visibility(torch.tensor(answer.object_score), torch.tensor(answer.iou)))
            before = one.see(
                self._frame, self._stamp, mask, answer.object_score, visibility, answer.iou, self.config.lost_after
            )
            event, reason = (ADDED, "added") if a.new else (CORRECTED, "corrected")
            self._changes.append(_change(one, event, None if a.new else before, reason))
            if not a.new and one.state is not before:
                self._changes.append(_change(one, STATE_CHANGED, before, f"{before.name} became {one.state.name}"))
            message = f"object {one.object_id} {reason} on frame {self._frame}"
            if answer.released is not None:
                message += f"; its prompt of frame {answer.released} was let go (tracker.prompted_slots)"
                self._changes.append(
                    _change(one, PROMPT_RELEASED, one.state, f"the prompt of frame {answer.released} was let go")
                )
            results.append(
                PromptResult(
                    PromptCode.OK,
                    message,
                    object_id=one.object_id,
                    name=one.name,
                    applied_stamp=self._stamp,
                    result=one.result(width, height),
                    stability=answer.stability,
                    candidates=self._prompts.candidate_masks(one, width, height),
                )
            )
        return results

    def _prompted_masks(self, prompted: list[TrackedObject]) -> list[CroppedMask]:
        """Masks of newly prompted objects; with non-overlap, the others on this frame give way too."""
        width, height = self._size
        shown = prompted
        if self.config.non_overlap:
            shown = [one for one in self._objects.values() if one in prompted or one.newest_frame == self._frame]
        logits = torch.stack([one.logits for one in shown if one.logits is not None])
        masks = image_masks(logits, height, width, self.config.non_overlap)
        for one, mask in zip(shown, masks, strict=True):
            one.mask = mask
        return [one.mask for one in prompted if one.mask is not None]

    def _living(self, object_id: int) -> TrackedObject:
        try:
            return self._objects[object_id]
        except KeyError:
            living = ", ".join(str(i) for i in self._objects) or "none"
            raise PromptError(
                PromptCode.UNKNOWN_OBJECT, f"there is no object {object_id}; living objects: {living}"
            ) from None

    def _check_name(self, name: str, owner: int | None) -> None:
        for one in self._objects.values():
            if name and one.name == name and one.object_id != owner:
                raise PromptError(
                    PromptCode.DUPLICATE_NAME, f"object {one.object_id} is already named '{name}'; choose another name"
                )

    def _result(self, changes: tuple[ObjectChange, ...], laps: dict[str, float]) -> FrameResult:
        width, height = self._size
        results = tuple(one.result(width, height) for one in self._objects.values())
        return FrameResult(self._frame, self._stamp, width, height, results, changes, laps)

    def _autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.dtype == "bfloat16")


@dataclass(frozen=True)
class _Accepted:
    """A checked request and its object."""

    request: AddRequest
    one: TrackedObject
    new: bool


class _Clock:
    """Milliseconds per stage, on the steady clock."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = (now - self._last) * 1e3
        self._last = now


def _change(
    one: TrackedObject, event: int, before: ObjectState | None, reason: str, gone: bool = False
) -> ObjectChange:
    return ObjectChange(
        event, one.object_id, one.name, one.label, before, None if gone else one.state, one.object_score,
        one.visibility, one.last_seen, reason,
    )  # fmt: skip
