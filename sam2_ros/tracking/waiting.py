"""Objects at which the network does not look on a frame: their masks are carried there (:mod:`.look_scheduler`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sam2_ros.model.network import Network
from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.history import StoredFrame
from sam2_ros.tracking.masks import resampled, without
from sam2_ros.tracking.objects import LiveObject
from sam2_ros.tracking.transfer import upload
from sam2_ros.tracking.windows import Window

CARRIED_LOGIT = 5.0  # of the pixels of a carried mask; of the others less than 0


def waits(obj: LiveObject, stored: StoredFrame) -> bool:
    """Whether the network does not look at ``obj`` on ``stored``. A prompt that came after the choice ends that."""
    followed = stored.waiting.get(obj.object_id)
    return followed is not None and followed.before is obj.mask


def carry(obj: LiveObject, stored: StoredFrame, window: Window, model: Network, config: TrackerConfig) -> None:
    """Takes a VISIBLE object to where its mask was carried on ``stored``. It keeps its memory and its scores;
    ``window`` is the one that it would have been seen through."""
    mask, side = stored.waiting[obj.object_id].mask, 4 * model.config.grid
    low = resampled(mask, Window.whole(mask.width, mask.height), window, side, side).full()
    logits = np.where(low, CARRIED_LOGIT, -CARRIED_LOGIT).astype(np.float32)
    obj.logits, obj.window = upload(logits[None], model.device), window
    obj.prompted, obj.candidates = False, None
    obj.trail = obj.trail.carried(stored.frame, mask)
    obj.set_presence(obj.presence.carried(stored.frame, stored.stamp, config), mask)


def give_way(carried: Sequence[LiveObject], looked_at: Sequence[LiveObject]) -> list[LiveObject]:
    """Takes the pixels that others have from the masks of the ``carried`` objects. Returns those without any left."""
    taken = [obj.mask for obj in looked_at if obj.mask is not None]
    for obj in carried:
        assert obj.mask is not None
        obj.mask = without(obj.mask, taken)
        taken.append(obj.mask)
    return [obj for obj in carried if obj.mask is not None and not obj.mask.crop.size]
