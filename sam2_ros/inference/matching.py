"""Matches detections with objects: by overlap where an object's box can be trusted, else by its last trusted box.

A mask may swell over something beside its object. Its box is then much larger than when a detection last agreed with
it. Such a box matches only a detection that confirms it, and does not hide what is detected within it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Boxes: TypeAlias = NDArray[np.float64]
"""``[N, 4]`` of x0, y0, x1, y1, edges in pixels."""

Box: TypeAlias = tuple[float, float, float, float]
"""Edges x0, y0, x1, y1 in pixels."""

COVERED = 0.7  # common share of the smaller box from which two boxes are parts of one object
LIKE = 2.5  # ratio of areas up to which two boxes have similar sizes
CONFIRMED = 0.5  # IoU from which a detection confirms a swollen box
SWOLLEN_DISTANCE = 0.75  # diagonals that an object with a swollen box may have moved from its last trusted box
_IMPOSSIBLE = 1e6  # cost of a pair beyond the gate
TENTATIVE_DISTANCE = 1.0  # diagonals that something new may move between two messages


@dataclass(frozen=True)
class Detection:
    """One box of a detector."""

    box: Box
    label: str = ""
    score: float = 1.0


@dataclass(frozen=True)
class Track:
    """A living object as a detector's message finds it."""

    object_id: int
    label: str
    box: Box | None  # on the frame that the detector saw; None = not visible
    last_box: Box | None  # its last trusted box
    usual_area: float = 0.0  # of the last agreeing detection or prompt; 0 = none
    quality: float = 1.0  # predicted IoU

    @property
    def swollen(self) -> bool:
        return self.box is not None and is_swollen(self.box, self.usual_area)


@dataclass(frozen=True)
class Match:
    """A detection of an object; ``agreement`` is the IoU of both boxes, 0 for an object that is not visible."""

    detection: Detection
    track: Track
    agreement: float


@dataclass
class Matches:
    """The detections of one message."""

    visible: list[Match] = field(default_factory=list)  # of visible objects
    hidden: list[Match] = field(default_factory=list)  # of objects that are not visible
    left: list[Detection] = field(default_factory=list)  # of no object


def match(detections: Sequence[Detection], tracks: Sequence[Track], min_iou: float, reach: float) -> Matches:
    """Assigns detections to tracks: first by IoU (at least ``min_iou``), then by distance to the last trusted
    box (at most ``reach`` of its diagonals)."""
    boxes = as_array(detection.box for detection in detections)
    overlap = ious(boxes, as_array(track.box or _NOWHERE for track in tracks))
    gates = np.array([max(min_iou, CONFIRMED) if track.swollen else min_iou for track in tracks])
    pairs = assign(1 - overlap, overlap >= gates[None])
    # A detection on a visible object is not a hidden one.
    trusted = np.array([track.box is not None and not track.swollen for track in tracks], bool)
    free = np.array((overlap[:, trusted] < min_iou).all(axis=1))
    free[[row for row, _ in pairs]] = False
    searched = np.array([track.last_box is not None for track in tracks], bool)
    searched[[column for _, column in pairs]] = False
    away, like = _nearness(boxes, as_array(track.last_box or _NOWHERE for track in tracks))
    reaches = np.array([reach if track.box is None else min(reach, SWOLLEN_DISTANCE) for track in tracks])
    labels, known = (np.array([each.label for each in some], object) for some in (detections, tracks))
    fits = (labels[:, None] == known[None]) | (labels[:, None] == "") | (known[None] == "")
    near = (away <= reaches[None]) & like & fits
    pairs += assign(np.minimum(away, 1000), near & free[:, None] & searched[None])
    found = Matches()
    for row, column in pairs:
        pair = Match(detections[row], tracks[column], float(overlap[row, column]))
        (found.hidden if pair.track.box is None else found.visible).append(pair)
    matched = {row for row, _ in pairs}
    found.left = [detection for row, detection in enumerate(detections) if row not in matched]
    return found


def pair_up(boxes: Iterable[Box], earlier: Iterable[Box]) -> dict[int, int]:
    """Which of ``boxes`` continues which box of an earlier message: a near one of similar size. They need not overlap,
    because something narrow leaves its box within a few frames."""
    away, like = _nearness(as_array(boxes), as_array(earlier))
    return dict(assign(np.minimum(away, 1000), (away <= TENTATIVE_DISTANCE) & like))


