"""Tells objects apart where their masks meet, those that look alike above all. Free of torch.

The memory of one of two equal things fits the other as well, so that both masks may end on one of them. Where they
were heading tells them apart. The rules:

1. Objects *look alike* if the encoder's features on their prompted masks agree (:data:`ALIKE`), and their sizes
   (:data:`SIZES`).
2. The *place* of an object is its last box, moved on at constant velocity (:class:`~sam2_ros.tracking.trail.Trail`).
3. Two look-alikes *meet* where their masks share pixels (:data:`SHARED`). For :data:`PARTING`
   frames after that, they also meet where each mask fits the other's place better than its own (:data:`SWAPPED`). Masks
   that only touch do not meet.
4. The masks of those that meet are united. Each connected part has room for as many objects as fit into its area, the
   largest first, and :data:`ROOM` of the last one. One assignment (Hungarian) gives the objects to parts, so that the
   parts are nearest to the places and have the objects' usual sizes. Places of objects that were not seen lately count
   less (:data:`UNSURE`). An object for which there is no room is hidden. In front are those that were there on the
   frame before (:data:`HIDDEN`), and then those that fit best.
5. A part with several objects is divided: each pixel goes to the nearest place.
6. Whether they look alike or not: where the masks of two objects show one thing (:data:`SAME`), though none of their
   last boxes lay in the other one, it is the one's whose place is nearer. The other one has what is left of its mask,
   or is hidden if that is less than :data:`LEFT` of its usual area.
7. An object that shares its part, or has none, is *undecided*: the frame enters neither its memory nor its trail.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from sam2_ros.tracking.trail import MOTION_GAP, Trail
from sam2_ros.tracking.types import BoolMask, CroppedMask

Numbers: TypeAlias = NDArray[np.float64]
Look: TypeAlias = NDArray[np.float32]
Pairs: TypeAlias = NDArray[np.bool_]

ALIKE = 0.95  # cosine of two looks
SIZES = 2.0  # times as large as the other one, at most
SHARED = 0.15  # share of the smaller mask
SWAPPED = 0.5  # by which the distances from the places must be less the other way round, in halves of an object's size
UNSURE = 0.15  # share of itself by which a place grows with every frame since the object was seen
HIDDEN = 100.0  # cost of a part for an object that was not there on the frame before; more than any distance
PARTING = 10  # frames after they met for which two look-alikes may still change places
ROOM = 0.3  # of the usual area of one more object; beyond the larger ones, a part then has room for it
SAME = 0.4  # IoU from which on two masks show one thing; share of the smaller box that then lies in the other one
LEFT = 0.5  # of a usual area; what is left of a mask beside another one's thing
SPECK = 0.2  # of a usual area, below which a part has room for none


@dataclass(frozen=True)
class Claim:
    """What is known of one object before a frame, and its mask there."""

    trail: Trail
    mask: CroppedMask  # of the window, in pixels of the network's masks
    seen: bool  # whether the network sees it
    score: float = 0.0  # logit that it is the object


@dataclass(frozen=True)
class Division:
    """The masks of the objects that met."""

    masks: dict[int, BoolMask]  # [h, w] by index, in pixels of the network's masks
    undecided: frozenset[int]


@dataclass(frozen=True)
class _Place:
    """Where an object is expected, in pixels of the masks."""

    centre: Numbers  # [2] x, y
    half: Numbers  # [2] half its width and height
    area: float  # usual
    unsure: float  # 1 at a sighting, and more the longer that is ago
    there: bool  # seen on the frame before, and told from its look-alikes
    met: bool  # one of them lately

    @classmethod
    def of(cls, claim: Claim, frame: int, window: tuple[float, float, float, float]) -> _Place | None:
        trail, mask = claim.trail, claim.mask
        if not (trail.frames and claim.seen and mask.crop.size):
            return None
        box = trail.predicted(min(frame, trail.frames[-1] + MOTION_GAP))
        assert box is not None
        scale = np.array([mask.width / window[2], mask.height / window[3]])
        low, high = (box[:2] - window[:2]) * scale, (box[2:] - window[:2]) * scale
        area = max(1.0, trail.usual_area * float(scale.prod()))
        unsure = 1 + UNSURE * (frame - trail.frames[-1])
        return cls(
            (low + high) / 2,
            np.maximum((high - low) / 2, 0.5),
            area,
            unsure,
            trail.decided >= frame - 1,
            frame - trail.met <= PARTING,
        )

    def away(self, point: Numbers) -> float:
        """Distance of a point, in halves of the object's size; less where the place is unsure."""
        return float(np.linalg.norm(point - self.centre) / self.half.mean() / self.unsure)

    def cost(self, low: Numbers, high: Numbers, area: float) -> float:
        """Of being in the box from ``low`` to ``high`` with a mask of ``area``."""
        size = abs(float(np.log(area / self.area)))
        return self.away(self.within(low, high)) + size + (0.0 if self.there else HIDDEN)

    def misfit(self, claim: Claim, size: float) -> float:
        """How badly a claim's mask fits the place: the distance in ``size``, the ratio of areas (natural logarithm),
        and against that the score."""
        x0, y0, x1, y1 = claim.mask.box
        away = float(np.linalg.norm(np.array([x0 + x1, y0 + y1]) / 2 - self.centre)) / size / self.unsure
        return away + abs(float(np.log(claim.mask.area / self.area))) - claim.score

    def within(self, low: Numbers, high: Numbers) -> Numbers:
        """The centre, moved so far that the object fits into the box from ``low`` to ``high`` if it can."""
        low, high = low + self.half, high - self.half
        middle = (low + high) / 2
        return np.clip(self.centre, np.minimum(low, middle), np.maximum(high, middle))


