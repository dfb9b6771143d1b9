"""Decodes prompts on a frame: the first one of an object without memory, later ones as corrections with it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, fields, replace
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sam2_ros.model.mask_decoder import DecodedMasks, choose, stability
from sam2_ros.model.prompt_encoder import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT
from sam2_ros.model.sam2 import ABSENT_LOGIT, MASK_BIAS, MASK_SCALE, ImageFeatures, Sam2Model
from sam2_ros.tracking.bank import MemoryBank
from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.history import StoredFrame
from sam2_ros.tracking.mask_parts import agreements, masks_within
from sam2_ros.tracking.masks import fill_holes, image_masks
from sam2_ros.tracking.objects import Candidates, LiveObject
from sam2_ros.tracking.types import MaskCandidate, Prompt

Batch: TypeAlias = list[tuple[Prompt, LiveObject]]

PREVIOUS_LOGIT_LIMIT = 32.0
BELIEVED = 0.5  # IoU of a prompt's box and the box of its mask from which on the memory is believed
NEARLY_AS_GOOD = 0.8  # share of the best predicted IoU from which on a candidate's size decides


@dataclass(frozen=True)
class Answer:
    """The outcome of a prompt for one object."""

    logits: Tensor  # [1, h, w] low resolution, float32 once it is stored
    pointer: Tensor  # [C]
    object_score: float  # logit
    iou: float  # predicted
    restarted: bool = False  # the prompt contradicts what was tracked so far
    stability: float = 0.0  # this and the next are known once it is stored
    released: int | None = None  # prompted frame that the bank released


def preferred_candidate(decoded: DecodedMasks, rule: str) -> Tensor | None:
    """The candidate that each of ``B`` single clicks selects (``[B]``, 0 to 2) by a rule of CLICK_CANDIDATES; None:
    that of best predicted IoU."""
    if rule == "best":
        return None
    logits, ious = decoded.logits[:, 1:].float(), decoded.ious[:, 1:].float()
    if rule == "stable":
        empty = (logits <= 0).all(dim=-1).all(dim=-1)
        return torch.where(empty, -1.0, stability(logits)).argmax(dim=-1)
    area = (logits > 0).sum(dim=(-2, -1)).float()
    fit = (ious >= NEARLY_AS_GOOD * ious.amax(dim=-1, keepdim=True)) & (area > 0)
    size = area if rule == "largest" else -area
    # Where every candidate is empty, all are as good.
    return torch.where(fit, size, -torch.inf).argmax(dim=-1)


class PromptDecoder:
    """Prompt handling of one tracker."""

    def __init__(self, model: Sam2Model, bank: MemoryBank, config: TrackerConfig) -> None:
        self.model = model
        self.bank = bank
        self.config = config

    def apply(self, prompts: Batch, stored: StoredFrame) -> list[Answer]:
        """Applies checked ``prompts`` to the frame ``stored`` and stores the outcome in the bank.

        Prompts of equal shape share one pass. Padding them to one shape would change the result, since the padding
        token takes part in attention.
        """
        groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
        for index, (prompt, obj) in enumerate(prompts):
            groups[self._shape(prompt, obj, stored.frame)].append(index)
        decoded: dict[int, Answer] = {}
        for shape, members in groups.items():
            batch = [prompts[index] for index in members]
            if shape[0] == "mask":
                out = self._from_masks(batch, stored.features)
            elif shape[0] == "candidate":
                out = [self._from_candidate(prompt, obj) for prompt, obj in batch]
            else:
                out = self._from_clicks(batch, stored)
            decoded.update(zip(members, out, strict=True))
        return self._store([(obj, decoded[index]) for index, (_, obj) in enumerate(prompts)], stored)

    def candidate_masks(self, obj: LiveObject, width: int, height: int) -> tuple[MaskCandidate, ...]:
        """The candidates of the last prompt in the size of the image; none if it was not ambiguous."""
        if obj.candidates is None:
            return ()
        masks = image_masks(obj.candidates.logits[:, None].float(), height, width, non_overlap=False)
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

    def _from_clicks(self, batch: Batch, stored: StoredFrame) -> list[Answer]:
        model, features, frame = self.model, stored.features, stored.frame
        objects = [obj for _, obj in batch]
        corner = np.array([stored.width, stored.height], np.float32)
        clicks = np.clip(np.stack([obj.points for obj in objects]), 0, corner)
        points = to_network(clicks, stored.width, stored.height, model.config.image_size).astype(np.float32)
        labels = torch.as_tensor(np.stack([obj.labels for obj in objects]), device=model.device)
        correction = self._is_correction(objects[0], frame)
        if correction:
            conditioned = model.with_memory(features, *self.bank.gather([obj.row for obj in objects], frame))
        else:
            conditioned = model.without_memory(features).expand(len(batch), -1, -1, -1)
        previous = None
        if objects[0].logits is not None and objects[0].newest_frame == frame:
            stacked = torch.stack([obj.logits for obj in objects if obj.logits is not None])
            previous = stacked.clamp(-PREVIOUS_LOGIT_LIMIT, PREVIOUS_LOGIT_LIMIT)
        decoded = model.decode(conditioned, features, torch.as_tensor(points, device=model.device), labels, previous)
        restarted: list[int] = []
        if correction and not self.config.reference_policy:
            decoded, restarted = self._believe_boxes(batch, stored, decoded, points, labels)
        multimask = labels.shape[1] <= 1
        candidate = preferred_candidate(decoded, self.config.click_candidate) if multimask else None
        chosen = choose(decoded, multimask, self.config.stability_fallback, candidate)
        present = decoded.object_score[:, 0] > 0
        scores = decoded.object_score[:, 0].float().tolist()
        out = []
        for index, (prompt, obj) in enumerate(batch):
            logits, token, iou = chosen.logits[index], chosen.token[index], chosen.iou[index]
            obj.candidates = None
            if multimask:
                obj.candidates = Candidates(
                    frame, decoded.logits[index, 1:].float(), decoded.ious[index, 1:], decoded.tokens[index, 1:],
                    scores[index],
                )  # fmt: skip
                if prompt.candidate is not None:
                    out.append(self._from_candidate(prompt, obj))
                    continue
            pointer = model.pointer(token[None], present[index, None])[0]
            logits = torch.where(present[index], logits.float(), ABSENT_LOGIT)
            out.append(Answer(logits, pointer, scores[index], float(iou), index in restarted))
        return self._within_boxes(batch, stored, out) if self.config.rejects_strays else out

    def _believe_boxes(
        self, batch: Batch, stored: StoredFrame, decoded: DecodedMasks, points: NDArray[np.float32], labels: Tensor
    ) -> tuple[DecodedMasks, list[int]]:
        """Decodes boxes without memory where it contradicts them: it may say that the object is hidden or elsewhere.
        Returns the masks, and the indices of those for which that was better."""
        boxes = [_shares(prompt, stored) for prompt, _ in batch]
        agreement = agreements(decoded, boxes)
        restarted = [index for index, value in enumerate(agreement) if value < BELIEVED]
        if not restarted:
            return decoded, restarted
        conditioned = self.model.without_memory(stored.features).expand(len(restarted), -1, -1, -1)
        network_points = torch.as_tensor(points[restarted], device=self.model.device)
        alone = self.model.decode(conditioned, stored.features, network_points, labels[restarted], None)
        better = agreements(alone, [boxes[index] for index in restarted]) > agreement[restarted]
        taken = np.flatnonzero(better).tolist()
        restarted = [restarted[index] for index in taken]
        merged = {}
        for field in fields(DecodedMasks):
            merged[field.name] = getattr(decoded, field.name).clone()
            merged[field.name][restarted] = getattr(alone, field.name)[taken].to(merged[field.name].dtype)
        return DecodedMasks(**merged), restarted

    def _within_boxes(self, batch: Batch, stored: StoredFrame, decoded: list[Answer]) -> list[Answer]:
        """Removes the parts of a mask outside of the box that prompted it. Clicks may mean such parts, so not there."""
        boxes = [None if prompt.points is not None else _shares(prompt, stored) for prompt, _ in batch]
        if all(box is None for box in boxes):
            return decoded
        logits = masks_within(torch.stack([each.logits for each in decoded]), boxes).logits
        return [replace(each, logits=own) for each, own in zip(decoded, logits, strict=True)]

    def _from_candidate(self, prompt: Prompt, obj: LiveObject) -> Answer:
        """The chosen one of the stored candidates. Who chooses one says that the object is present."""
        offered = obj.candidates
        assert offered is not None and prompt.candidate is not None
        index = prompt.candidate - 1
        present = torch.ones(1, dtype=torch.bool, device=offered.logits.device)
        pointer = self.model.pointer(offered.tokens[index][None], present)[0]
        score = max(offered.object_score, 0.01)
        return Answer(offered.logits[index][None], pointer, score, float(offered.ious[index]))

    def _from_masks(self, batch: Batch, features: ImageFeatures) -> list[Answer]:
        model, size = self.model, self.model.config.image_size
        given = [prompt.mask for prompt, _ in batch if prompt.mask is not None]
        masks = torch.cat([mask_to_network(mask, size, model.device) for mask in given])
        pointers = model.mask_pointer(features, masks)
        low = F.interpolate(
            masks * MASK_SCALE + MASK_BIAS, (size // 4, size // 4), mode="bilinear", align_corners=False, antialias=True
        )
        scores = torch.where(masks.flatten(1).any(dim=1), MASK_SCALE + MASK_BIAS, MASK_BIAS).tolist()
        return [Answer(low[i], pointers[i], scores[i], 1.0) for i in range(len(batch))]

    def _store(self, decoded: list[tuple[LiveObject, Answer]], stored: StoredFrame) -> list[Answer]:
        """Encodes the memories of all prompted masks in one pass and stores each in its slot."""
        features, frame = stored.features, stored.frame
        logits = torch.stack([out.logits.float() for _, out in decoded])
        if self.config.hole_area:
            logits = fill_holes(logits, self.config.hole_area)
        present = torch.tensor([out.object_score > 0 for _, out in decoded], device=logits.device)
        binarize = torch.full_like(present, self.config.binarize_prompted_memory)
        memory = self.model.encode_low_memory(features, logits, present, binarize)
        stable = stability(logits[:, 0]).tolist()
        answers = []
        for index, (obj, out) in enumerate(decoded):
            released = None
            if out.restarted:
                self.bank.forget_recent(obj.row, frame)
            if self.config.reference_policy and self._is_correction(obj, frame):
                self.bank.store_recent([obj.row], frame, memory[index, None], out.pointer[None])
            else:
                released = self.bank.store_prompted(
                    obj.row, frame, memory[index], out.pointer, features, logits[index, 0]
                )
            answers.append(replace(out, logits=logits[index], stability=stable[index], released=released))
        return answers


def _shares(prompt: Prompt, stored: StoredFrame) -> NDArray[np.float64] | None:
    """A prompt's box in shares of the frame, clipped to it."""
    if prompt.box is None:
        return None
    return np.clip(prompt.box / np.array([stored.width, stored.height] * 2, np.float64), 0, 1)


