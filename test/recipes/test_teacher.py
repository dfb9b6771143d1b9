"""Objects in unlabelled photographs; the embedded model stands in for MobileSAM, whose weights are not shipped."""

import json

import cv2
import numpy as np

from recipes.embedded.teacher import find_objects, polygons
from sam2_ros.model import load_model


def test_finds_what_stands_out() -> None:
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(90, 130, (300, 400, 3), dtype=np.uint8), (9, 9), 0)
    truth = np.zeros((2, 300, 400), np.uint8)
    cv2.circle(truth[0], (110, 150), 60, 1, -1)
    cv2.rectangle(truth[1], (240, 90), (340, 210), 1, -1)
    image[truth[0] > 0], image[truth[1] > 0] = (220, 60, 40), (30, 60, 190)
    masks = find_objects(load_model("embedded"), np.asarray(image, np.uint8), grid=5)
    for wanted in truth:
        overlaps = [(wanted & mask).sum() / (wanted | mask).sum() for mask in masks]
        assert max(overlaps, default=0) > 0.85
    for index, mask in enumerate(masks):
        for other in masks[index + 1 :]:
            assert (mask & other).sum() <= 0.75 * min(mask.sum(), other.sum())


def test_polygons_are_the_outline() -> None:
    mask = np.zeros((60, 80), np.uint8)
    cv2.ellipse(mask, (40, 30), (25, 15), 20, 0, 360, 1, -1)
    again = np.zeros_like(mask)
    for ring in json.loads(json.dumps(polygons(mask))):
        cv2.fillPoly(again, [np.array(ring, np.int32).reshape(-1, 2)], 1)
    assert np.array_equal(mask, again)
