"""Applies prompts to a frame: the first of an object without memory, later ones as corrections with it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sam2_ros.model.mask_decoder import DecodedMasks, choose, stability
from sam2_ros.model.prompt_encoder import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT
from sam2_ros.model.sam2 import (
    ABSENT_LOGIT,
    MASK_BIAS,
    MASK_SCALE,
    ImageFeatures,
    Sam2Model,
)
from sam2_ros.tracking.bank import MemoryBank
from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.mask_parts import agreements, masks_within
from sam2_ros.tracking.masks import fill_holes, image_masks
from sam2_ros.tracking.objects import Candidates, TrackedObject
from sam2_ros.tracking.types import MaskCandidate, Prompt

PREVIOUS_LOGIT_LIMIT = 32.0
BELIEVED = 0.5  # IoU of a prompt's box and its mask's from which on the memory is believed
NEARLY_AS_GOOD = 0.8  # of the best predicted IoU, for a candidate to be taken for its size


@dataclass(frozen=True)
class Answer:
    """What a prompt gave for one object."""

    logits: Tensor  # [1, h, w] low resolution, float32
    object_score: float  # logit
    iou: float  # predicted
    stability: float
    released: int | None  # prompted frame that the bank let go


@dataclass(frozen=True)
class _Decoded:
    """One object's mask before it is stored."""

    logits: Tensor  # [1, h, w]
    pointer: Tensor  # [C]
    object_score: float
    iou: float
    anew: bool = False  # the prompt contradicts what was tracked so far


def preferred_candidate(decoded: DecodedMasks, rule: str) -> Tensor | None:
    """Which candidate of each of ``B`` single clicks is meant (``[B]``, 0 to 2) by a rule of CLICK_CANDIDATES; None
    for the one of best predicted IoU."""
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


