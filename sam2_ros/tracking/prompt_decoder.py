"""Decodes prompts on a frame: the first one of an object without memory, later ones as corrections with it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from sam2_ros.model.arrays import as_dtype_of, copied, float32, module_of, repeated, to_numpy, trues
from sam2_ros.model.choice import choose, stability
from sam2_ros.model.network import (
    ABSENT_LOGIT,
    MASK_BIAS,
    MASK_SCALE,
    Array,
    DecodedMasks,
)  # fmt: skip
from sam2_ros.tracking.bank import MemoryBank
from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.history import StoredFrame, View
from sam2_ros.tracking.mask_parts import agreements, likenesses_of, masks_within
from sam2_ros.tracking.masks import fill_holes, image_masks, masks_in_windows, moved
from sam2_ros.tracking.objects import Candidates, LiveObject
from sam2_ros.tracking.prompt_inputs import clicks_of, low_logits, mask_to_network, to_network
from sam2_ros.tracking.recognition import look_of, looks_for_things
from sam2_ros.tracking.transfer import upload
from sam2_ros.tracking.types import CroppedMask, MaskCandidate, Prompt
from sam2_ros.tracking.viewer import Viewer
from sam2_ros.tracking.windows import Window

Batch: TypeAlias = list[tuple[Prompt, LiveObject]]
Box: TypeAlias = tuple[float, float, float, float]

PREVIOUS_LOGIT_LIMIT = 32.0
BELIEVED = 0.5  # IoU of a prompt's box and the box of its mask from which on the memory is believed
NEARLY_AS_GOOD = 0.8  # share of the best predicted IoU from which on a candidate's size decides


@dataclass(frozen=True)
class Answer:
    """The outcome of a prompt for one object."""

    logits: Array  # [1, h, w] low resolution, float32 once it is stored
    pointer: Array  # [C]
    object_score: float  # logit
    iou: float  # predicted
    restarted: bool = False  # the prompt contradicts what was tracked so far
    stability: float = 0.0  # this and the next are known once it is stored
    released: int | None = None  # prompted frame that the bank released


def preferred_candidate(decoded: DecodedMasks, rule: str) -> Array | None:
    """The candidate that each of ``B`` single clicks selects (``[B]``, 0 to 2) by a rule of CLICK_CANDIDATES; None:
    that of best predicted IoU."""
    if rule == "best":
        return None
    logits, ious, module = float32(decoded.logits[:, 1:]), float32(decoded.ious[:, 1:]), module_of(decoded.ious)
    if rule == "stable":
        empty = (logits <= 0).all(-1).all(-1)
        return module.where(empty, -1.0, stability(logits)).argmax(-1)
    area = float32((logits > 0).sum((-2, -1)))
    fit = (ious >= NEARLY_AS_GOOD * module.amax(ious, -1)[:, None]) & (area > 0)
    size = area if rule == "largest" else -area
    # Where every candidate is empty, all are as good.
    return module.where(fit, size, -np.inf).argmax(-1)


class PromptDecoder:
    """Prompt handling of one tracker."""

    def __init__(self, viewer: Viewer, bank: MemoryBank, config: TrackerConfig) -> None:
        self.viewer = viewer
        self.model = viewer.model
        self.bank = bank
        self.config = config

    def apply(self, prompts: Batch, stored: StoredFrame) -> list[Answer]:
        """Applies checked ``prompts`` to the frame ``stored`` and stores the outcome in the bank.

        Prompts of equal shape share one pass. Padding them to one shape would change the result, since the padding
        token takes part in attention.
        """
        shapes = [self._shape(prompt, obj, stored.frame) for prompt, obj in prompts]
        views = self._views(prompts, shapes, stored)
        groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
        for index, (shape, view) in enumerate(zip(shapes, views, strict=True)):
            groups[shape + view.key].append(index)
        decoded: dict[int, Answer] = {}
        for shape, members in groups.items():
            batch, view = [prompts[index] for index in members], views[members[0]]
            if shape[0] == "mask":
                out = self._from_masks(batch, view)
            elif shape[0] == "candidate":
                out = [self._from_candidate(prompt, obj) for prompt, obj in batch]
            else:
                out = self._from_clicks(batch, view)
            decoded.update(zip(members, out, strict=True))
        return self._store([(obj, decoded[index], views[index]) for index, (_, obj) in enumerate(prompts)])

    def _views(self, prompts: Batch, shapes: list[tuple[object, ...]], stored: StoredFrame) -> list[View]:
        """The view for each prompt: the object's own where the prompt lies in it, else that of the prompted box. Clicks
        say nothing of an object's size; the mask on the whole frame does."""
        views: dict[int, View] = {}
        boxes: dict[int, Sequence[float]] = {}
        clicked: dict[tuple[object, ...], list[int]] = defaultdict(list)
        for index, (prompt, obj) in enumerate(prompts):
            box = _box_of(prompt, obj)
            if not self.viewer.uses_windows:
                views[index] = self.viewer.whole_view(stored)
            elif obj.window is not None and (box is None or _contains(obj.window, box)):
                views[index] = self.viewer.view_of(obj, stored)
            elif box is None:
                views[index] = self.viewer.whole_view(stored)
            elif prompt.box is not None or prompt.mask is not None:
                boxes[index] = box
            else:
                clicked[shapes[index]].append(index)
        whole = self.viewer.whole_view(stored) if clicked else None
        for members in clicked.values():
            assert whole is not None
            for index, answer in zip(members, self._from_clicks([prompts[i] for i in members], whole), strict=True):
                obj = prompts[index][1]
                (mask,) = image_masks(float32(answer.logits[None]), stored.height, stored.width, non_overlap=False)
                points = _box_of(prompts[index][0], obj)
                assert points is not None
                if mask.crop.size:
                    boxes[index] = _joined(mask.box, points)
                else:
                    views[index] = whole
        if boxes:
            found = self.viewer.views_for_boxes(list(boxes.values()), stored)
            views.update(zip(boxes, found, strict=True))
        return [views[index] for index in range(len(prompts))]

    def candidate_masks(self, obj: LiveObject, stored: StoredFrame) -> tuple[MaskCandidate, ...]:
        """The candidates of the last prompt, on ``stored``, in its size; none if it was not ambiguous."""
        if obj.candidates is None:
            return ()
        logits = float32(obj.candidates.logits[:, None])
        window = obj.window or Window.whole(stored.width, stored.height)
        edges = self.viewer.edges_of(stored)
        if edges is not None:
            masks = [edges.draw(each, window) for each in logits]
        else:
            masks = masks_in_windows(list(logits), [window] * 3, stored.height, stored.width, non_overlap=False)
        stable = stability(obj.candidates.logits)
        return tuple(
            MaskCandidate(1 + index, mask, float(obj.candidates.ious[index]), float(stable[index]))
            for index, mask in enumerate(masks)
        )

    def _shape(self, prompt: Prompt, obj: LiveObject, frame: int) -> tuple[object, ...]:
        """What must be equal for prompts to share a pass. Adds the new clicks to ``obj``."""
        if prompt.mask is not None:
            obj.prompt_frame, obj.candidates = frame, None
            obj.points, obj.labels = np.zeros((0, 2), np.float32), np.zeros(0, np.int32)
            return ("mask",)
        if prompt.points is None and prompt.box is None:
            return ("candidate",)
        points, labels = clicks_of(prompt)
        if adds_to_earlier(prompt, obj, frame):
            points, labels = np.concatenate((obj.points, points)), np.concatenate((obj.labels, labels))
        previous = obj.logits is not None and obj.newest_frame == frame
        obj.prompt_frame, obj.points, obj.labels = frame, points, labels
        return ("clicks", len(labels), self._is_correction(obj, frame), previous)

    def _is_correction(self, obj: LiveObject, frame: int) -> bool:
        """Whether the object has been tracked to this frame, so that its memory counts.

        With one prompted slot, a correction on the frame after the first prompt replaces all memory. The next prompt on
        that frame is then like a first one.
        """
        return obj.added_frame < frame and self.bank.remembers(obj.row, frame)

    def _from_clicks(self, batch: Batch, view: View) -> list[Answer]:
        model, features, frame, window = view.model, view.features, view.frame, view.window
        objects = [obj for _, obj in batch]
        corner = np.array([view.width, view.height], np.float32)
        clicks = np.clip(np.stack([obj.points for obj in objects]), 0, corner)
        clicks = clicks - np.array([window.x0, window.y0], np.float32)
        points = to_network(clicks, window.width, window.height, model.config.image_size).astype(np.float32)
        labels = upload(np.stack([obj.labels for obj in objects]), model.device)
        correction = self._is_correction(objects[0], frame)
        if correction:
            memories = self.bank.gather([obj.row for obj in objects], frame, model=model)
            conditioned = model.with_memory(features, *memories)
        else:
            conditioned = repeated(model.without_memory(features), len(batch))
        previous = None
        if objects[0].logits is not None and objects[0].newest_frame == frame:
            stacked = module_of(labels).stack([_previous(obj, view) for obj in objects])
            previous = stacked.clip(-PREVIOUS_LOGIT_LIMIT, PREVIOUS_LOGIT_LIMIT)
        decoded = model.decode(conditioned, features, upload(points, model.device), labels, previous)
        restarted: list[int] = []
        if correction and not self.config.reference_policy:
            decoded, restarted = self._believe_boxes(batch, view, decoded, points, labels)
        multimask = labels.shape[1] <= 1
        candidate = preferred_candidate(decoded, self.config.click_candidate) if multimask else None
        chosen = choose(decoded, multimask, self.config.stability_fallback, candidate)
        present = decoded.object_score[:, 0] > 0
        scores = float32(decoded.object_score[:, 0]).tolist()
        out = []
        for index, (prompt, obj) in enumerate(batch):
            logits, token, iou = chosen.logits[index], chosen.token[index], chosen.iou[index]
            obj.candidates = None
            if multimask:
                obj.candidates = Candidates(
                    frame, float32(decoded.logits[index, 1:]), decoded.ious[index, 1:], decoded.tokens[index, 1:],
                    scores[index],
                )  # fmt: skip
                if prompt.candidate is not None:
                    out.append(self._from_candidate(prompt, obj))
                    continue
            pointer = model.pointer(token[None], present[index, None])[0]
            logits = module_of(logits).where(present[index], float32(logits), ABSENT_LOGIT)
            out.append(Answer(logits, pointer, scores[index], float(iou), index in restarted))
        return self._within_boxes(batch, view, out) if self.config.rejects_strays else out

    def _believe_boxes(
        self, batch: Batch, view: View, decoded: DecodedMasks, points: NDArray[np.float32], labels: Array
    ) -> tuple[DecodedMasks, list[int]]:
        """Decodes boxes without memory where it contradicts them: it may say that the object is hidden or elsewhere.
        Returns the masks, and the indices of those for which that was better."""
        model = view.model
        boxes = [_shares(prompt, view) for prompt, _ in batch]
        agreement = agreements(decoded, boxes, view.shares)
        restarted = [index for index, value in enumerate(agreement) if value < BELIEVED]
        if not restarted:
            return decoded, restarted
        conditioned = repeated(model.without_memory(view.features), len(restarted))
        network_points = upload(points[restarted], model.device)
        alone = model.decode(conditioned, view.features, network_points, labels[restarted], None)
        better = agreements(alone, [boxes[index] for index in restarted], view.shares) > agreement[restarted]
        taken = np.flatnonzero(better).tolist()
        restarted = [restarted[index] for index in taken]
        merged = {}
        for field in fields(DecodedMasks):
            merged[field.name] = values = copied(getattr(decoded, field.name))
            values[restarted] = as_dtype_of(getattr(alone, field.name)[taken], values)
        return DecodedMasks(**merged), restarted

    def _within_boxes(self, batch: Batch, view: View, decoded: list[Answer]) -> list[Answer]:
        """Removes the parts of a mask outside of the box that prompted it. Clicks may mean such parts, so not there."""
        boxes = [None if prompt.points is not None else _shares(prompt, view) for prompt, _ in batch]
        if all(box is None for box in boxes):
            return decoded
        stacked = module_of(decoded[0].logits).stack([each.logits for each in decoded])
        logits = masks_within(stacked, boxes, view.shares).logits
        return [replace(each, logits=own) for each, own in zip(decoded, logits, strict=True)]

    def _from_candidate(self, prompt: Prompt, obj: LiveObject) -> Answer:
        """The chosen one of the stored candidates. Who chooses one says that the object is present."""
        offered = obj.candidates
        assert offered is not None and prompt.candidate is not None
        index = prompt.candidate - 1
        pointer = self.model.pointer(offered.tokens[index][None], trues(1, self.model.device))[0]
        score = max(offered.object_score, 0.01)
        return Answer(offered.logits[index][None], pointer, score, float(offered.ious[index]))

    def _from_masks(self, batch: Batch, view: View) -> list[Answer]:
        model, size = view.model, view.model.config.mask_size
        x0, y0, x1, y1 = view.window
        given = [prompt.mask[y0:y1, x0:x1] for prompt, _ in batch if prompt.mask is not None]
        inputs = [mask_to_network(mask, size, model.device) for mask in given]
        masks = module_of(inputs[0]).concatenate(inputs)
        pointers = model.mask_pointer(view.features, masks)
        low = low_logits(masks)
        seen = masks.reshape(len(given), -1).any(1).tolist()
        scores = [MASK_SCALE + MASK_BIAS if there else MASK_BIAS for there in seen]
        return [Answer(low[i], pointers[i], scores[i], 1.0) for i in range(len(batch))]

    def _store(self, decoded: list[tuple[LiveObject, Answer, View]]) -> list[Answer]:
        """Encodes the memories of all prompted masks, in one pass for each view, and stores each in its slot."""
        answers: dict[int, Answer] = {}
        for key in dict.fromkeys(view.key for _, _, view in decoded):
            members = [index for index, (_, _, view) in enumerate(decoded) if view.key == key]
            stored = self._store_seen([decoded[index][:2] for index in members], decoded[members[0]][2])
            answers.update(zip(members, stored, strict=True))
        return [answers[index] for index in range(len(decoded))]

    def _store_seen(self, decoded: list[tuple[LiveObject, Answer]], view: View) -> list[Answer]:
        features, frame = view.features, view.frame
        logits = module_of(decoded[0][1].logits).stack([float32(out.logits) for _, out in decoded])
        if self.config.hole_area:
            logits = fill_holes(logits, self.config.hole_area)
        present = upload([out.object_score > 0 for _, out in decoded], view.model.device)
        binarize = module_of(present).full_like(present, self.config.binarize_prompted_memory)
        memory = view.model.encode_low_memory(features, logits, present, binarize)
        stable = stability(logits[:, 0]).tolist()
        likenesses, seen = to_numpy(likenesses_of(features, logits)), (logits[:, 0] > 0).any(-1).any(-1).tolist()
        answers = []
        for index, (obj, out) in enumerate(decoded):
            released = None
            if out.restarted:
                self.bank.forget_recent(obj.row, frame)
            if self.config.reference_policy and self._is_correction(obj, frame):
                self.bank.store_recent([obj.row], frame, memory[index, None], out.pointer[None])
            else:
                released = self.bank.store_prompted(
                    obj.row, frame, memory[index], out.pointer, features, logits[index, 0], view.model
                )
            if features.picture is not None and view.model.appearance is None and looks_for_things(self.config):
                obj.look = look_of(view.model, features, logits[index])
            obj.window = view.window
            if seen[index]:
                obj.likeness = likenesses[index]
            answers.append(replace(out, logits=logits[index], stability=stable[index], released=released))
        return answers


