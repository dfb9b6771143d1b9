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
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from sam2_ros.annotation.doubts import Reason, missed_detections, uncertain_masks
from sam2_ros.annotation.leaps import cut_at_leaps
from sam2_ros.annotation.masks import SAME, Mask, Rle, box_of
from sam2_ros.annotation.two_ways import Sighting, Track
from sam2_ros.inference.matching import COVERED as DOUBLE
from sam2_ros.inference.matching import Detection, area, as_array, ious, is_swollen
from sam2_ros.inference.matching import areas as box_areas

ONE_SIDED = 0.5  # agreement where one direction sees an object and the other, which knows it, does not
PATIENCE = 4  # looks of the detector without the object until a track is no longer believed


@dataclass
class Reconciled:
    """The objects of a recording."""

    labels: dict[int, str] = field(default_factory=dict)  # by id
    masks: list[Mask] = field(default_factory=list)  # by image, then id
    reasons: list[Reason] = field(default_factory=list)


@dataclass(frozen=True)
class _Evidence:
    """Where a track was confirmed by a prompt or a detection."""

    frames: NDArray[np.int64]  # in order
    areas: NDArray[np.float64]  # of the boxes there, square pixels

    def before(self, frame: int, side: int) -> tuple[int, float] | None:
        """The last image, in the direction of the track, and the area there."""
        if side == 0:
            place = int(np.searchsorted(self.frames, frame, "right")) - 1
        else:
            place = int(np.searchsorted(self.frames, frame, "left"))
        return (int(self.frames[place]), float(self.areas[place])) if 0 <= place < len(self.frames) else None


_Rank = tuple[int, int, float]  # looks of the detector and images since the object was confirmed, -predicted IoU
_BySide = tuple[dict[int, list[dict[int, float]]], dict[int, list[dict[int, float]]]]  # by track: IoU by image
_Both = tuple[Sequence[Track], Sequence[Track]]  # forwards, backwards


class _Candidate(NamedTuple):
    """What a track saw in one image."""

    rank: _Rank
    track: int
    sighting: Sighting


@dataclass(frozen=True)
class _Fused:
    """The mask of an object in one image; a lower ``rank`` is better."""

    frame: int
    rank: _Rank
    sighting: Sighting
    agreement: float | None


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
    both = _without_leaps((forwards, backwards))
    agreements = _agreements(*both)
    groups = _groups(both, agreements)
    evidence = [[_evidence(track, found) for track in tracks] for tracks in both]
    looks = np.array(sorted(found), np.int64)
    by_side: _BySide = (defaultdict(list), defaultdict(list))
    for pair, values in agreements.items():
        for side in (0, 1):
            by_side[side][pair[side]].append(values)
    groups.sort(key=lambda group: min(min(t.seen) for t in _members(group, both)))
    taken = {track.key for tracks in both for track in tracks}
    free = (number for number in range(1, 1 << 31) if number not in taken)
    labels, scores, fused = {}, {}, {}
    for group in groups:
        best = max(_members(group, both), key=lambda track: track.label_score)
        group.object_id = best.key or next(free)
        labels[group.object_id], scores[group.object_id] = best.label, best.label_score
        fused[group.object_id] = _fused(group, both, evidence, looks, by_side)
    if taken <= {0}:
        _without_doubles(fused, labels)
    result = Reconciled({key: labels[key] for key, masks in fused.items() if masks})
    for key, masks in fused.items():
        result.masks += [
            Mask(each.frame, key, each.sighting.mask, each.sighting.predicted_iou, each.agreement, scores[key])
            for each in masks
        ]
    result.masks.sort(key=lambda mask: (mask.frame, mask.object_id))
    result.reasons = [
        *uncertain_masks(result.masks),
        *_swaps(groups, agreements),
        *missed_detections(result.masks, found),
    ]
    return result


def _members(group: _Group, both: _Both) -> list[Track]:
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


def _without_leaps(both: _Both) -> _Both:
    agreed: tuple[list[list[set[int]]], ...] = tuple([[] for _ in tracks] for tracks in both)
    for pair, values in _agreements(*both).items():
        same = {frame for frame, value in values.items() if value >= SAME}
        for side in (0, 1):
            agreed[side][pair[side]].append(same)
    return cut_at_leaps(both[0], agreed[0]), cut_at_leaps(both[1], agreed[1])


def _groups(both: _Both, agreements: _Agreements) -> list[_Group]:
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


def _evidence(track: Track, found: Mapping[int, Sequence[Detection]]) -> _Evidence:
    """The images on which a prompt or a detection says where the object is."""
    areas = {frame: area(box_of(track.seen[frame].mask)) for frame in track.prompted & track.seen.keys()}
    for frame in found.keys() & track.seen.keys():
        boxes = as_array(each.box for each in found[frame])
        overlap = ious(boxes, as_array([box_of(track.seen[frame].mask)]))[:, 0]
        if overlap.max(initial=0.0) >= SAME:
            areas[frame] = float(box_areas(boxes)[overlap.argmax()])
    frames = sorted(areas)
    return _Evidence(np.array(frames, np.int64), np.array([areas[frame] for frame in frames], np.float64))


