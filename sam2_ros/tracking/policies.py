"""Memory policies: which of the decoder's candidates an object is, and which frames enter its memory.

A policy answers four questions about the objects of a pass; each object's :class:`Trail` tells it about the past. To
add one, derive it from :class:`RecentPolicy`, which removes stray parts, give it a ``description`` and list it in
:data:`POLICIES`. Free of torch. The ideas are those of
SAMURAI (Yang et al., 2024: a motion prior) and DAM4SAM (Videnovic et al., 2025: remember frames that tell a distractor
apart); the rules are ours, and simpler.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Numbers: TypeAlias = NDArray[np.float64]

SIGHTINGS = 10  # most in a trail
MOTION_GAP = 15  # frames since the last sighting after which no position is predicted
MOTION_WEIGHT = 0.3  # of the overlap with the predicted box, beside the predicted IoU
STEADY = 0.4  # share by which an area may differ from the recent median; beyond it, objects may have merged
PART = 0.3  # share of that median from which on a part of a mask counts as large
NEAR = 0.25  # share of its size by which a box is widened each frame; parts with their centre inside are near
SURE_IOU = 0.8  # from which on a frame may be an anchor
ANCHOR_EVERY = 5  # least number of frames between two anchors of an object


@dataclass(frozen=True)
class Trail:
    """Where an object was seen lately."""

    frames: tuple[int, ...] = ()  # the newest last
    boxes: tuple[tuple[float, float, float, float], ...] = ()  # x0, y0, x1, y1, shares of the frame
    areas: tuple[float, ...] = ()  # shares of the frame
    anchor: int = -ANCHOR_EVERY  # its newest anchor frame
    extent: tuple[float, float] = (0.0, 0.0)  # width and height of its newest prompt's mask, shares of the frame

    def seen(self, frame: int, box: Sequence[float], area: float) -> Trail:
        """The trail with one more sighting, which replaces one on the same frame."""
        x0, y0, x1, y1 = box
        before = len(self.frames) - (frame in self.frames[-1:])
        return replace(
            self,
            frames=(*self.frames[:before], frame)[-SIGHTINGS:],
            boxes=(*self.boxes[:before], (x0, y0, x1, y1))[-SIGHTINGS:],
            areas=(*self.areas[:before], area)[-SIGHTINGS:],
        )

    @property
    def usual_area(self) -> float:
        """Share of the frame; 0 where it was never seen."""
        return float(np.median(self.areas)) if self.areas else 0.0

    def is_steady(self, area: float) -> bool:
        """Whether ``area`` is near the recent median. Where the object merges with another one, it is not."""
        return not self.areas or abs(area - self.usual_area) <= STEADY * self.usual_area

    def predicted(self, frame: int) -> Numbers | None:
        """The box (``[4]``) on ``frame`` at the mean speed of the last five sightings; None if none is recent."""
        if not self.frames or frame - self.frames[-1] > MOTION_GAP:
            return None
        step = self.speed * (frame - self.frames[-1])
        return np.asarray(np.array(self.boxes[-1]) + np.tile(step, 2), np.float64)

    @property
    def speed(self) -> Numbers:
        """Mean motion over the last five sightings (``[2]`` x, y, shares of the frame for each frame)."""
        if not self.frames:
            return np.zeros(2)
        boxes = np.array(self.boxes[-5:], np.float64)
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        elapsed = max(1, self.frames[-1] - self.frames[-len(boxes)])
        return np.asarray((centre[-1] - centre[0]) / elapsed)


@dataclass(frozen=True)
class Parts:
    """Connected parts of one object's mask; boxes and areas in shares of the frame."""

    areas: Numbers  # [N]
    boxes: Numbers  # [N, 4]

    @property
    def all(self) -> NDArray[np.bool_]:
        """A selection of every part (``[N]``)."""
        return np.ones(len(self.areas), np.bool_)


class MemoryPolicy:
    """``recent`` without ``reject_strays``, as in SAM 2: takes the candidate of best predicted IoU whole, and remembers
    every frame."""

    description = "as SAM 2"  # for the parameter memory_policy
    looks = False  # whether it needs the parts of masks on the host, and trails
    chooses = False  # whether it needs the candidates on the host, too
    anchors = 0  # slots of the memory bank for anchor frames, per object

    def choose(self, ious: Numbers, boxes: Numbers, trails: Sequence[Trail], frame: int) -> NDArray[np.int64]:
        """Which of its three candidates each object is (``[B]``, 0 to 2), by their predicted IoU (``[B, 3]``) and boxes
        (``[B, 3, 4]`` x0, y0, x1, y1, shares of the frame, all 0 for an empty mask)."""
        return np.argmax(ious, axis=1)

    def own_parts(self, parts: Parts, trail: Trail, frame: int) -> NDArray[np.bool_]:
        """Which parts of its mask are an object's own (``[N]``)."""
        return parts.all

    def enters(self, ious: Numbers, areas: Numbers, trails: Sequence[Trail]) -> NDArray[np.bool_]:
        """Whether a frame on which an object is seen enters its memory, by predicted IoU and area (``[B]``)."""
        return np.ones(len(ious), np.bool_)

    def anchored(
        self, ious: Numbers, areas: Numbers, rejected: NDArray[np.bool_], trails: Sequence[Trail], frame: int
    ) -> NDArray[np.bool_]:
        """Whether such a frame becomes an anchor (``[B]``); ``rejected``: parts of the mask were not its own."""
        return np.zeros(len(ious), np.bool_)


