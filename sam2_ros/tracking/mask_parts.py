"""Brings masks to the host, removes what is not the object's own, and follows where the objects are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from sam2_ros.model.arrays import copied, device_of, float32, module_of, normalized, standard_deviation, to_numpy
from sam2_ros.model.network import Array, DecodedMasks, ImageFeatures
from sam2_ros.tracking.look_alikes import Division
from sam2_ros.tracking.maps import averaged
from sam2_ros.tracking.objects import LiveObject
from sam2_ros.tracking.trail import Parts, Trail, box_iou, own_parts, parts_within
from sam2_ros.tracking.transfer import upload
from sam2_ros.tracking.types import BoolMask, CroppedMask
from sam2_ros.tracking.visibility import Observation, Presence

STEADY_GAP = 15  # frames of another size after which that is the object's size now
SPECK = 0.2  # share of the largest part's area below which a part does not count for the box
REJECTED_LOGIT = -10.0  # of pixels that are another object's
GIVEN_LOGIT = 0.1  # at least, of pixels that an object gets from a look-alike

Shares: TypeAlias = tuple[float, float, float, float]
"""A window: left and upper edge, width and height, shares of the frame."""
WHOLE: Shares = (0.0, 0.0, 1.0, 1.0)
Rule: TypeAlias = Callable[[int, Parts], NDArray[np.bool_]]
"""Selects the parts of the mask of this index that are its object's (``[N]``)."""


@dataclass(frozen=True)
class OwnMasks:
    """Masks without what is not the object's own."""

    logits: Array  # [B, 1, h, w]
    boxes: NDArray[np.float64]  # [B, 4] x0, y0, x1, y1, shares of the frame
    areas: NDArray[np.float64]  # [B] share of the frame
    changed: NDArray[np.bool_]  # [B] whether the mask is another one than before
    met: NDArray[np.bool_]  # [B] whether the object met a look-alike
    undecided: NDArray[np.bool_]  # [B] whether a look-alike may have a part of it


def own_masks(
    logits: Array,
    objects: Sequence[LiveObject],
    frame: int,
    masks: Sequence[CroppedMask],
    window: Shares = WHOLE,
    rejects_strays: bool = True,
    division: Division | None = None,
) -> OwnMasks:
    """The masks (``logits`` ``[B, 1, h, w]`` in ``window``) without what is another object's.

    ``division`` gives the masks of look-alikes that met. Of the others, ``rejects_strays`` removes the connected parts
    that are not near where their object was heading. ``masks`` are those of logits above 0.
    """
    divided = {} if division is None else division.masks
    if divided:
        masks = list(masks)
        logits = _with_masks(logits, divided)
        for index, mask in divided.items():
            masks[index] = CroppedMask.from_full(mask)

    def rule(index: int, parts: Parts) -> NDArray[np.bool_]:
        keeps = not rejects_strays or index in divided
        return parts.all if keeps else own_parts(parts, objects[index].trail, frame)

    own = _keep_parts(logits, rule, masks, window)
    own.changed[list(divided)] = own.met[list(divided)] = True
    own.undecided[[] if division is None else list(division.undecided)] = True
    return own


def likenesses_of(features: ImageFeatures, logits: Array) -> Array:
    """How the objects with masks ``logits`` (``[B, 1, h, w]``) look, unit vectors ``float32 [B, C]``: the encoder's
    features on them, relative to those of the image. All 0 for an empty mask."""
    covered, looks = float32(logits > 0), []
    module = module_of(logits)
    for level in (features.stride_16, features.stride_8, features.stride_4):
        share = averaged(covered, level.shape[-1]).reshape(len(logits), -1)  # [B, hw]
        cells = float32(level[0].reshape(level.shape[1], -1))  # [C, hw]
        inside = share @ cells.T / share.sum(1, keepdims=True).clip(1e-6, None)
        difference = (inside - cells.mean(1)) / standard_deviation(cells).clip(1e-6, None)
        looks.append(normalized(difference) * (share > 0).any(1)[:, None])
    return module.concatenate(looks, 1) / len(looks) ** 0.5


