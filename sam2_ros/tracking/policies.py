"""Memory policies: which of the decoder's candidates an object is, and which frames it is remembered by.

A policy answers four questions about the objects of a pass; what it must know of the past is each object's
:class:`Trail`. Free of torch. The ideas are those of SAMURAI (Yang et al., 2024: a motion prior, and only good frames
in the memory), SAM2Long (Ding et al., 2024: trust the predicted IoU) and DAM4SAM (Videnovic et al., 2025: keep frames
on which a distractor was told apart); the rules are simpler than theirs, and ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Numbers: TypeAlias = NDArray[np.float64]

SIGHTINGS = 10  # that a trail keeps
MOTION_GAP = 15  # frames since the last sighting after which nothing is predicted any more
MOTION_WEIGHT = 0.3  # of the agreement with the motion, against the predicted IoU
STEADY = 0.4  # share by which an area may differ from the median of the last ones to be the object's alone
PART = 0.3  # share of that median from which on a part of a mask may be a look-alike
NEAR = 0.25  # share of its size a frame by which a box is widened: parts with their middle in there are the object's
SURE_IOU = 0.8  # from which on a frame may be an anchor
ANCHOR_EVERY = 5  # frames between two anchors of an object


@dataclass(frozen=True)
class Trail:
    """Where an object was seen lately."""

    frames: tuple[int, ...] = ()  # the newest last
    boxes: tuple[tuple[float, float, float, float], ...] = ()  # x0, y0, x1, y1, shares of the frame
    areas: tuple[float, ...] = ()  # shares of the frame
    anchor: int = -ANCHOR_EVERY  # its newest anchor frame
    extent: tuple[float, float] = (0.0, 0.0)  # width and height of all that its newest prompt meant, likewise

    def seen(self, frame: int, box: Sequence[float], area: float) -> Trail:
        """The trail with a sighting more; one on the same frame, before a prompt, gives way to it."""
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
        """Whether ``area`` is about what it was lately: where the object merges with another one, it is not."""
        return not self.areas or abs(area - self.usual_area) <= STEADY * self.usual_area

    def predicted(self, frame: int) -> Numbers | None:
        """The box (``[4]``) on ``frame`` if it goes on at the speed of its last five sightings, or stays where its only
        one was; None where it was not seen, or not lately."""
        if not self.frames or frame - self.frames[-1] > MOTION_GAP:
            return None
        boxes = np.array(self.boxes[-5:], np.float64)
        elapsed = max(1, self.frames[-1] - self.frames[-len(boxes)])
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        step = (centre[-1] - centre[0]) / elapsed * (frame - self.frames[-1])
        return np.asarray(boxes[-1] + np.tile(step, 2), np.float64)

    def reach(self, frame: int) -> float:
        """Share of its size by which the predicted box is widened on every side: the more, the longer unseen."""
        return NEAR * max(1, frame - self.frames[-1]) if self.frames else NEAR


@dataclass(frozen=True)
class Parts:
    """Connected parts of one object's mask; boxes and areas in shares of the frame."""

    areas: Numbers  # [N]
    boxes: Numbers  # [N, 4]

    @property
    def all(self) -> NDArray[np.bool_]:
        """The choice of every part (``[N]``)."""
        return np.ones(len(self.areas), np.bool_)


class MemoryPolicy:
    """``recent`` without ``reject_strays``, as in SAM 2: the candidate of best predicted IoU, whole, and every frame is
    remembered."""

    description = "as SAM 2"  # for the parameter memory_policy
    looks = False  # whether it needs the parts of masks on the host, and keeps trails
    chooses = False  # whether it needs the candidates there, too
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
        """Whether such a frame is kept as an anchor (``[B]``); ``rejected``: parts of the mask were not its own."""
        return np.zeros(len(ious), np.bool_)


class RecentPolicy(MemoryPolicy):
    """``recent``: of a mask that falls into parts, only those near where the object was heading are shown and
    remembered; otherwise as in SAM 2."""

    looks = True

    def own_parts(self, parts: Parts, trail: Trail, frame: int) -> NDArray[np.bool_]:
        home = trail.predicted(frame)
        if home is None:
            return parts.all
        large = parts.areas >= PART * trail.usual_area
        far = _distances(parts, home, trail.reach(frame), trail.extent)
        near = far <= 1
        if large.any() and not (near & large).any():
            # It did not go on as it was heading: the large part that did so most is it, with what is about that.
            home = parts.boxes[np.flatnonzero(large)[far[large].argmin()]]
            near = _distances(parts, home, NEAR, trail.extent) <= 1
        return near if near.any() else np.ones_like(near)


class DistractorPolicy(RecentPolicy):
    """``distractor_aware``: tells look-alikes apart.

    Of candidates about as good it takes the one where the object was heading. It remembers all recent frames but those
    on which objects merge, and keeps sure frames on which a look-alike was rejected as anchors.
    """

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
    """The policy of this name; without ``rejects_strays`` masks stay whole with ``recent`` (to leave parts out is what
    the others are about)."""
    return MemoryPolicy() if name == "recent" and not rejects_strays else POLICIES[name]()


def parts_within(parts: Parts, box: Numbers) -> NDArray[np.bool_]:
    """Which parts of the mask that a box prompt gave are meant (``[N]``): those with their middle in the box (shares of
    the frame), or near it; all where there is none."""
    near = _distances(parts, box, NEAR) <= 1
    return near if near.any() else np.ones_like(near)


def box_iou(boxes: Numbers, box: Numbers) -> Numbers:
    """Intersection over union of ``boxes`` (``[N, 4]``) with ``box`` (``[4]``), ``[N]``; 0 for empty ones."""
    inner = np.concatenate((np.maximum(boxes[:, :2], box[:2]), np.minimum(boxes[:, 2:], box[2:])), axis=1)
    common = _size(inner)
    union = _size(boxes) + _size(box) - common
    return np.asarray(common / np.maximum(union, 1e-9))


def _distances(parts: Parts, home: Numbers, reach: float, extent: tuple[float, float] = (0.0, 0.0)) -> Numbers:
    """How far the middle of each part lies from that of ``home`` (``[N]``); 1 at the edge of that box, no smaller than
    ``extent``, widened by ``reach`` of its size on every side."""
    middle, half = (home[:2] + home[2:]) / 2, np.maximum(home[2:] - home[:2], extent) * (0.5 + reach)
    away = np.abs((parts.boxes[:, :2] + parts.boxes[:, 2:]) / 2 - middle) / np.maximum(half, 1e-9)
    return np.asarray(away.max(axis=1, initial=0.0))


def _size(boxes: Numbers) -> Numbers:
    sides = np.clip(boxes[..., 2:] - boxes[..., :2], 0, None)
    return np.asarray(sides[..., 0] * sides[..., 1])


def _steady(areas: Numbers, trails: Sequence[Trail]) -> NDArray[np.bool_]:
    return np.array([trail.is_steady(float(area)) for area, trail in zip(areas, trails, strict=True)])
