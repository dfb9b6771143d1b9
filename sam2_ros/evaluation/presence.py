"""How well the tracker knows whether an object is in sight: precision and recall of "absent", and calibration.

Truth: an object is absent on a frame without a labelled pixel of it. It is present if it has at least the share
``present_from`` of its median labelled area. Frames in between are not counted: a few pixels show, and neither answer
is wrong. Counted are labelled frames after the object's first prompt, without prompted ones.
Prediction: absent is OCCLUDED or LOST, which is an empty mask.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from sam2_ros.evaluation.results import Row, SequenceResult

PRESENT_FROM = 0.05
BINS = 15


@dataclass(frozen=True)
class Sighting:
    """One counted frame of an object."""

    present: bool  # by its label
    seen: bool  # by the tracker
    visibility: float  # by the tracker, probability of being seen


@dataclass(frozen=True)
class VisibilityScore:
    """Counts of frames, and their ratios; a ratio is None if its divisor is 0."""

    absent: int  # by label
    present: int  # by label
    not_counted: int  # too few pixels for either
    called_absent: int  # by the tracker
    absent_found: int  # by both
    present_found: int  # by both
    calibration_error: float | None  # expected calibration error of `visibility`
    bins: tuple[tuple[float, float, int], ...]  # mean visibility, share present, count; empty bins left out

    @property
    def absent_precision(self) -> float | None:
        return _ratio(self.absent_found, self.called_absent)

    @property
    def absent_recall(self) -> float | None:
        return _ratio(self.absent_found, self.absent)

    @property
    def present_recall(self) -> float | None:
        return _ratio(self.present_found, self.present)


def presence(areas: Sequence[int], present_from: float = PRESENT_FROM) -> list[bool | None]:
    """For each labelled area of one object: True = present, False = absent, None = not counted."""
    shown = [area for area in areas if area]
    least = present_from * float(np.median(shown)) if shown else 0.0
    return [None if 0 < area < least else area > 0 for area in areas]


def sightings(rows: Sequence[Row], present_from: float = PRESENT_FROM) -> tuple[list[Sighting], int]:
    """The counted frames of one object, and how many labelled ones were not counted."""
    labelled = [(row, row.truth_area) for row in rows if row.truth_area is not None]
    found, left_out = [], 0
    for (row, _), present in zip(labelled, presence([area for _, area in labelled], present_from), strict=True):
        if row.prompted:
            continue
        if present is None:
            left_out += 1
        else:
            found.append(Sighting(present, row.state == "visible", row.visibility))
    return found, left_out


def visibility_score(results: Iterable[SequenceResult], present_from: float = PRESENT_FROM) -> VisibilityScore:
    """Counts over every object of ``results``."""
    counted: list[Sighting] = []
    left_out = 0
    for result in results:
        for object_id in result.objects:
            found, skipped = sightings(result.of(object_id), present_from)
            counted += found
            left_out += skipped
    error, bins = calibration([s.visibility for s in counted], [s.present for s in counted])
    return VisibilityScore(
        absent=sum(not s.present for s in counted),
        present=sum(s.present for s in counted),
        not_counted=left_out,
        called_absent=sum(not s.seen for s in counted),
        absent_found=sum(not s.seen and not s.present for s in counted),
        present_found=sum(s.seen and s.present for s in counted),
        calibration_error=error,
        bins=bins,
    )


def calibration(
    probabilities: Sequence[float], outcomes: Sequence[bool], bins: int = BINS
) -> tuple[float | None, tuple[tuple[float, float, int], ...]]:
    """Expected calibration error over bins of equal width, and the bins (mean probability, share true, count).

    Source: Naeini et al., 2015, here for the probability of one outcome. The error is the mean over all frames of the
    distance between mean probability and share in their bin; None without frames.
    """
    if not len(probabilities):
        return None, ()
    values, truth = np.asarray(probabilities, np.float64), np.asarray(outcomes, np.float64)
    index = np.minimum((values * bins).astype(int), bins - 1)
    filled = tuple(
        (float(values[index == i].mean()), float(truth[index == i].mean()), int((index == i).sum()))
        for i in range(bins)
        if (index == i).any()
    )
    return sum(abs(mean - share) * count for mean, share, count in filled) / len(values), filled


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