def alike(looks: Sequence[Look | None]) -> Pairs:
    """Which pairs of ``B`` objects look alike (``[B, B]``, the upper triangle).

    ``looks`` are unit vectors ``[C]``; None is not known.
    """
    table = np.zeros((len(looks), len(looks)), np.bool_)
    known = [index for index, look in enumerate(looks) if look is not None]
    if len(known) > 1:
        stacked = np.stack([look for look in looks if look is not None])
        table[np.ix_(known, known)] = np.triu(stacked @ stacked.T >= ALIKE, 1)
    return table


def divide(
    claims: Sequence[Claim], pairs: Pairs, frame: int, window: tuple[float, float, float, float]
) -> Division | None:
    """Divides the masks of those that meet on ``frame``; None if none do.

    ``pairs`` (``[B, B]``) are those that look alike. ``window``: left and upper edge, width and height of what the
    masks show, shares of the frame.
    """
    places = {
        index: place
        for index, claim in enumerate(claims)
        if (pairs[index].any() or pairs[:, index].any()) and (place := _Place.of(claim, frame, window)) is not None
    }
    met = [
        (one, other)
        for one, other in zip(*(index.tolist() for index in np.nonzero(pairs)), strict=True)
        if one in places and other in places and _meet(claims[one].mask, claims[other].mask, places[one], places[other])
    ]
    masks: dict[int, BoolMask] = {}
    undecided: set[int] = set()
    for members in _groups(met):
        own, decided = _divided([claims[index].mask for index in members], [places[index] for index in members])
        masks.update(zip(members, own, strict=True))
        undecided.update(index for position, index in enumerate(members) if position not in decided)
    usurpers = _usurpers(claims, [index for index in range(len(claims)) if index not in masks], frame, window)
    for index, owner in usurpers.items():
        masks[index] = _left_of(claims[index], claims[owner].mask, frame, window)
        undecided.add(index)
    return Division(masks, frozenset(undecided)) if masks else None


def _usurpers(
    claims: Sequence[Claim], which: Sequence[int], frame: int, window: tuple[float, float, float, float]
) -> dict[int, int]:
    """Those of ``which`` whose mask shows another one's thing, each with that one."""
    found: dict[int, int] = {}
    for one, other in combinations(which, 2):
        first, second = claims[one], claims[other]
        if found.keys() & {one, other} or not _shows_one_thing(first, second):
            continue
        place, its = _Place.of(first, frame, window), _Place.of(second, frame, window)
        if place is not None and its is not None:
            size = float(place.half.mean() + its.half.mean()) / 2
            owns = place.misfit(first, size) <= its.misfit(second, size)
            found[other if owns else one] = one if owns else other
    return found


def _left_of(claim: Claim, thing: CroppedMask, frame: int, window: tuple[float, float, float, float]) -> BoolMask:
    """What of a mask lies beside another one's ``thing``; nothing if that is too little to be the object."""
    left = claim.mask.full() & ~thing.full()
    place = _Place.of(claim, frame, window)
    assert place is not None
    return left & (np.count_nonzero(left) >= LEFT * place.area)


