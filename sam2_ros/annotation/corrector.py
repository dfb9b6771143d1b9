"""Segments what a person marks in an image of a recording. Further clicks on an object go on from the mask so far."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sam2_ros.annotation.masks import Mask, decode, encode
from sam2_ros.annotation.reviewed import Reviewed
from sam2_ros.tracking.image_segmenter import EncodedImage, ImageSegmenter, SoFar
from sam2_ros.tracking.segmentation import Segmentation
from sam2_ros.tracking.types import Prompt


@dataclass(frozen=True)
class _Clicks:
    """What was marked of an object. ``mask``: what was there before, as part of the prompt."""

    prompt: Prompt
    so_far: SoFar


class Corrector:
    """Of one person, who looks at one image at a time."""

    def __init__(self, segmenter: ImageSegmenter) -> None:
        self._segmenter = segmenter
        self._place: tuple[str, int] = ("", -1)  # recording and image
        self._encoded: EncodedImage | None = None
        self._clicks: dict[int, _Clicks] = {}  # by object

    def forget(self) -> None:
        """Called when masks have changed otherwise: the next click begins from what is there then."""
        self._clicks.clear()

    def segment(self, reviewed: Reviewed, frame: int, key: int, prompt: Prompt) -> tuple[Mask, Segmentation]:
        """The mask of an object after another prompt.

        A box begins anew. A click goes on from the clicks before and from the mask that is there.

        Raises:
            PromptError: the prompt can't be used.
            UserError: the image can't be read.
        """
        if self._encoded is None or self._place != (reviewed.name, frame):
            self._encoded = self._segmenter.encode(reviewed.images.read(frame))
            self._place = (reviewed.name, frame)
            self._clicks.clear()
        old = reviewed.corrections.now.masks.get((frame, key))
        before = None if prompt.replace or prompt.box is not None else self._clicks.get(key)
        if before is None and old is not None and not prompt.replace and prompt.box is None:
            before = _Clicks(Prompt(mask=decode(old.mask).full()), None)
        whole = replace(prompt if before is None else _joined(before.prompt, prompt), replace=False)
        so_far = None if before is None else before.so_far
        (answer,) = self._segmenter.segment(self._encoded, [whole], [so_far])
        if answer.mask.crop.size:  # else it is refused, and the next click begins without this one
            self._clicks[key] = _Clicks(whole, answer.so_far)
        score = 1.0 if old is None else old.detection_score
        return Mask(frame, key, encode(answer.mask), answer.predicted_iou, detection_score=score), answer


def _joined(before: Prompt, prompt: Prompt) -> Prompt:
    """The clicks of both."""
    points = [each.points for each in (before, prompt) if each.points is not None]
    labels = [each.labels for each in (before, prompt) if each.labels is not None]
    return replace(before, points=np.concatenate(points), labels=np.concatenate(labels), candidate=None)
