"""Shows a memory policy what it decides about: the decoder's candidates and the parts of masks, brought to the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sam2_ros.model.mask_decoder import DecodedMasks
from sam2_ros.tracking.objects import TrackedObject
from sam2_ros.tracking.policies import Drawn, MemoryPolicy, Parts
from sam2_ros.tracking.visibility import Evidence, Sight

STEADY_GAP = 15  # frames of another size after which that is the object's size now
SPECK = 0.2  # share of the largest part below which a part does not count for the box
REJECTED_LOGIT = -10.0  # of pixels that are another object's


@dataclass(frozen=True)
class OwnMasks:
    """Masks without what is not the object's own."""

    logits: Tensor  # [B, 1, h, w]
    boxes: NDArray[np.float64]  # [B, 4] x0, y0, x1, y1, shares of the frame
    rejected: NDArray[np.bool_]  # [B] whether a part was left out


def choose_candidates(
    policy: MemoryPolicy, decoded: DecodedMasks, objects: Sequence[TrackedObject], frame: int
) -> Tensor | None:
    """The policy's choice for each object (``[B]``, 0 to 2); None: that of best predicted IoU."""
    if not policy.looks:
        return None
    chosen = policy.choose(candidates_of(decoded), [one.trail for one in objects], frame)
    return torch.as_tensor(chosen, device=decoded.ious.device)


def own_masks(policy: MemoryPolicy, logits: Tensor, objects: Sequence[TrackedObject], frame: int) -> OwnMasks:
    """Leaves out the connected parts of each mask (``logits`` ``[B, 1, h, w]``) that the policy takes for another's."""
    masks = (logits[:, 0] > 0).cpu().numpy().astype(np.uint8)
    height, width = masks.shape[1:]
    boxes, rejected = np.zeros((len(objects), 4)), np.zeros(len(objects), np.bool_)
    for index, one in enumerate(objects):
        _, labels, stats, _ = cv2.connectedComponentsWithStats(masks[index], connectivity=8)
        left, top, wide, high, area = stats[1:].T.astype(np.float64)  # part 0 is the background
        if not len(area):
            continue
        edges = np.stack((left / width, top / height, (left + wide) / width, (top + high) / height), axis=1)
        own = policy.own_parts(Parts(area / (width * height), edges), one.trail, frame)
        body = own & (area >= SPECK * area[own].max())
        boxes[index] = (*edges[body, :2].min(axis=0), *edges[body, 2:].max(axis=0))
        if not own.all():
            rejected[index] = True
            others = np.concatenate(([False], ~own))[labels]
            found = torch.from_numpy(others).to(logits.device)
            logits = logits.clone()
            logits[index, 0] = torch.where(found, REJECTED_LOGIT, logits[index, 0])
    return OwnMasks(logits, boxes, rejected)


def remember(
    policy: MemoryPolicy,
    objects: Sequence[TrackedObject],
    frame: int,
    own: OwnMasks,
    evidence: Sequence[Evidence],
    sights: Sequence[Sight],
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether the frame enters each object's memory where it is seen, and whether it is an anchor (both ``[B]``); takes
    the sightings over into the objects' trails, but for those on which the object merges with another one."""
    trails = [one.trail for one in objects]
    ious, areas = np.array([each.predicted_iou for each in evidence]), np.array([each.area for each in evidence])
    seen = np.array([sight.seen_run > 0 for sight in sights])
    enters = policy.enters(ious, areas, trails) | ~seen
    anchored = policy.anchored(ious, areas, own.rejected, trails, frame) & seen
    for index in np.flatnonzero(seen).tolist():
        if trails[index].is_steady(areas[index]) or frame - trails[index].frames[-1] > STEADY_GAP:
            trail = trails[index].seen(frame, own.boxes[index], areas[index])
            objects[index].trail = replace(trail, anchor=frame) if anchored[index] else trail
    return enters, anchored


def candidates_of(decoded: DecodedMasks) -> Drawn:
    """The candidates on the host: predicted IoU, area and box of each."""
    masks = decoded.logits[:, 1:] > 0  # [B, 3, h, w]
    height, width = masks.shape[2:]
    columns, rows = masks.any(dim=2), masks.any(dim=3)  # [B, 3, w], [B, 3, h]
    edges = [
        columns.float().argmax(dim=2) / width,
        rows.float().argmax(dim=2) / height,
        1 - columns.flip(2).float().argmax(dim=2) / width,
        1 - rows.flip(2).float().argmax(dim=2) / height,
    ]
    areas = masks.flatten(2).float().mean(dim=2)
    filled = (areas > 0).float()
    table = torch.stack((decoded.ious[:, 1:].float(), areas, *(edge * filled for edge in edges)), dim=2)
    values = table.double().cpu().numpy()  # [B, 3, 6]
    return Drawn(values[..., 0], values[..., 1], values[..., 2:])