def _shows_one_thing(one: Claim, other: Claim) -> bool:
    """Whether the masks of two things show the same one now."""
    if not show_one_thing(one.mask, other.mask):
        return False
    if not (one.trail.boxes and other.trail.boxes):
        return False
    first, second = np.array(one.trail.boxes[-1]), np.array(other.trail.boxes[-1])
    sides = np.clip(np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2]), 0, None)
    least = min((first[2:] - first[:2]).prod(), (second[2:] - second[:2]).prod())
    return bool(sides.prod() < SAME * least)


def show_one_thing(one: CroppedMask, other: CroppedMask) -> bool:
    """Whether two masks, in pixels of one image, show the same."""
    common = _common(one, other)
    return common > 0 and common >= SAME * (one.area + other.area - common)


def _meet(one: CroppedMask, other: CroppedMask, place: _Place, its: _Place) -> bool:
    if max(place.area, its.area) > SIZES * min(place.area, its.area):
        return False
    if _common(one, other) >= SHARED * max(1, min(one.area, other.area)):
        return True
    if not (place.met and its.met):
        return False
    centre, other_centre = _centre(one), _centre(other)
    right = place.away(centre) + its.away(other_centre)
    return place.away(other_centre) + its.away(centre) < right - SWAPPED


def _centre(mask: CroppedMask) -> Numbers:
    moments = cv2.moments(mask.crop.view(np.uint8), binaryImage=True)
    x, y = moments["m10"] / moments["m00"], moments["m01"] / moments["m00"]
    return np.array([mask.x + x + 0.5, mask.y + y + 0.5])


def _common(one: CroppedMask, other: CroppedMask) -> int:
    """The pixels that two masks share."""
    x0, y0 = max(one.x, other.x), max(one.y, other.y)
    x1, y1 = min(one.box[2], other.box[2]), min(one.box[3], other.box[3])
    if x1 <= x0 or y1 <= y0:
        return 0
    first, second = (mask.crop[y0 - mask.y : y1 - mask.y, x0 - mask.x : x1 - mask.x] for mask in (one, other))
    return int(np.count_nonzero(first & second))


def _groups(pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Those that are connected by pairs."""
    groups: list[set[int]] = []
    for pair in pairs:
        joined = set(pair).union(*(group for group in groups if group & set(pair)))
        groups = [group for group in groups if not group & joined] + [joined]
    return [sorted(group) for group in groups]


def _room(area: float, sizes: Sequence[float]) -> int:
    """For how many objects of these usual ``sizes`` (areas) a part of ``area`` has room."""
    if area < SPECK * float(np.mean(sizes)):
        return 0
    larger = np.sort(sizes)[::-1]
    least = np.cumsum(larger) - (1 - ROOM) * larger  # all larger ones, and a share of the last
    return max(1, int(np.count_nonzero(area >= least)))


def _divided(masks: Sequence[CroppedMask], places: Sequence[_Place]) -> tuple[list[BoolMask], set[int]]:
    """The masks (``[h, w]``) of objects that meet, and which of them are decided."""
    full = [mask.full() for mask in masks]
    union = np.logical_or.reduce(full)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(union.view(np.uint8), connectivity=8)
    low, high = stats[:, :2].astype(np.float64), (stats[:, :2] + stats[:, 2:4]).astype(np.float64)
    sizes = [place.area for place in places]
    room = [_room(area, sizes) for area in stats[:, 4].tolist()]
    slots = [part for part in range(1, count) for _ in range(room[part])]
    costs = [[place.cost(low[part], high[part], stats[part, 4] / room[part]) for part in slots] for place in places]
    members: dict[int, list[int]] = {}
    for index, slot in zip(*linear_sum_assignment(np.reshape(costs, (len(places), len(slots)))), strict=True):
        members.setdefault(slots[slot], []).append(int(index))
    rest = np.isin(labels, [0, *members], invert=True)  # parts that are nobody's stay whose they were
    own = [mask & rest for mask in full]
    for part, sharing in members.items():
        rows, columns = np.nonzero(labels == part)
        middles = columns + 0.5, rows + 0.5
        away = []
        for index in sharing:
            (x, y), (half_x, half_y) = places[index].within(low[part], high[part]), places[index].half
            away.append(((middles[0] - x) / half_x) ** 2 + ((middles[1] - y) / half_y) ** 2)
        nearest = np.argmin(away, axis=0)
        for position, index in enumerate(sharing):
            own[index][rows[nearest == position], columns[nearest == position]] = True
    return own, {sharing[0] for sharing in members.values() if len(sharing) == 1}