def _fused(
    group: _Group, both: _Both, evidence: list[list[_Evidence]], looks: NDArray[np.int64], agreements: _BySide
) -> list[_Fused]:
    """One mask for each image.

    Where the directions agree, it is of the one in which the object was confirmed more recently. Where they do not,
    they may follow two things: then the mask goes on with the direction that it came from, as long as the detector has
    not missed that more often. So an object does not jump to and fro.
    """
    masks: list[_Fused] = []
    side = 0
    for frame in sorted({frame for track in _members(group, both) for frame in track.seen}):
        sides = [_from_side(group.tracks[s], both[s], evidence[s], frame, looks, s) for s in (0, 1)]
        (forwards, expected), (backwards, expected_too) = sides
        if forwards is not None and backwards is not None:
            if _iou(forwards.sighting.mask, backwards.sighting.mask) >= SAME:
                side = 0 if forwards.rank <= backwards.rank else 1
            elif forwards.rank[0] != backwards.rank[0]:
                side = 0 if forwards.rank[0] < backwards.rank[0] else 1
        elif forwards is not None or backwards is not None:
            side = 0 if forwards is not None else 1
        else:
            continue
        chosen = forwards if side == 0 else backwards
        assert chosen is not None
        agreement = max((values.get(frame, 0.0) for values in agreements[side].get(chosen.track, ())), default=0.0)
        known = (forwards is not None and backwards is not None) or agreement >= SAME
        one_sided = ONE_SIDED if expected and expected_too else None
        masks.append(_Fused(frame, chosen.rank, chosen.sighting, agreement if known else one_sided))
    return masks


def _from_side(
    members: Sequence[int], tracks: Sequence[Track], evidence: Sequence[_Evidence], frame: int,
    looks: NDArray[np.int64], side: int,
) -> tuple[_Candidate | None, bool]:  # fmt: skip
    """What one direction saw of an object in an image, and whether it expects the object there."""
    best: _Candidate | None = None
    expected = False
    for index in members:
        before = evidence[index].before(frame, side)
        if before is None:
            continue
        last, size = before
        missed = int(((looks > last) & (looks <= frame) if side == 0 else (looks >= frame) & (looks < last)).sum())
        if missed > PATIENCE:
            continue
        expected = True
        sighting = tracks[index].seen.get(frame)
        if sighting is None or (len(looks) and is_swollen(box_of(sighting.mask), size)):
            continue
        candidate = _Candidate((missed, abs(frame - last), -sighting.predicted_iou), index, sighting)
        if best is None or candidate.rank < best.rank:
            best = candidate
    return best, expected


def _without_doubles(fused: dict[int, list[_Fused]], labels: Mapping[int, str]) -> None:
    """Where two objects of one label have the same pixels, the one that the detector missed less often has them, or the
    older one."""
    at: dict[int, list[tuple[int, int, _Fused]]] = defaultdict(list)
    for key, masks in fused.items():
        for each in masks:
            at[each.frame].append((each.rank[0], key, each))
    gone: set[tuple[int, int]] = set()
    for frame, entries in at.items():
        kept: list[tuple[int, Rle]] = []
        for _, key, each in sorted(entries, key=lambda entry: entry[:2]):
            same = [mask for other, mask in kept if labels[other] == labels[key]]
            if same and max(_shares(each.sighting.mask, same)) >= DOUBLE:
                gone.add((frame, key))
            else:
                kept.append((key, each.sighting.mask))
    for key, masks in fused.items():
        fused[key] = [each for each in masks if (each.frame, key) not in gone]


def _shares(mask: Rle, others: Sequence[Rle]) -> list[float]:
    """Common pixels as a share of the smaller mask."""
    common: NDArray[np.float64] = coco.iou([mask], list(others), [1] * len(others))[0] * coco.area(mask)
    smaller = np.minimum(coco.area(mask), coco.area(list(others)))
    return (common / np.maximum(smaller, 1)).tolist()


def _swaps(groups: Sequence[_Group], agreements: _Agreements) -> Iterator[Reason]:
    """Where a track forwards changes between agreeing with its object and with another one backwards."""
    owner = {index: group for group in groups for index in group.tracks[1]}
    partners: dict[int, dict[int, list[_Group]]] = defaultdict(lambda: defaultdict(list))  # by track forwards, image
    for (first, second), values in agreements.items():
        for frame, value in values.items():
            if value >= SAME:
                partners[first][frame].append(owner[second])
    for group in groups:
        for first in group.tracks[0]:
            before: _Group | None = None
            for frame, there in sorted(partners[first].items()):
                partner = group if any(each is group for each in there) else there[0]
                if before is not None and partner is not before:
                    yield Reason(frame, "swap", group.object_id, 0.0)
                before = partner
