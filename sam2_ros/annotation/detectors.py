"""Detectors that look at single images: boxes with labels and scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import cv2
import numpy as np

from sam2_ros.inference.matching import Detection
from sam2_ros.media.errors import UserError
from sam2_ros.media.source_frame import Rgb

Detector: TypeAlias = Callable[[Rgb], list[Detection]]

_WINDOW = (64, 128)  # pixels, that OpenCV's detector looks at; a person fills the middle
_MARGIN = (0.25, 0.125)  # shares of the window beside a person, left and above
_SMALLEST = 512  # pixels; smaller images are enlarged, because people in them are smaller than the window


def people_detector() -> Detector:
    """OpenCV's detector of people who stand or walk (Dalal and Triggs 2005).

    Raises:
        UserError: this OpenCV has none.
    """
    if not hasattr(cv2, "HOGDescriptor"):
        raise UserError(
            f"OpenCV {cv2.__version__} has no people detector; install one that has "
            "(python3 -m pip install 'opencv-python-headless<5'), or give an ONNX file"
        )
    hog: Any = cv2.HOGDescriptor()
    hog.setSVMDetector(cv2.HOGDescriptor.getDefaultPeopleDetector())

    def detect(rgb: Rgb) -> list[Detection]:
        gray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
        scale = 2.0 if min(gray.shape) < 2 * _SMALLEST else 1.0
        boxes, weights = hog.detectMultiScale(cv2.resize(gray, None, fx=scale, fy=scale), winStride=(8, 8), scale=1.05)
        found = []
        for (x, y, width, height), weight in zip(boxes, np.ravel(weights), strict=True):
            right, down = _MARGIN[0] * width, _MARGIN[1] * height / 2
            edges = np.array([x + right, y + down, x + width - right, y + height - down]) / scale
            found.append(Detection((*map(float, edges),), "person", _probability(weight)))  # type: ignore[arg-type]
        return best_of(found, 0.5)

    return detect


def best_of(found: list[Detection], limit: float) -> list[Detection]:
    """The detections by falling score, without those of the same label that overlap a better one by more IoU."""
    kept: list[Detection] = []
    for label in {each.label for each in found}:
        same = [each for each in found if each.label == label]
        rows = [(x0, y0, x1 - x0, y1 - y0) for x0, y0, x1, y1 in (each.box for each in same)]
        chosen: Any = cv2.dnn.NMSBoxes(rows, [each.score for each in same], 0.0, limit)
        kept += [same[int(index)] for index in np.ravel(chosen)]
    return sorted(kept, key=lambda each: -each.score)


def _probability(weight: float) -> float:
    """A margin of the support vector machine as a number in [0, 1]; 0.5 at the margin 0."""
    return float(1 / (1 + np.exp(-2 * weight)))
