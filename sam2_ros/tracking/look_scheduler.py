"""Lets objects take turns at being looked at, so that windows cost no more than the whole frame. Free of torch.

Each window is encoded by itself. With a budget, the network looks at some objects of a frame. The masks of the others
are carried from the frame before by optical flow (:mod:`.mask_follower`); hidden ones wait. The rules:

1. The work of a frame without windows is that of encoding (``encode``) and :data:`LOOK` for each object, ``larger``
   times as much where the input is larger without windows.
   ``tracker.window_budget`` times that is what a frame may cost on average; what one frame leaves, the next may spend,
   up to one look.
2. A look costs the encoding of its window, and :data:`LOOK`. Objects that are seen in one window share it. A search of
   the whole frame for hidden objects costs two windows.
3. At least one object is looked at, and at most :data:`.windows.MOST` windows are encoded. The most urgent objects come
   first: those that waited longest, those whose mask can't be carried well (:data:`DOUBT`) or shows the thing of
   another carried mask, and those that are hidden only because it could not be carried.
4. Where all objects are seen in the whole frame, and the budget is at least 1, they are looked at without turns.
5. Where flow finds less than half of the masks, as after a cut, on a flash, or in the first image, the budget does not
   count on that frame.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from sam2_ros.model.config import WHOLE_SIDE, WINDOW_SIDE, ModelConfig
from sam2_ros.tracking.camera_motion import STANDING, Motion
from sam2_ros.tracking.look_alikes import show_one_thing
from sam2_ros.tracking.mask_follower import FollowedMask, MaskFollower
from sam2_ros.tracking.objects import LiveObject
from sam2_ros.tracking.types import CroppedMask, ObjectState
from sam2_ros.tracking.windows import MOST, Window

LOOK = 1.0  # work of tracking one object in it: memory attention, mask decoder, memory encoder
DOUBT = 5.0  # frames of waiting that a mask which is not found counts as


class LookScheduler:
    """Chooses the objects of a frame that wait for a later one. Not thread-safe.

    Args:
        encode: work of encoding a window, in times of :data:`LOOK` (:func:`encode_work`).
        larger: see rule 1 (:func:`larger_work`).
    """

    def __init__(self, encode: float, larger: float = 1.0) -> None:
        self._encode, self._larger = encode, larger
        self._follower = MaskFollower()
        self._credit = 0.0  # work that frames before left, or took too much

    def waiting(
        self,
        windows: Sequence[tuple[LiveObject, Window]],
        image: NDArray[np.uint8] | None,
        frame: int,
        size: tuple[int, int],
        budget: float,
        searches: bool,
        motion: Motion = STANDING,
    ) -> dict[int, FollowedMask]:
        """The objects, by their ids, at which the network does not look on the next frame, and the masks that are
        carried there.

        Args:
            windows: the objects that are to be tracked on it, and the window that each of them needs.
            image: RGB ``uint8 [h, w, 3]``.
            frame: its number.
            size: its width and height, pixels.
            budget: see rule 1; 0 = no limit.
            searches: whether the whole frame is searched for hidden objects.
            motion: of the picture, from the frame before.
        """
        self._follower.add_image(image if budget else None, frame, size)
        income = budget * self._larger * (self._encode + LOOK * len(windows)) - 2 * self._encode * searches
        views = {window for _, window in windows}
        if not budget or len(windows) < 2 or (budget >= 1 and views == {Window.whole(*size)}):
            self._credit = 0.0
            return {}
        left = self._credit + income
        if LOOK * len(windows) + self._encode * len(views) <= left + 1e-9 and len(views) <= MOST:
            self._credit = min(left - LOOK * len(windows) - self._encode * len(views), self._encode + LOOK)
            return {}
        visible = [obj for obj, _ in windows if obj.state is ObjectState.VISIBLE]
        followed = self._follower.carry(visible, motion)
        limit = left if 2 * len(followed) >= len(visible) else math.inf
        meeting = _meeting(followed)
        ranked = sorted(windows, key=lambda each: (-_urgency(each[0], frame, followed, meeting), each[0].object_id))
        spent, seen, waiting = 0.0, set[Window](), dict[int, FollowedMask]()
        for obj, window in ranked:
            opens = window not in seen
            work = LOOK + (self._encode if opens else 0.0)
            if seen and (spent + work > limit + 1e-9 or (opens and len(seen) == MOST)):
                nothing = FollowedMask(obj.mask, CroppedMask.empty(*size), 0.0)
                waiting[obj.object_id] = followed.get(obj.object_id, nothing)
                continue
            spent += work
            seen.add(window)
        self._credit = min(max(left - spent, -(self._encode + LOOK)), self._encode + LOOK)
        return waiting


def encode_work(model: ModelConfig) -> float:
    """About how many times as long it takes to encode an image as to track one object in it: 2.5 for the embedded
    model and the smallest Hiera, and more for larger encoders, by their multiplications."""
    smallest = 12 * 96**2  # blocks times channels squared; Hiera halves the map's side where it doubles the channels
    work = {
        "hiera": sum(model.hiera.stages) * model.hiera.embed_dim**2,
        "sam3": model.rotary_vit.depth * model.rotary_vit.width**2 / 16,  # its map has a quarter of the side
    }
    return 2.5 * max(1.0, work.get(model.trunk, 0) / smallest)


def larger_work(model: ModelConfig, window_side: int) -> float:
    """About how many times as long a frame takes with the input of whole frames as with that of windows: of the
    embedded model, measured with one and four objects, 1.25 and 1.29."""
    return 1.27 if (model.trunk, model.image_size, window_side) == ("tinyvit", WHOLE_SIDE, WINDOW_SIDE) else 1.0


def _meeting(followed: Mapping[int, FollowedMask]) -> set[int]:
    """The objects whose carried masks show one thing: only the network tells them apart."""
    pairs = combinations(followed, 2)
    return {each for pair in pairs if show_one_thing(*(followed[key].mask for key in pair)) for each in pair}


def _urgency(obj: LiveObject, frame: int, followed: Mapping[int, FollowedMask], meeting: Collection[int]) -> float:
    waited = frame - obj.looked_frame
    if obj.state is not ObjectState.VISIBLE:
        return waited + (DOUBT if obj.presence.last_seen_frame >= obj.looked_frame else 0.0)
    found = followed.get(obj.object_id)
    trust = 0.0 if found is None or obj.object_id in meeting else found.trust
    return waited + DOUBT * (1.0 - trust)
