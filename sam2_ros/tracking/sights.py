"""Tells objects apart that are seen through one window or several. :mod:`.look_alikes` has the rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sam2_ros.model.network import Array
from sam2_ros.tracking.history import View
from sam2_ros.tracking.look_alikes import Claim, Division, alike, divide
from sam2_ros.tracking.mask_parts import masks_of
from sam2_ros.tracking.masks import resampled
from sam2_ros.tracking.objects import LiveObject
from sam2_ros.tracking.types import CroppedMask, ObjectState
from sam2_ros.tracking.windows import Window


@dataclass(frozen=True)
class Sight:
    """What the network sees through one window."""

    objects: list[LiveObject]
    view: View
    present: Array  # [B] bool
    scores: Array  # [B] logits
    masks: list[CroppedMask]  # in pixels of the network's masks


def tell_apart(sights: Sequence[Sight], bystanders: Sequence[LiveObject]) -> list[Division | None]:
    """Divides the masks of those objects of ``sights`` that meet each other or one of ``bystanders``, which keep their
    masks. For each sight its own masks, in its pixels; None if none of them meet."""
    nobody: list[Division | None] = [None] * len(sights)
    objects = [obj for sight in sights for obj in sight.objects]
    if len(objects) + len(bystanders) < 2:
        return nobody
    found = []
    for sight in sights:
        told = zip(sight.objects, sight.masks, sight.present.tolist(), sight.scores.tolist(), strict=True)
        found += [(obj, sight.view.window, mask, there, score) for obj, mask, there, score in told]
    for obj in bystanders:
        if obj.logits is not None and obj.window is not None and obj.state is ObjectState.VISIBLE:
            found.append((obj, obj.window, masks_of(obj.logits[None])[0], True, obj.object_score))
    # All are compared in the finest pixels among theirs.
    edges = np.array([window for _, window, _, _, _ in found])
    common = Window(*edges[:, :2].min(axis=0).tolist(), *edges[:, 2:].max(axis=0).tolist())
    width = round(common.width * max(mask.width / window.width for _, window, mask, _, _ in found))
    height = round(common.height * max(mask.height / window.height for _, window, mask, _, _ in found))
    claims = [
        Claim(obj.trail, resampled(mask, window, common, width, height), there, score)
        for obj, window, mask, there, score in found
    ]
    pairs = alike([each[0].likeness for each in found])
    pairs[len(objects) :] = False  # what bystanders are to each other is decided
    view = sights[0].view
    division = divide(claims, pairs, view.frame, common.shares(view.width, view.height))
    if division is None:
        return nobody
    divisions, first = list(nobody), 0
    for position, sight in enumerate(sights):
        own = {
            index: resampled(
                CroppedMask.from_full(division.masks[first + index]), common, sight.view.window, mask.width, mask.height
            ).full()
            for index, mask in enumerate(sight.masks)
            if first + index in division.masks
        }
        if own:
            undecided = frozenset(index for index in own if first + index in division.undecided)
            divisions[position] = Division(own, undecided)
        first += len(sight.objects)
    return divisions
