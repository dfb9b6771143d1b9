"""Draws and keeps the worst frames of a sequence while it runs."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from sam2_ros.evaluation.mask_metrics import Mask, jaccard
from sam2_ros.evaluation.semi_supervised import FrameMasks
from sam2_ros.media.overlay import Rgb, object_color

APART = 12  # frames; closer ones of the same object show the same failure
GOOD = 0.8  # J from which a frame is no failure
TRUTH = (255, 255, 255)


@dataclass(frozen=True)
class BadFrame:
    """One object on one frame, drawn."""

    j: float
    frame: int
    object: int
    picture: Rgb


class WorstFrames:
    """An observer that keeps the ``count`` frames of least J; those of one object are some frames apart."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.frames: list[BadFrame] = []

    def __call__(self, masks: FrameMasks) -> None:
        for row in masks.rows:
            if row.prompted or row.object not in masks.truth:
                continue
            truth, predicted = masks.truth[row.object], masks.predicted[row.object]
            j = row.j if row.j is not None else jaccard(predicted, truth)
            if self._fits(j, row.frame, row.object):
                self.take(BadFrame(j, row.frame, row.object, draw_failure(masks.rgb, predicted, truth, row.object)))

    def empty(self) -> WorstFrames:
        """A new one for as many frames."""
        return WorstFrames(self._count)

    def take(self, *drawn: BadFrame) -> None:
        """Keeps the given frames if they are among the worst."""
        for new in drawn:
            if self._fits(new.j, new.frame, new.object):
                others = [bad for bad in self.frames if not _near(bad, new.frame, new.object)]
                self.frames = sorted((*others, new), key=lambda bad: (bad.j, bad.frame))[: self._count]

    def _fits(self, j: float, frame: int, object_id: int) -> bool:
        full = len(self.frames) >= self._count and (not self.frames or j >= self.frames[-1].j)
        return j < GOOD and not full and all(bad.j > j for bad in self.frames if _near(bad, frame, object_id))


def _near(bad: BadFrame, frame: int, object_id: int) -> bool:
    return bad.object == object_id and abs(bad.frame - frame) < APART


def draw_failure(rgb: Rgb, predicted: Mask, truth: Mask, object_id: int) -> Rgb:
    """The frame with the prediction as a translucent area and the label as a white outline with a black border."""
    image = rgb.copy()
    color = np.asarray(object_color(object_id), np.float32)
    image[predicted] = np.rint(0.5 * image[predicted] + 0.5 * color).astype(np.uint8)
    outlines, _ = cv2.findContours(truth.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    width = max(1, round(image.shape[0] / 360))
    cv2.drawContours(image, outlines, -1, (0, 0, 0), width + 2)
    cv2.drawContours(image, outlines, -1, TRUTH, width)
    return image