def masks_within(logits: Array, boxes: Sequence[NDArray[np.float64] | None], window: Shares = WHOLE) -> OwnMasks:
    """Removes the connected parts of each mask (``logits`` ``[B, 1, h, w]`` in ``window``) that lie outside of the box
    (shares of the frame) that prompted it; None leaves the mask as it is."""

    def rule(index: int, parts: Parts) -> NDArray[np.bool_]:
        box = boxes[index]
        return parts.all if box is None else parts_within(parts, box)

    return _keep_parts(logits, rule, window=window)


def trail_after_prompt(trail: Trail, frame: int, logits: Array, bounded: bool, window: Shares = WHOLE) -> Trail:
    """The trail after a prompt on ``frame`` whose mask is ``logits`` (``[1, h, w]`` in ``window``, before non-overlap).
    ``bounded``: a box or a mask said how far the object reaches, so that its small parts count too."""
    mask = CroppedMask.from_full(to_numpy(logits[0] > 0))
    box = _keep_parts(logits[None], lambda _, parts: parts.all, [mask], window).boxes[0]
    trail = trail.seen(frame, box.tolist(), float(float32(logits > 0).mean()) * window[2] * window[3])
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
    own = masks_within(float32(decoded.logits[:, :1]), boxes, window)
    found = zip(present, own.boxes[:, None], boxes, strict=True)
    return np.array([1.0 if box is None else there * float(box_iou(mask, box)[0]) for there, mask, box in found])


def _keep_parts(
    logits: Array, rule: Rule, masks: Sequence[CroppedMask] | None = None, window: Shares = WHOLE
) -> OwnMasks:
    if masks is None:
        masks = masks_of(logits)
    count, _, height, width = logits.shape
    x0, y0, share_x, share_y = window
    boxes, areas, changed = np.zeros((count, 4)), np.zeros(count), np.zeros(count, np.bool_)
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
            changed[index] = True
            others = np.zeros((height, width), np.bool_)
            rows, columns = mask.crop.shape
            others[mask.y : mask.y + rows, mask.x : mask.x + columns] = np.concatenate(([False], ~own))[labels]
            found = upload(others, device_of(logits))
            logits = copied(logits)
            logits[index, 0] = module_of(logits).where(found, REJECTED_LOGIT, logits[index, 0])
    return OwnMasks(logits, boxes, areas, changed, *np.zeros((2, count), np.bool_))


def update_trails(
    objects: Sequence[LiveObject],
    frame: int,
    own: OwnMasks,
    observations: Sequence[Observation],
    presences: Sequence[Presence],
) -> None:
    """Adds the frame to the trails of the objects that are seen, unless they are undecided or of another size: then an
    object merges with another one."""
    for index, (obj, observation, presence) in enumerate(zip(objects, observations, presences, strict=True)):
        if own.met[index]:
            obj.trail = replace(obj.trail, met=frame)
        if presence.seen_run == 0 or own.undecided[index]:
            continue
        trail = obj.trail
        if trail.is_steady(observation.area) or frame - trail.frames[-1] > STEADY_GAP:
            obj.trail = trail.seen(frame, own.boxes[index].tolist(), observation.area)
        else:
            obj.trail = replace(trail, decided=frame)


def masks_of(logits: Array) -> list[CroppedMask]:
    """The masks of logits ``[B, 1, h, w]`` above 0."""
    return [CroppedMask.from_full(mask) for mask in to_numpy(logits[:, 0] > 0)]


def _with_masks(logits: Array, masks: Mapping[int, BoolMask]) -> Array:
    """Logits ``[B, 1, h, w]`` that give the objects of these indices these masks. A pixel that an object had not before
    gets the highest logit among them."""
    index, module = upload(sorted(masks), device_of(logits)), module_of(logits)
    wanted = upload(np.stack([masks[i] for i in sorted(masks)]), device_of(logits))[:, None]
    own = logits[index]
    best = module.amax(own, 0)[None].clip(GIVEN_LOGIT, None)
    given = copied(logits)
    given[index] = module.where(wanted, module.where(own > 0, own, best), own.clip(None, REJECTED_LOGIT))
    return given