class PromptApplier:
    """Prompt handling of one tracker."""

    def __init__(self, model: Sam2Model, bank: MemoryBank, config: TrackerConfig) -> None:
        self.model = model
        self.bank = bank
        self.config = config

    def apply(
        self, prompts: list[tuple[Prompt, TrackedObject]], features: ImageFeatures, frame: int, width: int, height: int
    ) -> list[Answer]:
        """Applies checked ``prompts`` to ``frame`` and stores what comes out in the bank.

        Prompts of equal shape share one pass; padding them to one shape would change their numbers, since the padding
        token takes part in attention.
        """
        groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
        for index, (prompt, one) in enumerate(prompts):
            groups[self._shape(prompt, one, frame)].append(index)
        decoded: dict[int, _Decoded] = {}
        for shape, members in groups.items():
            batch = [prompts[index] for index in members]
            if shape[0] == "mask":
                out = self._from_masks(batch, features, frame)
            elif shape[0] == "candidate":
                out = [self._from_candidate(prompt, one) for prompt, one in batch]
            else:
                out = self._from_clicks(batch, features, frame, width, height)
            decoded.update(zip(members, out, strict=True))
        return self._store([(one, decoded[index]) for index, (_, one) in enumerate(prompts)], features, frame)

    def candidate_masks(self, one: TrackedObject, width: int, height: int) -> tuple[MaskCandidate, ...]:
        """The candidates of the last prompt in the size of the image; none where it was not ambiguous."""
        if one.candidates is None:
            return ()
        masks = image_masks(one.candidates.logits[:, None].float(), height, width, non_overlap=False)
        return tuple(
            MaskCandidate(
                1 + index, mask, float(one.candidates.ious[index]), float(stability(one.candidates.logits[index]))
            )
            for index, mask in enumerate(masks)
        )

    def _shape(self, prompt: Prompt, one: TrackedObject, frame: int) -> tuple[object, ...]:
        """What must be equal for prompts to share a pass; takes new clicks over into ``one`` on the way."""
        if prompt.mask is not None:
            one.prompt_frame, one.candidates = frame, None
            one.points, one.labels = np.zeros((0, 2), np.float32), np.zeros(0, np.int32)
            return ("mask",)
        if prompt.points is None and prompt.box is None:
            return ("candidate",)
        points, labels = clicks_of(prompt)
        # The network wants a box before all clicks, so a box begins anew.
        if one.prompt_frame == frame and not prompt.replace and prompt.box is None:
            points, labels = np.concatenate((one.points, points)), np.concatenate((one.labels, labels))
        previous = one.logits is not None and one.newest_frame == frame
        one.prompt_frame, one.points, one.labels = frame, points, labels
        return ("clicks", len(labels), self._is_correction(one, frame), previous)

    def _is_correction(self, one: TrackedObject, frame: int) -> bool:
        """Whether the object has been tracked to this frame, so that its memory counts.

        With one prompted slot, a correction on the frame after the first prompt takes the place of all that was known;
        the next prompt on that frame is then like a first one.
        """
        return one.added_frame < frame and self.bank.remembers(one.row, frame)

    def _from_clicks(
        self, batch: list[tuple[Prompt, TrackedObject]], features: ImageFeatures, frame: int, width: int, height: int
    ) -> list[_Decoded]:
        model = self.model
        objects = [one for _, one in batch]
        points = np.stack([self._network_points(one, width, height) for one in objects])
        labels = torch.as_tensor(np.stack([one.labels for one in objects]), device=model.device)
        correction = self._is_correction(objects[0], frame)
        if correction:
            memories = self.bank.gather([one.row for one in objects], frame)
            conditioned = model.with_memory(
                features, memories.tokens, memories.codes, memories.num_pointers, memories.mask
            )
        else:
            conditioned = model.without_memory(features).expand(len(batch), -1, -1, -1)
        previous = None
        if objects[0].logits is not None and objects[0].newest_frame == frame:
            stacked = torch.stack([one.logits for one in objects if one.logits is not None])
            previous = stacked.clamp(-PREVIOUS_LOGIT_LIMIT, PREVIOUS_LOGIT_LIMIT)
        decoded = model.decode(conditioned, features, torch.as_tensor(points, device=model.device), labels, previous)
        anew: list[int] = []
        if correction and not self.config.reference_policy:
            decoded, anew = self._believe_boxes(batch, decoded, features, points, labels, width, height)
        multimask = labels.shape[1] <= 1
        candidate = preferred_candidate(decoded, self.config.click_candidate) if multimask else None
        chosen = choose(decoded, multimask, self.config.stability_fallback, candidate)
        present = decoded.object_score[:, 0] > 0
        scores = decoded.object_score[:, 0].float().tolist()
        out = []
        for index, (prompt, one) in enumerate(batch):
            logits, token, iou = chosen.logits[index], chosen.token[index], chosen.iou[index]
            one.candidates = None
            if multimask:
                one.candidates = Candidates(
                    frame, decoded.logits[index, 1:].float(), decoded.ious[index, 1:], decoded.tokens[index, 1:],
                    scores[index],
                )  # fmt: skip
                if prompt.candidate is not None:
                    out.append(self._from_candidate(prompt, one))
                    continue
            pointer = model.pointer(token[None], present[index, None])[0]
            logits = torch.where(present[index], logits.float(), ABSENT_LOGIT)
            out.append(_Decoded(logits, pointer, scores[index], float(iou), index in anew))
        return self._within_boxes(batch, out, width, height) if self.config.rejects_strays else out

    def _believe_boxes(
        self,
        batch: list[tuple[Prompt, TrackedObject]],
        decoded: DecodedMasks,
        features: ImageFeatures,
        points: NDArray[np.float32],
        labels: Tensor,
        width: int,
        height: int,
    ) -> tuple[DecodedMasks, list[int]]:
        """A box says where the object is. Where the memory says that it is hidden, or elsewhere, the frame is looked at
        without it; and for which of the batch that is so."""
        boxes = [_shares(prompt, width, height) for prompt, _ in batch]
        agreement = agreements(decoded, boxes)
        anew = [index for index, value in enumerate(agreement) if value < BELIEVED]
        if not anew:
            return decoded, anew
        conditioned = self.model.without_memory(features).expand(len(anew), -1, -1, -1)
        network_points = torch.as_tensor(points[anew], device=self.model.device)
        alone = self.model.decode(conditioned, features, network_points, labels[anew], None)
        better = agreements(alone, [boxes[index] for index in anew]) > agreement[anew]
        taken = np.flatnonzero(better).tolist()
        anew = [anew[index] for index in taken]
        merged = {}
        for field in fields(DecodedMasks):
            merged[field.name] = getattr(decoded, field.name).clone()
            merged[field.name][anew] = getattr(alone, field.name)[taken].to(merged[field.name].dtype)
        return DecodedMasks(**merged), anew

    def _within_boxes(
        self, batch: list[tuple[Prompt, TrackedObject]], decoded: list[_Decoded], width: int, height: int
    ) -> list[_Decoded]:
        """A box says where the object is: parts of its mask elsewhere are not meant. A click may mean one, though."""
        boxes = [None if prompt.points is not None else _shares(prompt, width, height) for prompt, _ in batch]
        if all(box is None for box in boxes):
            return decoded
        logits = masks_within(torch.stack([each.logits for each in decoded]), boxes).logits
        return [replace(each, logits=own) for each, own in zip(decoded, logits, strict=True)]

    def _from_candidate(self, prompt: Prompt, one: TrackedObject) -> _Decoded:
        """The mask that was chosen among the kept candidates; a person who chooses one says that it is there."""
        kept = one.candidates
        assert kept is not None and prompt.candidate is not None
        index = prompt.candidate - 1
        present = torch.ones(1, dtype=torch.bool, device=kept.logits.device)
        pointer = self.model.pointer(kept.tokens[index][None], present)[0]
        return _Decoded(kept.logits[index][None], pointer, max(kept.object_score, 0.01), float(kept.ious[index]))

    def _from_masks(
        self, batch: list[tuple[Prompt, TrackedObject]], features: ImageFeatures, frame: int
    ) -> list[_Decoded]:
        model, size = self.model, self.model.config.image_size
        given = [prompt.mask for prompt, _ in batch if prompt.mask is not None]
        masks = torch.cat([mask_to_network(mask, size, model.device) for mask in given])
        pointers = model.mask_pointer(features, masks)
        low = F.interpolate(
            masks * MASK_SCALE + MASK_BIAS, (size // 4, size // 4), mode="bilinear", align_corners=False, antialias=True
        )
        scores = torch.where(masks.flatten(1).any(dim=1), MASK_SCALE + MASK_BIAS, MASK_BIAS).tolist()
        return [_Decoded(low[i], pointers[i], scores[i], 1.0) for i in range(len(batch))]

    def _store(
        self, decoded: list[tuple[TrackedObject, _Decoded]], features: ImageFeatures, frame: int
    ) -> list[Answer]:
        """Encodes the memory of every prompted mask in one pass and gives it its slot."""
        model = self.model
        logits = torch.stack([one.logits.float() for _, one in decoded])
        if self.config.hole_area:
            logits = fill_holes(logits, self.config.hole_area)
        present = torch.tensor([one.object_score > 0 for _, one in decoded], device=model.device)
        binarize = torch.full_like(present, self.config.binarize_prompted_memory)
        memory = model.encode_low_memory(features, logits, present, binarize)
        stable = stability(logits[:, 0]).tolist()
        answers = []
        for index, (owner, one) in enumerate(decoded):
            released = None
            if one.anew:
                self.bank.forget_recent(owner.row, frame)
            if self.config.reference_policy and self._is_correction(owner, frame):
                self.bank.store_recent([owner.row], frame, memory[index, None], one.pointer[None])
            else:
                released = self.bank.store_prompted(
                    owner.row, frame, memory[index], one.pointer, features, logits[index, 0]
                )
            answers.append(Answer(logits[index], one.object_score, one.iou, stable[index], released))
        return answers

    def _network_points(self, one: TrackedObject, width: int, height: int) -> NDArray[np.float32]:
        clipped = np.clip(one.points, 0, np.array([width, height], np.float32))
        return to_network(clipped, width, height, self.model.config.image_size).astype(np.float32)


def _shares(prompt: Prompt, width: int, height: int) -> NDArray[np.float64] | None:
    """A prompt's box in shares of the frame; what reaches out of the image is cut off."""
    if prompt.box is None:
        return None
    return np.clip(prompt.box / np.array([width, height, width, height], np.float64), 0, 1)


def clicks_of(prompt: Prompt) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Box corners, then points, with their labels, in source pixels; empty for a mask."""
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