def _previous(obj: LiveObject, view: View) -> Array:
    """The object's logits on this frame, as they lie in ``view``."""
    assert obj.logits is not None
    before = obj.window or Window.whole(view.width, view.height)
    return moved(obj.logits, before, view.window, 4 * view.model.config.grid)


def _box_of(prompt: Prompt, obj: LiveObject) -> Box | None:
    """What a prompt and the clicks before it reach, edges in pixels; None: nothing."""
    if prompt.mask is not None:
        mask = CroppedMask.from_full(prompt.mask)
        return mask.box if mask.crop.size else None
    if prompt.points is None and prompt.box is None:
        return None
    low, high = obj.points.min(axis=0), obj.points.max(axis=0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def _contains(window: Window, box: Box) -> bool:
    return window.x0 <= box[0] and window.y0 <= box[1] and box[2] <= window.x1 and box[3] <= window.y1


def _joined(one: Box, other: Box) -> Box:
    return min(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), max(one[3], other[3])


def _shares(prompt: Prompt, view: View) -> NDArray[np.float64] | None:
    """A prompt's box in shares of the frame, clipped to it."""
    if prompt.box is None:
        return None
    return np.clip(prompt.box / np.array([view.width, view.height] * 2, np.float64), 0, 1)


def adds_to_earlier(prompt: Prompt, obj: LiveObject, frame: int) -> bool:
    """Whether the clicks of a prompt are added to those that the object has on ``frame`` already. The network expects a
    box before all clicks, so a box replaces them."""
    return obj.prompt_frame == frame and not prompt.replace and prompt.box is None