def adds_to_earlier(prompt: Prompt, obj: LiveObject, frame: int) -> bool:
    """Whether the clicks of a prompt are added to those that the object has on ``frame`` already. The network expects a
    box before all clicks, so a box replaces them."""
    return obj.prompt_frame == frame and not prompt.replace and prompt.box is None


def clicks_of(prompt: Prompt) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Box corners, then points, in source pixels, and their labels; empty for a mask."""
    points, labels = np.zeros((0, 2), np.float32), np.zeros(0, np.int32)
    if prompt.box is not None:
        points = np.asarray(prompt.box, np.float32).reshape(2, 2)
        labels = np.array([BOX_TOP_LEFT, BOX_BOTTOM_RIGHT], np.int32)
    if prompt.points is not None:
        points = np.concatenate((points, np.asarray(prompt.points, np.float32)))
        labels = np.concatenate((labels, np.asarray(prompt.labels, np.int32)))
    return points, labels


def to_network(points: NDArray[np.float32], width: int, height: int, size: int) -> NDArray[np.float32]:
    """Source pixels to pixels of the square input, as the reference does it."""
    return points / np.array([width, height], np.float32) * np.float32(size)


def mask_to_network(mask: NDArray[np.bool_], size: int, device: torch.device) -> Tensor:
    """A mask in source pixels → binary float ``[1, 1, size, size]`` (bilinear, antialiased, threshold 0.5)."""
    tensor = torch.from_numpy(np.ascontiguousarray(mask)).to(device)[None, None].float()
    if mask.shape == (size, size):
        return tensor
    resized = F.interpolate(tensor, (size, size), mode="bilinear", align_corners=False, antialias=True)
    return (resized >= 0.5).float()
