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


def visibility_score(results: Iterable[SequenceResult], present_from: float = PRESENT_FROM) -> VisibilityScore:
    """Counts over every object of ``results``."""
    frames: list[tuple[Row, bool | None]] = []  # whether the object is present
    for result in results:
        for object_id in result.objects:
            labelled = [row for row in result.of(object_id) if row.truth_area is not None]
            shown = presence([row.truth_area or 0 for row in labelled], present_from)
            frames += [pair for pair in zip(labelled, shown, strict=True) if not pair[0].prompted]
    counted = [(row, present) for row, present in frames if present is not None]
    truth, seen = [present for _, present in counted], [row.state == "visible" for row, _ in counted]
    error, bins = calibration([row.visibility for row, _ in counted], truth)
    return VisibilityScore(
        absent=truth.count(False),
        present=truth.count(True),
        not_counted=len(frames) - len(counted),
        called_absent=seen.count(False),
        absent_found=sum(not s and not t for s, t in zip(seen, truth, strict=True)),
        present_found=sum(s and t for s, t in zip(seen, truth, strict=True)),
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