def without_doubles(left: Sequence[Detection], known: Sequence[Box]) -> list[Detection]:
    """The detections that cover neither an object nor a detection of higher score, by falling score."""
    by_score = sorted(left, key=lambda detection: -detection.score)
    boxes = as_array(detection.box for detection in by_score)
    double = np.array((coverages(boxes, as_array(known)) >= COVERED).any(axis=1))
    doubles = coverages(boxes, boxes) >= COVERED
    for row in range(len(boxes)):
        if not double[row]:
            double[row + 1 :] |= doubles[row, row + 1 :]
    return [detection for detection, gone in zip(by_score, double, strict=True) if not gone]


def is_swollen(box: Box, usual_area: float) -> bool:
    """Whether a box is much larger than it was when a detection last agreed with it."""
    return bool(usual_area) and area(box) > LIKE * usual_area


def area(box: Box) -> float:
    """Square pixels."""
    return float(areas(as_array([box]))[0])


def as_array(boxes: Iterable[Box]) -> Boxes:
    """``[N, 4]`` of N boxes."""
    return np.array(list(boxes), np.float64).reshape(-1, 4)


_NOWHERE: Box = (0.0, 0.0, 0.0, 0.0)


def _nearness(boxes: Boxes, known: Boxes) -> tuple[Boxes, np.ndarray]:
    """Distances in diagonals of ``known``, and whether the sizes are similar; both ``[N, M]``."""
    ratio = areas(boxes)[:, None] / np.maximum(areas(known)[None], 1.0)
    return distances(boxes, known), (ratio > 1 / LIKE) & (ratio < LIKE)


def intersections(first: Boxes, second: Boxes) -> NDArray[np.float64]:
    """Common area of every box of ``first`` with every one of ``second``, ``[N, M]``, square pixels."""
    sides = [
        np.minimum(first[:, None, axis + 2], second[None, :, axis + 2])
        - np.maximum(first[:, None, axis], second[None, :, axis])
        for axis in (0, 1)
    ]
    return np.asarray(np.maximum(sides[0], 0) * np.maximum(sides[1], 0), np.float64)


def areas(boxes: Boxes) -> NDArray[np.float64]:
    """``[N]`` square pixels."""
    return np.asarray(np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), axis=1), np.float64)


def ious(first: Boxes, second: Boxes) -> NDArray[np.float64]:
    """Intersection over union of every pair, ``[N, M]``."""
    common = intersections(first, second)
    union = areas(first)[:, None] + areas(second)[None] - common
    return common / np.maximum(union, 1e-9)


def coverages(first: Boxes, second: Boxes) -> NDArray[np.float64]:
    """Common area of every pair as a share of the smaller box, ``[N, M]``: 1 where one lies in the other."""
    smaller = np.minimum(areas(first)[:, None], areas(second)[None])
    return intersections(first, second) / np.maximum(smaller, 1e-9)


def distances(first: Boxes, second: Boxes) -> NDArray[np.float64]:
    """Between the middles of every pair, as a multiple of the diagonal of the box of ``second``, ``[N, M]``."""
    middles, others = (first[:, :2] + first[:, 2:]) / 2, (second[:, :2] + second[:, 2:]) / 2
    diagonals = np.maximum(np.hypot(*(second[:, 2:] - second[:, :2]).T), 1.0)
    dx, dy = (middles[:, None, axis] - others[None, :, axis] for axis in (0, 1))
    return np.asarray(np.hypot(dx, dy) / diagonals[None], np.float64)


def assign(costs: NDArray[np.float64], allowed: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Pairs (row, column) of least total cost among those ``allowed``, as many pairs as possible first.

    The Hungarian method (Kuhn 1955), as SORT uses it (Bewley et al. 2016). Both arrays are ``[N, M]``, costs lie in
    [0, 1000].
    """
    if not costs.size:
        return []
    rows, columns = linear_sum_assignment(np.where(allowed, costs, _IMPOSSIBLE))
    return [(int(row), int(column)) for row, column in zip(rows, columns, strict=True) if allowed[row, column]]
