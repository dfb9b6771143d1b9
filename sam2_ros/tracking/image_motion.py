"""The motion from one camera image to the one before, by optical flow, measured where it is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sam2_ros.tracking.flow_window import (
    Box,
    Field,
    FlowWindow,
    Pyramid,
    affine,
    area_of,
    both,
    clipped,
    contains,
    grid,
    grown,
)

Image = NDArray[np.uint8]

# Two images in a row show different scenes where the flow leaves a mean difference of more than this share of the
# contrast, and more than noise. Of 29 films 99 % of the images stay below 0.53, and of pairs from two films none.
CUT_DIFFERENCE = 0.6
NOISE = 6.0  # grey levels
# Flow is found in pictures of half the window's size, which costs a fifth, and made exact in the window's own size.
FEW_SAMPLES = 6_000  # up to so many, in the window's own size: a small object is lost in half of it
SAMPLES_INSIDE = 10_000  # of all boxes, at most; the margins around them have as many to an area
REFINEMENTS = 2
LARGEST_MOVE = 1.5  # of one refinement, samples of the halved pictures
STIFFNESS = 2.0  # squared grey levels a sample: where the picture is even, the flow stays as it was
ALIKE = 4.0  # pixels an image: objects whose velocities differ less share a window


@dataclass
class Step:
    """A camera image, and the motion from it to the image before."""

    stamp: int
    number: int  # counts up by 1
    image: Pyramid
    before: Pyramid | None  # of the image before, if it shows the same scene
    flows: list[tuple[FlowWindow, Field]] = field(default_factory=list)  # pixels

    @property
    def size_bytes(self) -> int:
        """Memory of the image; halves of it and motion are less than as much again."""
        return 4 * self.image.shape[0] * self.image.shape[1]


class ImageMotion:
    """Measures motion by dense inverse search (Kroeger et al., ECCV 2016). Not thread-safe."""

    def __init__(self) -> None:
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._flow.setFinestScale(0)
        self._flow.setPatchStride(5)
        self._flow.setUseMeanNormalization(False)

    def measure(self, step: Step, places: Sequence[tuple[Box, Field]], samples: float) -> None:
        """Adds the motion around boxes, with the velocity that is expected there, at no more samples in all."""
        areas = _merged([(grown(box, step.image.shape), velocity) for box, velocity in places])
        inside = sum(area_of(clipped(box, step.image.shape)) for box, _ in places)
        share = min(samples / sum(area_of(area) for area, _ in areas), SAMPLES_INSIDE / inside)
        for area, velocity in areas:
            window = FlowWindow.of(area, share * area_of(area))
            flow = self._between(step, window, velocity)
            if flow is not None:
                step.flows.append((window.halved, flow))

    def around(self, step: Step, box: Box, velocity: Field, samples: float) -> tuple[FlowWindow, Field] | None:
        """The motion around a box, measured with so many samples if it was not yet; None after a cut."""
        inside = clipped(box, step.image.shape)
        for window, flow in step.flows:
            if contains(window.box, inside):
                return window, flow
        known = len(step.flows)
        self.measure(step, [(box, velocity)], samples)
        return step.flows[-1] if len(step.flows) > known else None

    def _between(self, step: Step, window: FlowWindow, velocity: Field) -> Field | None:
        """From a window of ``step`` to the image before, in pixels; None where that shows another scene.

        The image before is looked at where the window was by ``velocity``, so that the flow has less to find.
        """
        if step.before is None:
            return None
        earlier = window.shifted(-float(velocity[0]), -float(velocity[1]), step.image.shape)
        now, before = (
            np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))
            for pixels in (step.image.sampled(window), earlier.sample(step.before))
        )
        if now.size <= FEW_SAMPLES:  # a small object is lost in half the size
            found = np.float32(0.5) * _halved(self._flow.calc(now, before, None))
        else:
            found = self._flow.calc(_halved(now), _halved(before), None)
        flow, difference = _refined(found, now, before)
        contrast = float(cv2.meanStdDev(now)[1][0, 0])
        if difference > max(NOISE, CUT_DIFFERENCE * contrast):
            return None
        shift = earlier.box[0] - window.box[0], earlier.box[1] - window.box[1]
        return affine(flow, window.halved.pitch, shift)


def _refined(flow: Field, now: Image, before: Image) -> tuple[Field, float]:
    """Makes ``flow``, of pictures half as large, more exact by Lucas and Kanade's method (IJCAI 1981).

    Also the mean difference, in grey levels, of what ``before`` shows where the flow points to, before its last move.
    """
    dx, dy = (cv2.Sobel(now, cv2.CV_32F, *order, ksize=3, scale=1 / 8) for order in ((1, 0), (0, 1)))
    xx, xy, yy = (_gathered(product) for product in (dx * dx, dx * dy, dy * dy))
    xx += STIFFNESS
    yy += STIFFNESS
    scale = np.float32(0.5) / (xx * yy - xy * xy)
    samples, size = grid(now.shape[1], now.shape[0]), (now.shape[1], now.shape[0])
    for _ in range(REFINEMENTS):
        at = cv2.scaleAdd(cv2.resize(flow, size, interpolation=cv2.INTER_LINEAR), 2, samples)
        found = cv2.remap(before, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        wrong = cv2.subtract(found, now, dtype=cv2.CV_32F)
        x, y = _gathered(dx * wrong), _gathered(dy * wrong)
        move = cv2.merge(((yy * x - xy * y) * scale, (xx * y - xy * x) * scale))
        flow -= np.clip(move, -LARGEST_MOVE, LARGEST_MOVE, out=move)
    return flow, cv2.norm(found, now, cv2.NORM_L1) / now.size


def _halved(values: NDArray[Any]) -> NDArray[Any]:
    height, width = values.shape[:2]
    return np.asarray(cv2.resize(values, (width // 2, height // 2), interpolation=cv2.INTER_AREA))


def _gathered(values: Field) -> Field:
    """Averages over 6x6 samples, one for 2x2 of them."""
    return np.asarray(cv2.blur(_halved(values), (3, 3)))


def _merged(places: Sequence[tuple[Box, Field]]) -> list[tuple[Box, Field]]:
    """Boxes that move alike become one where that is no larger than both."""
    merged: list[tuple[Box, Field]] = []
    for box, velocity in places:
        index = 0
        while index < len(merged):
            other, its = merged[index]
            union, area = both(box, other), area_of(box) + area_of(other)
            if area_of(union) <= area and float(np.abs(velocity - its).max()) <= ALIKE:
                share = area_of(other) / area
                box, velocity = union, share * its + (1 - share) * velocity
                del merged[index]
                index = 0
            else:
                index += 1
        merged.append((box, velocity))
    return merged
