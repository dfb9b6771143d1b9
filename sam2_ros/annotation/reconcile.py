"""Joins the tracks of both directions of time to objects, and says which images a person should look at.

A track forwards and one backwards are the same object if their masks agree on most of the images on which both see it.
So what one direction found late has the masks of the other before that, and parts of a track that were separated by a
gap are joined by what bridged it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from pycocotools import mask as coco

from sam2_ros.annotation.two_ways import Rle, Sighting, Track
from sam2_ros.inference.matching import Detection, as_array, ious

SAME = 0.5  # IoU from which on two masks, or a mask's box and a detection, show the same
ONE_SIDED = 0.5  # agreement where one direction sees an object and the other, which knows it, does not
UNCERTAIN = 0.5  # predicted IoU below which a person should look
COVERED = 0.3  # IoU with some mask's box below which a detection was missed


@dataclass(frozen=True)
class Mask:
    """An object in one image. ``score`` is predicted IoU x agreement x the detector's score."""

    frame: int
    object_id: int
    mask: Rle
    predicted_iou: float
    agreement: float | None = None  # IoU of both directions' masks; None: only one direction knew the object
    detection_score: float = 1.0

    @property
    def score(self) -> float:
        agreement = 1.0 if self.agreement is None else self.agreement
        return self.predicted_iou * agreement * self.detection_score


@dataclass(frozen=True)
class Reason:
    """Why to look at an image. ``kind``: "score", "disagreement", "swap" or "missed"; ``value``: 0 = most doubtful."""

    frame: int
    kind: str
    object_id: int  # 0 = none
    value: float


@dataclass
class Reconciled:
    """The objects of a recording."""

    labels: dict[int, str] = field(default_factory=dict)  # by id
    masks: list[Mask] = field(default_factory=list)  # by image, then id
    reasons: list[Reason] = field(default_factory=list)


@dataclass
class _Group:
    """One object: its tracks in each direction."""

    tracks: tuple[list[int], list[int]]  # forwards, backwards
    object_id: int = 0


def reconcile(
    forwards: Sequence[Track], backwards: Sequence[Track], found: Mapping[int, Sequence[Detection]]
) -> Reconciled:
    """
    Args:
        found: detections by the number of the image, for those that the detector saw.
    """
    both = (forwards, backwards)
    agreements = _agreements(forwards, backwards)
    groups = _groups(both, agreements)
    confirmed = [[_confirmed(track, found) for track in tracks] for tracks in both]
    groups.sort(key=lambda group: min(min(t.seen) for t in _members(group, both)))
    taken = {track.key for tracks in both for track in tracks}
    free = (number for number in range(1, 1 << 31) if number not in taken)
    result = Reconciled()
    for group in groups:
        members = _members(group, both)
        best = max(members, key=lambda track: track.label_score)
        group.object_id = best.key or next(free)
        result.labels[group.object_id] = best.label
        result.masks += _fused(group, both, confirmed, best.label_score)
    result.masks.sort(key=lambda mask: (mask.frame, mask.object_id))
    result.reasons = [*_doubts(result.masks), *_swaps(groups, agreements), *_missed(result.masks, found)]
    return result


