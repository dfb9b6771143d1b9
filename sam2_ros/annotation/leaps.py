"""Cuts tracks where they leap to something else: things that look alike are confused across the picture."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from sam2_ros.annotation.masks import Rle, box_of
from sam2_ros.annotation.two_ways import Track

LEAP = 1.0  # sides of a square as large as the object's box, for each image
_MOST_IMAGES = 3  # that count, between two in which it is seen


def cut_at_leaps(tracks: Sequence[Track], agreed: Sequence[Sequence[Collection[int]]]) -> list[Track]:
    """The parts of the tracks of one direction between leaps: movements that are longer than :data:`LEAP`, and that no
    track of the other direction makes too. Objects of a prompts file stay whole.

    Args:
        agreed: for each track, and each one of the other direction that meets it, the images on which both agree.
    """
    return [part for track, others in zip(tracks, agreed, strict=True) for part in _parts(track, others)]


def _parts(track: Track, others: Sequence[Collection[int]]) -> Iterator[Track]:
    frames = sorted(track.seen)
    begin = 0
    for place, (one, next_one) in enumerate(pairwise(frames), 1):
        far = LEAP * min(next_one - one, _MOST_IMAGES)
        if track.key or _moved(track.seen[one].mask, track.seen[next_one].mask) <= far:
            continue
        if not any(one in each and next_one in each for each in others):
            yield _part(track, frames[begin:place])
            begin = place
    yield _part(track, frames[begin:]) if begin else track


def _part(track: Track, frames: Sequence[int]) -> Track:
    return replace(track, seen={frame: track.seen[frame] for frame in frames}, prompted=track.prompted & {*frames})


def _moved(mask: Rle, other: Rle) -> float:
    """How far the middle of the box is elsewhere, in sides of a square as large as the larger box."""
    one, two = (np.reshape(box_of(each), (2, 2)) for each in (mask, other))
    side = float(np.sqrt(max(np.prod(one[1] - one[0]), np.prod(two[1] - two[0]), 1)))
    return float(np.linalg.norm(one.mean(axis=0) - two.mean(axis=0))) / side