class RecentPolicy(MemoryPolicy):
    """``recent``: as in SAM 2, but takes only the parts of a mask that are near where the object was heading."""

    description = "every frame on which the mask is trusted"
    looks = True

    def own_parts(self, parts: Parts, trail: Trail, frame: int) -> NDArray[np.bool_]:
        home = trail.predicted(frame)
        if home is None:
            return parts.all
        large = parts.areas >= PART * trail.usual_area
        reach = NEAR * max(1, frame - trail.frames[-1])  # grows while the object is unseen
        far = _distances(parts, home, reach, trail.extent)
        near = far <= 1
        if large.any() and not (near & large).any():
            # The object moved otherwise: take the large part that is least far off, with the parts near that.
            home = parts.boxes[np.flatnonzero(large)[far[large].argmin()]]
            near = _distances(parts, home, NEAR, trail.extent) <= 1
        return near if near.any() else np.ones_like(near)


class DistractorPolicy(RecentPolicy):
    """``distractor_aware``: of candidates about as good it takes the one where the object was heading. It remembers all
    recent frames but those on which objects merge. Sure frames on which a part was rejected become anchors."""

    description = "also keeps frames on which a look-alike was told apart; three more slots an object"
    chooses = True
    anchors = 3

    def choose(self, ious: Numbers, boxes: Numbers, trails: Sequence[Trail], frame: int) -> NDArray[np.int64]:
        scores = ious.copy()
        for index, trail in enumerate(trails):
            predicted = trail.predicted(frame)
            if predicted is not None:
                agreement = box_iou(boxes[index], predicted)
                scores[index] = (1 - MOTION_WEIGHT) * scores[index] + MOTION_WEIGHT * agreement
        return np.argmax(scores, axis=1)

    def enters(self, ious: Numbers, areas: Numbers, trails: Sequence[Trail]) -> NDArray[np.bool_]:
        return _steady(areas, trails)

    def anchored(
        self, ious: Numbers, areas: Numbers, rejected: NDArray[np.bool_], trails: Sequence[Trail], frame: int
    ) -> NDArray[np.bool_]:
        waited = np.array([frame - trail.anchor >= ANCHOR_EVERY for trail in trails])
        return np.asarray(rejected & waited & (ious >= SURE_IOU) & _steady(areas, trails))


POLICIES: dict[str, type[MemoryPolicy]] = {"recent": RecentPolicy, "distractor_aware": DistractorPolicy}


def policy_of(name: str, rejects_strays: bool = True) -> MemoryPolicy:
    """The policy of this name. Without ``rejects_strays``, ``recent`` keeps masks whole; the setting changes no other
    policy."""
    return MemoryPolicy() if name == "recent" and not rejects_strays else POLICIES[name]()


def parts_within(parts: Parts, box: Numbers) -> NDArray[np.bool_]:
    """Which parts of a box prompt's mask count (``[N]``): those with their centre in or near the box (shares of the
    frame), or all if there is none."""
    near = _distances(parts, box, NEAR) <= 1
    return near if near.any() else np.ones_like(near)


def box_iou(boxes: Numbers, box: Numbers) -> Numbers:
    """Intersection over union of ``boxes`` (``[N, 4]``) with ``box`` (``[4]``), ``[N]``; 0 for empty ones."""
    inner = np.concatenate((np.maximum(boxes[:, :2], box[:2]), np.minimum(boxes[:, 2:], box[2:])), axis=1)
    common = _size(inner)
    union = _size(boxes) + _size(box) - common
    return np.asarray(common / np.maximum(union, 1e-9))


def _distances(parts: Parts, home: Numbers, reach: float, extent: tuple[float, float] = (0.0, 0.0)) -> Numbers:
    """Distance of each part's centre from that of the box ``home`` (``[N]``); 1 at the edge of the box, enlarged to
    ``extent`` at least and widened by ``reach`` of its size on every side."""
    centre, half = (home[:2] + home[2:]) / 2, np.maximum(home[2:] - home[:2], extent) * (0.5 + reach)
    away = np.abs((parts.boxes[:, :2] + parts.boxes[:, 2:]) / 2 - centre) / np.maximum(half, 1e-9)
    return np.asarray(away.max(axis=1, initial=0.0))


def _size(boxes: Numbers) -> Numbers:
    sides = np.clip(boxes[..., 2:] - boxes[..., :2], 0, None)
    return np.asarray(sides[..., 0] * sides[..., 1])


def _steady(areas: Numbers, trails: Sequence[Trail]) -> NDArray[np.bool_]:
    return np.array([trail.is_steady(float(area)) for area, trail in zip(areas, trails, strict=True)])
