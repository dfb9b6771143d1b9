"""Brings to the host what a memory policy decides about: the decoder's candidates and the connected parts of masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sam2_ros.model.mask_decoder import DecodedMasks
from sam2_ros.tracking.objects import LiveObject
from sam2_ros.tracking.policies import MemoryPolicy, Parts, Trail, box_iou, parts_within
from sam2_ros.tracking.transfer import upload
from sam2_ros.tracking.types import CroppedMask
from sam2_ros.tracking.visibility import Observation, Presence

STEADY_GAP = 15  # frames of another size after which that is the object's size now
SPECK = 0.2  # share of the largest part's area below which a part does not count for the box
REJECTED_LOGIT = -10.0  # of pixels that are another object's

Shares: TypeAlias = tuple[float, float, float, float]
"""A window: left and upper edge, width and height, shares of the frame."""
WHOLE: Shares = (0.0, 0.0, 1.0, 1.0)
Rule: TypeAlias = Callable[[int, Parts], NDArray[np.bool_]]
"""Selects the parts of the mask of this index that are its object's (``[N]``)."""


@dataclass(frozen=True)
class OwnMasks:
    """Masks without the parts that are not the object's own."""

    logits: Tensor  # [B, 1, h, w]
    boxes: NDArray[np.float64]  # [B, 4] x0, y0, x1, y1, shares of the frame
    areas: NDArray[np.float64]  # [B] share of the frame
    rejected: NDArray[np.bool_]  # [B] whether a part was removed


def choose_candidates(
    policy: MemoryPolicy, decoded: DecodedMasks, objects: Sequence[LiveObject], frame: int, window: Shares = WHOLE
) -> Tensor | None:
    """The policy's choice for each object (``[B]``, 0 to 2) on masks in ``window``; None: that of best predicted
    IoU."""
    if not policy.chooses:
        return None
    masks = decoded.logits[:, 1:] > 0  # [B, 3, h, w]
    height, width = masks.shape[2:]
    columns, rows = masks.any(dim=2), masks.any(dim=3)  # [B, 3, w], [B, 3, h]
    x0, y0, wide, high = window
    edges = [
        x0 + wide * (columns.float().argmax(dim=2) / width),
        y0 + high * (rows.float().argmax(dim=2) / height),
        x0 + wide * (1 - columns.flip(2).float().argmax(dim=2) / width),
        y0 + high * (1 - rows.flip(2).float().argmax(dim=2) / height),
    ]
    filled = columns.any(dim=2).float()
    table = torch.stack((decoded.ious[:, 1:].float(), *(edge * filled for edge in edges)), dim=2)
    values = table.double().cpu().numpy()  # [B, 3, 5]
    chosen = policy.choose(values[..., 0], values[..., 1:], [obj.trail for obj in objects], frame)
    return torch.as_tensor(chosen, device=decoded.ious.device)


def own_masks(
    policy: MemoryPolicy,
    logits: Tensor,
    objects: Sequence[LiveObject],
    frame: int,
    masks: Sequence[CroppedMask] | None = None,
    window: Shares = WHOLE,
) -> OwnMasks:
    """Removes the connected parts of each mask (``logits`` ``[B, 1, h, w]`` in ``window``) that the policy takes for
    another object's; ``masks`` are those of logits above 0, if they are on the host already."""
    return _keep_parts(logits, lambda i, parts: policy.own_parts(parts, objects[i].trail, frame), masks, window)


def masks_within(logits: Tensor, boxes: Sequence[NDArray[np.float64] | None], window: Shares = WHOLE) -> OwnMasks:
    """Removes the connected parts of each mask (``logits`` ``[B, 1, h, w]`` in ``window``) that lie outside of the box
    (shares of the frame) that prompted it; None leaves the mask as it is."""

    def rule(index: int, parts: Parts) -> NDArray[np.bool_]:
        box = boxes[index]
        return parts.all if box is None else parts_within(parts, box)

    return _keep_parts(logits, rule, window=window)


