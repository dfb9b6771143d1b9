"""Promptable segmentation of labelled pictures: mean IoU after some clicks, and from a box.

A simulated user clicks as RITM and SAM measure it (:mod:`.clicks`): first the deepest point of the object, then each
time the deepest point of the larger error. Every pass gets all clicks so far and the mask so far.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from sam2_ros.evaluation.clicks import correction, deepest_point
from sam2_ros.evaluation.mask_metrics import Mask, jaccard
from sam2_ros.media.image_folder import read_image
from sam2_ros.media.labelled_photos import Photo
from sam2_ros.media.text_table import align, number
from sam2_ros.tracking.segmentation import Segmentation
from sam2_ros.tracking.types import Prompt

CLICKS = (1, 3, 5)  # after which the IoU is taken
LEAST_AREA = 100  # pixels, of an instance; smaller ones are left out
LONGEST = 2048  # pixels, of a picture's longer side; larger ones are made smaller


class Segments(Protocol):
    """What is measured of :class:`~sam2_ros.tracking.image_segmenter.ImageSegmenter`."""

    def encode(self, image: NDArray[np.uint8], /) -> Any: ...

    def segment(
        self, image: Any, prompts: Sequence[Prompt], so_far: Sequence[NDArray[np.float32] | None] = (), /
    ) -> list[Segmentation]: ...


@dataclass(frozen=True)
class InstanceScore:
    """One labelled instance of a picture."""

    photo: str
    instance: int  # of the picture, the largest first
    area: int  # pixels
    clicks: dict[int, float]  # IoU by number of clicks
    box: float  # IoU
    encode_ms: float  # of the picture
    prompt_ms: float  # of one pass, mean


def labelled(photo: Photo) -> tuple[NDArray[np.uint8], list[Mask]]:
    """The picture, RGB ``uint8 [H, W, 3]``, and its instances, the largest first, without those that are too small."""
    image = read_image(photo.path)
    height, width = image.shape[:2]
    if (factor := LONGEST / max(height, width)) < 1:
        width, height = round(width * factor), round(height * factor)
        image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    masks = []
    for rings in photo.instances(width, height):
        mask = np.zeros((height, width), np.uint8)
        for ring in rings:  # one by one: together, overlapping parts would cancel out
            cv2.fillPoly(mask, [ring], 1)
        if int(mask.sum()) >= LEAST_AREA:
            masks.append(mask.astype(np.bool_))
    return image, masks


def score_photo(segmenter: Segments, photo: Photo) -> Iterator[InstanceScore]:
    """Clicks on and boxes each instance of a picture."""
    image, masks = labelled(photo)
    if not masks:
        return
    start = time.perf_counter()
    encoded = segmenter.encode(image)
    encode_ms = 1e3 * (time.perf_counter() - start)
    for index, truth in enumerate(masks):
        start = time.perf_counter()
        clicks = click_until(lambda prompt, so_far: segmenter.segment(encoded, [prompt], [so_far])[0], truth)
        x, y, width, height = cv2.boundingRect(truth.astype(np.uint8))
        box = np.array([x, y, x + width, y + height], np.float32)
        boxed = segmenter.segment(encoded, [Prompt(box=box)])[0].mask.full()
        passes = 1e3 * (time.perf_counter() - start) / (1 + max(CLICKS))
        area = int(np.count_nonzero(truth))
        yield InstanceScore(photo.path.stem, index, area, clicks, jaccard(boxed, truth), encode_ms, passes)


def click_until(segment: Callable[[Prompt, NDArray[np.float32] | None], Segmentation], truth: Mask) -> dict[int, float]:
    """The IoU after each number of clicks in :data:`CLICKS`; a mask without an error stays as it is."""
    points, labels, so_far = [deepest_point(truth)], [1], None
    scores: dict[int, float] = {}
    for count in range(1, max(CLICKS) + 1):
        answer = segment(Prompt(points=np.array(points, np.float32), labels=np.array(labels, np.int32)), so_far)
        found, so_far = answer.mask.full(), answer.so_far
        scores[count] = jaccard(found, truth)
        wrong = correction(found, truth)
        if wrong is None:
            scores |= dict.fromkeys(range(count, max(CLICKS) + 1), 1.0)
            break
        points.append(wrong[0])
        labels.append(wrong[1])
    return {count: scores[count] for count in CLICKS}


def summary(model: str, scores: Sequence[InstanceScore]) -> dict[str, Any]:
    """Means over instances, each weighted equally; times as medians."""
    photos = {score.photo: score.encode_ms for score in scores}
    return {
        "model": model,
        "photos": len(photos),
        "instances": len(scores),
        "miou": {
            **{f"{count}_clicks": _mean([score.clicks[count] for score in scores]) for count in CLICKS},
            "box": _mean([score.box for score in scores]),
        },
        "encode_ms": float(np.median(list(photos.values()))) if photos else None,
        "prompt_ms": float(np.median([score.prompt_ms for score in scores])) if scores else None,
    }


def table(summaries: Sequence[dict[str, Any]]) -> str:
    """A line a model: mean IoU in percent, milliseconds to encode a picture and for a prompt."""
    shots = [f"{count} click{'s' if count > 1 else ''}" for count in CLICKS]
    lines: list[tuple[str, ...]] = [("mIoU [%]", "pictures", "objects", *shots, "box", "encode [ms]", "prompt [ms]")]
    for each in summaries:
        miou = [number(value, 1, 100) for value in each["miou"].values()]
        times = number(each["encode_ms"], 0), number(each["prompt_ms"], 0)
        lines.append((each["model"], str(each["photos"]), str(each["instances"]), *miou, *times))
    return align(lines)


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