def box_of(mask: Rle) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 in pixels."""
    x, y, width, height = coco.toBbox(mask).tolist()
    return x, y, x + width, y + height


def _members(group: _Group, both: tuple[Sequence[Track], Sequence[Track]]) -> list[Track]:
    return [tracks[index] for tracks, chosen in zip(both, group.tracks, strict=True) for index in chosen]


_Agreements = dict[tuple[int, int], dict[int, float]]  # IoU by image, of each pair that both directions see there


def _agreements(forwards: Sequence[Track], backwards: Sequence[Track]) -> _Agreements:
    found: _Agreements = defaultdict(dict)
    at: dict[int, list[int]] = defaultdict(list)
    for index, track in enumerate(backwards):
        for frame in track.seen:
            at[frame].append(index)
    for index, track in enumerate(forwards):
        for frame, sighting in track.seen.items():
            others = at[frame]
            if others:
                masks = [backwards[other].seen[frame].mask for other in others]
                row = coco.iou([sighting.mask], masks, [0] * len(masks))[0]
                for other, value in zip(others, row.tolist(), strict=True):
                    if value > 0:
                        found[index, other][frame] = value
    return found


def _groups(both: tuple[Sequence[Track], Sequence[Track]], agreements: _Agreements) -> list[_Group]:
    """Joins pairs that agree on most of the images that both see, those that agree on most images first."""
    group_of = {(side, index): _Group(([index], []) if side == 0 else ([], [index]))
                for side, tracks in enumerate(both) for index in range(len(tracks))}  # fmt: skip
    pairs: list[tuple[int, int, int]] = []
    for (first, second), values in agreements.items():
        agreed = sum(value >= SAME for value in values.values())
        common = len(both[0][first].seen.keys() & both[1][second].seen.keys())
        if 2 * agreed >= common and not both[0][first].key:
            pairs.append((agreed, first, second))
    for first, track in enumerate(both[0]):
        pairs += [
            (1 << 31, first, second) for second, other in enumerate(both[1]) if track.key and track.key == other.key
        ]

    @cache
    def apart(side: int, first: int, second: int) -> bool:
        """Whether two tracks of one direction are different things: somewhere both are seen, and not as the same."""
        one, other = both[side][first].seen, both[side][second].seen
        return any(_iou(one[frame].mask, other[frame].mask) < SAME for frame in one.keys() & other.keys())

    for _, first, second in sorted(pairs, key=lambda pair: (-pair[0], pair[1:])):
        one, other = group_of[0, first], group_of[1, second]
        if one is other:
            continue
        between = ((side, a, b) for side in (0, 1) for a in one.tracks[side] for b in other.tracks[side])
        if any(apart(*each) for each in between):
            continue
        for side in (0, 1):
            one.tracks[side].extend(other.tracks[side])
            for index in other.tracks[side]:
                group_of[side, index] = one
    return list({id(group): group for group in group_of.values()}.values())


def _iou(one: Rle, other: Rle) -> float:
    return float(coco.iou([one], [other], [0])[0, 0])


def _confirmed(track: Track, found: Mapping[int, Sequence[Detection]]) -> np.ndarray:
    """The images, in order, on which a prompt or a detection says where the object is."""
    frames = set(track.prompted)
    for frame in found.keys() & track.seen.keys():
        boxes = as_array(each.box for each in found[frame])
        if len(boxes) and ious(boxes, as_array([box_of(track.seen[frame].mask)])).max() >= SAME:
            frames.add(frame)
    return np.array(sorted(frames), np.int64)


def _fused(
    group: _Group, both: tuple[Sequence[Track], Sequence[Track]], confirmed: list[list[np.ndarray]], score: float
) -> Iterator[Mask]:
    """One mask for each image: of the direction in which the object was confirmed more recently."""
    frames = sorted({frame for track in _members(group, both) for frame in track.seen})
    known_from = min((min(both[0][index].seen) for index in group.tracks[0]), default=1 << 31)
    known_to = max((max(both[1][index].seen) for index in group.tracks[1]), default=-1)
    for frame in frames:
        sides: list[tuple[int, float, Sighting] | None] = []
        for side, sign in ((0, 1), (1, -1)):
            options = [
                (_age(confirmed[side][index], frame, sign), -tracks[index].seen[frame].predicted_iou, index)
                for tracks in (both[side],) for index in group.tracks[side] if frame in tracks[index].seen
            ]  # fmt: skip
            chosen = min(options, default=None)
            sides.append(None if chosen is None else (chosen[0], chosen[1], both[side][chosen[2]].seen[frame]))
        there = [each for each in sides if each is not None]
        best = min(there, key=lambda each: each[:2])[2]
        agreement: float | None = None
        if len(there) == 2:
            agreement = _iou(there[0][2].mask, there[1][2].mask)
        elif (sides[0] is None and frame > known_from) or (sides[1] is None and frame < known_to):
            agreement = ONE_SIDED
        yield Mask(frame, group.object_id, best.mask, best.predicted_iou, agreement, score)


def _age(confirmed: np.ndarray, frame: int, sign: int) -> int:
    """Images since an object was confirmed, in the direction of ``sign``."""
    passed = (frame - confirmed) * sign
    passed = passed[passed >= 0]
    return int(passed.min()) if len(passed) else 1 << 31


def _doubts(masks: Sequence[Mask]) -> Iterator[Reason]:
    for mask in masks:
        if mask.predicted_iou < UNCERTAIN:
            yield Reason(mask.frame, "score", mask.object_id, mask.predicted_iou)
        if mask.agreement is not None and mask.agreement <= SAME:
            yield Reason(mask.frame, "disagreement", mask.object_id, mask.agreement)


def _swaps(groups: Sequence[_Group], agreements: _Agreements) -> Iterator[Reason]:
    """Where a track forwards stops to agree with one object backwards and begins to agree with another."""
    owner = {index: group for group in groups for index in group.tracks[1]}
    partners: dict[int, dict[int, _Group]] = defaultdict(dict)
    for (first, second), values in agreements.items():
        for frame, value in values.items():
            if value >= SAME:
                partners[first][frame] = owner[second]
    for group in groups:
        for first in group.tracks[0]:
            before: _Group | None = None
            for frame, partner in sorted(partners[first].items(), key=lambda item: item[0]):
                if before is not None and partner is not before:
                    yield Reason(frame, "swap", group.object_id, 0.0)
                before = partner


def _missed(masks: Sequence[Mask], found: Mapping[int, Sequence[Detection]]) -> Iterator[Reason]:
    """Detections where no mask is."""
    boxes: dict[int, list[tuple[float, float, float, float]]] = defaultdict(list)
    for mask in masks:
        if mask.frame in found:
            boxes[mask.frame].append(box_of(mask.mask))
    for frame, detections in found.items():
        if not detections:
            continue
        overlap = ious(as_array(each.box for each in detections), as_array(boxes[frame]))
        for each, best in zip(detections, overlap.max(axis=1, initial=0.0), strict=True):
            if best < COVERED:
                yield Reason(frame, "missed", 0, 1 - each.score)


def doubtful_frames(reasons: Sequence[Reason]) -> list[tuple[int, float, list[Reason]]]:
    """Images with their doubt, 0 to 1, and its reasons, the most doubtful first."""
    by_frame: dict[int, list[Reason]] = defaultdict(list)
    for reason in reasons:
        by_frame[reason.frame].append(reason)
    rows = [(frame, 1 - min(each.value for each in some), some) for frame, some in by_frame.items()]
    return sorted(rows, key=lambda row: (-row[1], -len(row[2]), row[0]))
