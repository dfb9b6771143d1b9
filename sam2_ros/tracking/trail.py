"""Where an object was seen lately, and which parts of a mask are its own. Free of torch.

The idea of a motion prior is SAMURAI's (Yang et al., 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from sam2_ros.tracking.camera_motion import Motion
from sam2_ros.tracking.types import CroppedMask

Numbers: TypeAlias = NDArray[np.float64]

SIGHTINGS = 10  # most in a trail
MOTION_GAP = 15  # frames since the last sighting after which no position is predicted
STEADY = 0.4  # share by which an area may differ from the recent median; beyond it, objects may have merged
PART = 0.3  # share of that median from which on a part of a mask counts as large
NEAR = 0.25  # share of its size by which a box is widened each frame; parts with their centre inside are near


@dataclass(frozen=True)
class Trail:
    """Where an object was seen lately."""

    frames: tuple[int, ...] = ()  # the newest last
    boxes: tuple[tuple[float, float, float, float], ...] = ()  # x0, y0, x1, y1, shares of the frame
    areas: tuple[float, ...] = ()  # shares of the frame
    decided: int = -1  # newest frame on which it was seen, at whatever size, and told from its look-alikes
    met: int = -1_000_000  # newest frame on which it met a look-alike
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
            decided=frame,
        )

    def carried(self, frame: int, mask: CroppedMask) -> Trail:
        """The trail after a frame to which the object's ``mask`` was carried: as sure of it as of the frame before."""
        if self.decided != frame - 1:
            return self
        if self.frames[-1] != frame - 1:
            return replace(self, decided=frame)
        size = mask.width, mask.height, mask.width, mask.height
        box = [edge / side for edge, side in zip(mask.box, size, strict=True)]
        return self.seen(frame, box, mask.area / (mask.width * mask.height))

    def moved(self, motion: Motion) -> Trail:
        """Its boxes in the picture of the next frame, to which the camera moved."""
        return replace(self, boxes=tuple(motion.moved(box) for box in self.boxes))

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

    @property
    def step(self) -> Numbers:
        """Motion from the sighting before to the newest one (``[2]`` x, y, shares of the frame for each frame)."""
        return replace(self, frames=self.frames[-2:], boxes=self.boxes[-2:]).speed

    @property
    def usual_size(self) -> Numbers:
        """Median width and height (``[2]``), shares of the frame; 0 where it was never seen."""
        boxes = np.reshape(np.array(self.boxes, np.float64), (-1, 4))
        return np.median(boxes[:, 2:] - boxes[:, :2], axis=0) if len(boxes) else np.zeros(2)


@dataclass(frozen=True)
class Parts:
    """Connected parts of one object's mask; boxes and areas in shares of the frame."""

    areas: Numbers  # [N]
    boxes: Numbers  # [N, 4]

    @property
    def all(self) -> NDArray[np.bool_]:
        """A selection of every part (``[N]``)."""
        return np.ones(len(self.areas), np.bool_)


def own_parts(parts: Parts, trail: Trail, frame: int) -> NDArray[np.bool_]:
    """Which parts of its mask are an object's own (``[N]``): those near where it was heading."""
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