def trail_after_prompt(trail: Trail, frame: int, logits: Tensor, bounded: bool, window: Shares = WHOLE) -> Trail:
    """The trail after a prompt on ``frame`` whose mask is ``logits`` (``[1, h, w]`` in ``window``, before non-overlap).
    ``bounded``: a box or a mask said how far the object reaches, so that its small parts count too."""
    mask = CroppedMask.from_full((logits[0] > 0).cpu().numpy())
    box = _keep_parts(logits[None], lambda _, parts: parts.all, [mask], window).boxes[0]
    trail = trail.seen(frame, box.tolist(), float((logits > 0).float().mean()) * window[2] * window[3])
    if not bounded or not mask.crop.size:
        return replace(trail, extent=(float(box[2] - box[0]), float(box[3] - box[1])))
    height, width = mask.crop.shape
    return replace(trail, extent=(width / mask.width * window[2], height / mask.height * window[3]))


def agreements(
    decoded: DecodedMasks, boxes: Sequence[NDArray[np.float64] | None], window: Shares = WHOLE
) -> NDArray[np.float64]:
    """How well each single mask (in ``window``) fits the box that prompted it (``[B]``): IoU of that box (shares of the
    frame) and the box of the mask's parts in it; 0 where the object is absent, 1 where there is no box."""
    present = (decoded.object_score[:, 0] > 0).tolist()
    own = masks_within(decoded.logits[:, :1].float(), boxes, window)
    found = zip(present, own.boxes[:, None], boxes, strict=True)
    return np.array([1.0 if box is None else there * float(box_iou(mask, box)[0]) for there, mask, box in found])


def _keep_parts(
    logits: Tensor, rule: Rule, masks: Sequence[CroppedMask] | None = None, window: Shares = WHOLE
) -> OwnMasks:
    if masks is None:
        masks = [CroppedMask.from_full(mask) for mask in (logits[:, 0] > 0).cpu().numpy()]
    count, _, height, width = logits.shape
    x0, y0, share_x, share_y = window
    boxes, areas, rejected = np.zeros((count, 4)), np.zeros(count), np.zeros(count, np.bool_)
    for index, mask in enumerate(masks):
        if not mask.crop.size:
            continue
        _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.crop.view(np.uint8), connectivity=8)
        left, top, wide, high, area = stats[1:].T.astype(np.float64)  # part 0 is the background
        left, top = left + mask.x, top + mask.y
        edges = np.stack((left / width, top / height, (left + wide) / width, (top + high) / height), axis=1)
        edges = edges * (share_x, share_y, share_x, share_y) + (x0, y0, x0, y0)
        area = area / (width * height) * (share_x * share_y)
        own = rule(index, Parts(area, edges))
        areas[index] = area[own].sum()
        body = own & (area >= SPECK * area[own].max())
        boxes[index] = (*edges[body, :2].min(axis=0), *edges[body, 2:].max(axis=0))
        if not own.all():
            rejected[index] = True
            others = np.zeros((height, width), np.bool_)
            rows, columns = mask.crop.shape
            others[mask.y : mask.y + rows, mask.x : mask.x + columns] = np.concatenate(([False], ~own))[labels]
            found = upload(others, logits.device)
            logits = logits.clone()
            logits[index, 0] = torch.where(found, REJECTED_LOGIT, logits[index, 0])
    return OwnMasks(logits, boxes, areas, rejected)


def update_trails(
    policy: MemoryPolicy,
    objects: Sequence[LiveObject],
    frame: int,
    own: OwnMasks,
    observations: Sequence[Observation],
    presences: Sequence[Presence],
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Adds the frame to the trails of the objects that are seen, unless an object merges with another one. Returns
    whether the frame enters each object's memory, and whether as an anchor (both ``[B]``)."""
    trails = [obj.trail for obj in objects]
    ious = np.array([each.predicted_iou for each in observations])
    areas = np.array([each.area for each in observations])
    seen = np.array([presence.seen_run > 0 for presence in presences])
    enters = policy.enters(ious, areas, trails) | ~seen
    anchored = policy.anchored(ious, areas, own.rejected, trails, frame) & seen
    for index in np.flatnonzero(seen).tolist():
        if trails[index].is_steady(areas[index]) or frame - trails[index].frames[-1] > STEADY_GAP:
            trail = trails[index].seen(frame, own.boxes[index], areas[index])
            objects[index].trail = replace(trail, anchor=frame) if anchored[index] else trail
    return enters, anchored
