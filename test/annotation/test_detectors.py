"""OpenCV's people detector on footage; the boxes in the picture were drawn by hand."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from sam2_ros.annotation.detectors import best_of, people_detector
from sam2_ros.inference.matching import Detection, ious
from sam2_ros.media.errors import UserError
from sam2_ros.media.image_folder import read_image

PICTURE = Path(__file__).parents[2] / "docs" / "images" / "vtest_annotation.jpg"
PEOPLE = [(305, 205, 328, 292), (492, 176, 520, 246), (595, 251, 626, 347)]


def test_people() -> None:
    if not hasattr(cv2, "HOGDescriptor"):
        with pytest.raises(UserError, match=r"OpenCV 5\..* has no people detector; install one that has .*<5"):
            people_detector()
        return
    found = [each for each in people_detector()(read_image(PICTURE)[:576, :768]) if each.score > 0.9]
    overlap = ious(np.array(PEOPLE, float), np.array([each.box for each in found]))
    assert len(found) == 3 and (overlap.max(axis=1) > 0.5).all()
    assert {each.label for each in found} == {"person"}


def test_of_overlapping_boxes_of_a_label_the_best_stays() -> None:
    box = (10.0, 10.0, 30.0, 30.0)
    found = [Detection(box, "cup", 0.6), Detection((11.0, 10.0, 31.0, 30.0), "cup", 0.9), Detection(box, "lid", 0.7)]
    assert best_of(found, 0.5) == [found[1], found[2]]
