"""Carries the network's newest masks to the newest camera image, by optical flow and colour; without torch.

A mask that the network made of one image is out of date when it is ready. The carrier follows every camera image: it
measures the motion from the image before (dense inverse search, Kroeger et al., ECCV 2016, in OpenCV), only around the
objects and at a resolution that keeps the cost constant, adds the motions up to the image of the mask, and looks the
mask up there. A narrow band along the mask's border is then decided by the object's colours as the network's image
shows them, which brings back thin and fast parts that the flow misses.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sam2_ros.tracking.colour_model import LARGEST, ColourModel
from sam2_ros.tracking.types import CroppedMask, FrameResult

Image = NDArray[np.uint8]
Field = NDArray[np.float32]  # [h, w, 2] x, y
Box = tuple[int, int, int, int]  # x0, y0, x1, y1

WORK_PIXELS = 1_000_000  # larger images are reduced by a whole factor
KEPT_IMAGES = 24  # the network may be that many images late
KEPT_SECONDS = 2.0  # a mask is carried no longer
FLOW_SAMPLES = 24_000  # of all windows of an image together, so that the cost does not grow with the image
MARGIN = 0.25  # of an object's box, on each side
MIN_SIDE = 16  # samples: the flow works on patches
MIN_MARGIN = 24  # pixels of the work image; an object that moves further in one image is lost
BAND = 4.0  # samples on both sides of a carried border that colours may decide; more where the object deforms
WIDEST_BAND = 16.0
COLOUR_GAIN = 1.2
DOUBT = 2.5  # confidence is exp(-DOUBT × deformation / object's side), fitted to the IoU that carrying keeps
# Two images in a row show different scenes where the flow leaves a mean difference of more than this share of the
# contrast, and more than noise. Of 29 films 99 % of the images stay below 0.53, and of pairs from two films none.
CUT_DIFFERENCE = 0.6
NOISE = 6.0  # grey levels


@dataclass(frozen=True)
class Carried:
    """The objects as of the newest camera image."""

    result: FrameResult  # masks carried; stamp and size are the newest image's, everything else the network's
    network_stamp: int  # ns, of the image that the network processed
    frames: int  # camera images from there to the newest one
    confidence: Mapping[int, float]  # [0, 1] by object id


@dataclass(frozen=True)
class _Window:
    """A box of the work image, seen through ``width`` × ``height`` samples."""

    box: Box
    width: int
    height: int

    @classmethod
    def of(cls, box: Box, samples: float) -> _Window:
        """With about so many samples, at most one for each pixel."""
        width, height = box[2] - box[0], box[3] - box[1]
        scale = min(1.0, math.sqrt(samples / (width * height)))
        return cls(box, max(MIN_SIDE, round(width * scale)), max(MIN_SIDE, round(height * scale)))

    @property
    def pitch(self) -> Field:
        """Pixels from one sample to the next: x, y."""
        x0, y0, x1, y1 = self.box
        return np.array([(x1 - x0) / self.width, (y1 - y0) / self.height], np.float32)

    def points(self) -> Field:
        """Where the samples lie in the work image."""
        pitch = self.pitch
        points = np.empty((self.height, self.width, 2), np.float32)
        points[..., 0] = self.box[0] - 0.5 + (np.arange(self.width, dtype=np.float32) + 0.5) * pitch[0]
        points[..., 1] = (self.box[1] - 0.5 + (np.arange(self.height, dtype=np.float32) + 0.5) * pitch[1])[:, None]
        return points

    def sample(self, image: NDArray[Any]) -> NDArray[Any]:
        """The work image, or a map of its size, at the samples."""
        x0, y0, x1, y1 = self.box
        how = cv2.INTER_AREA if self.width < x1 - x0 else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(image[y0:y1, x0:x1], (self.width, self.height), interpolation=how))

    def look_up(self, values: NDArray[Any], points: Field) -> NDArray[Any]:
        """``values`` of the samples, interpolated at ``points``; beyond the box, those of its edge."""
        corner = np.array([self.box[0] - 0.5, self.box[1] - 0.5], np.float32)
        at = (points - corner) / self.pitch - np.float32(0.5)
        return np.asarray(cv2.remap(values, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


@dataclass
class _Step:
    """A camera image, and the motion from it to the image before, measured where it was needed."""

    stamp: int
    image: Image  # RGB, reduced
    before: Image | None  # of the same scene
    flows: list[tuple[_Window, Field | None]] = field(default_factory=list)  # pixels; None: a cut


@dataclass
class _Source:
    """One object as the network saw it, and where that is in the newest image."""

    mask: Field  # [h, w] in [0, 1], of the work image
    colours: ColourModel | None
    box: Box  # in the newest image
    window: _Window | None = None  # in the newest image
    motion: Field | None = None  # from there to the network's image, pixels
    carried: CroppedMask | None = None
    confidence: float = 1.0


class MaskCarrier:
    """Takes every camera image and every answer of the network; gives the masks of the newest image.

    Not thread-safe. It keeps at most :data:`KEPT_IMAGES` images of :data:`WORK_PIXELS` pixels.
    """

    def __init__(self) -> None:
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._flow.setFinestScale(0)
        self._steps: OrderedDict[int, _Step] = OrderedDict()  # by stamp, the newest last
        self._size = (0, 0)  # of the camera's image: width, height
        self._factor = 1
        self._answer: FrameResult | None = None
        self._answered: _Step | None = None  # the image that it is for, if that is known
        self._sources: dict[int, _Source] = {}

    def add_image(self, rgb: Image, stamp: int) -> None:
        """The next camera image, RGB ``uint8 [H, W, 3]``, at ``stamp`` (ns).

        After a cut, a jump back in time or another image size, no mask is carried until the network has answered for an
        image after it.
        """
        height, width = rgb.shape[:2]
        before = self._newest
        if (width, height) != self._size:
            self._size, before = (width, height), None
            self._factor = max(1, math.ceil(math.sqrt(width * height / WORK_PIXELS)))
        image = np.ascontiguousarray(rgb[:: self._factor, :: self._factor])
        if before is None or stamp <= before.stamp:
            self._steps.clear()
            self._sources.clear()
            before = self._answered = None
        step = self._steps[stamp] = _Step(stamp, image, None if before is None else before.image)
        while len(self._steps) > KEPT_IMAGES:
            self._steps.popitem(last=False)
        if self._sources:
            self._measure(step, [source.box for source in self._sources.values()], FLOW_SAMPLES)
        for object_id, source in list(self._sources.items()):
            window = self._window_at(step, source.box)
            points = window.points()
            motion = self._motion(step, points, source.box)
            if motion is None:
                del self._sources[object_id]
                continue
            if source.window is not None and source.motion is not None:
                motion = motion + source.window.look_up(source.motion, points + motion)
            self._place(source, window, points, motion)

    def update(self, result: FrameResult) -> None:
        """The network's newest answer. Its masks are carried if its image was added and belongs to the same scene."""
        boxes = {object_id: source.box for object_id, source in self._sources.items()}
        self._answer = result
        self._sources.clear()
        step = self._answered = self._steps.get(result.stamp)
        if step is None:
            return
        for obj in result.objects:
            mask = obj.mask.full()[:: self._factor, :: self._factor].astype(np.float32)
            box = _box_of(mask > 0)
            if box is None:
                continue
            window = _Window.of(_grown(box, mask.shape), FLOW_SAMPLES)
            colours = ColourModel.of(window.sample(step.image), window.sample(mask) > 0.5)
            source = _Source(mask, colours, boxes.get(obj.object_id, box))
            if self._catch_up(source, result.stamp):
                self._sources[obj.object_id] = source

    def carried(self) -> Carried | None:
        """The objects as of the newest image; None before the first image or answer."""
        newest, answer = self._newest, self._answer
        if newest is None or answer is None:
            return None
        if newest is self._answered:
            return Carried(answer, answer.stamp, 0, {obj.object_id: 1.0 for obj in answer.objects})
        width, height = self._size
        empty = CroppedMask.empty(width, height)
        too_old = newest.stamp - answer.stamp > KEPT_SECONDS * 1e9
        objects, confidence = [], {}
        for obj in answer.objects:
            source = None if too_old else self._sources.get(obj.object_id)
            mask = source.carried if source is not None and source.carried is not None else empty
            objects.append(replace(obj, mask=mask, prompted=False))
            confidence[obj.object_id] = source.confidence if source is not None and mask.area else 0.0
        result = replace(answer, stamp=newest.stamp, width=width, height=height, objects=tuple(objects), changes=())
        return Carried(result, answer.stamp, sum(stamp > answer.stamp for stamp in self._steps), confidence)

    @property
    def _newest(self) -> _Step | None:
        return next(reversed(self._steps.values())) if self._steps else None

    def _measure(self, step: _Step, boxes: Sequence[Box], samples: float) -> None:
        """Adds the motion around ``boxes`` to ``step``, measured at so many samples in all."""
        if step.before is None:
            return
        areas = _merged([_grown(box, step.image.shape) for box in boxes])
        share = samples / sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in areas)
        for x0, y0, x1, y1 in areas:
            window = _Window.of((x0, y0, x1, y1), share * (x1 - x0) * (y1 - y0))
            now, before = (_grey(window.sample(image)) for image in (step.image, step.before))
            flow = self._flow.calc(now, before, None)
            step.flows.append((window, None if _is_cut(now, before, flow) else flow * window.pitch))

    def _flow_at(self, step: _Step, box: Box) -> tuple[_Window, Field | None]:
        """The motion around a box."""
        for window, flow in step.flows:
            if _contains(window.box, box):
                return window, flow
        self._measure(step, [box], FLOW_SAMPLES / 4)
        return step.flows[-1]

    def _window_at(self, step: _Step, box: Box) -> _Window:
        """Where to look for an object in ``step``: around its box, sampled as the motion is."""
        window, _ = self._flow_at(step, box)
        area = _grown(box, step.image.shape)
        if window.box == area:
            return window
        return _Window.of(area, (area[2] - area[0]) * (area[3] - area[1]) / float(np.prod(window.pitch)))

    def _motion(self, step: _Step, points: Field, box: Box) -> Field | None:
        """From ``points`` of ``step`` to the image before, in pixels; None if that shows another scene."""
        window, flow = self._flow_at(step, box)
        return None if flow is None else window.look_up(flow, points)

    def _catch_up(self, source: _Source, stamp: int) -> bool:
        """Carries an object from the network's image at ``stamp`` to the newest one; False if a cut lies between."""
        later = [step for step in self._steps.values() if step.stamp > stamp]
        if not later:
            return True
        window = self._window_at(later[-1], source.box)
        points = window.points()
        at, box = points, source.box
        for step in reversed(later):
            moved = self._motion(step, at, box)
            if moved is None:
                return False
            at = at + moved
            dx, dy = np.rint(cv2.mean(moved)[:2])
            box = _clipped((box[0] + dx, box[1] + dy, box[2] + dx, box[3] + dy), step.image.shape)
        self._place(source, window, points, at - points)
        return True

    def _place(self, source: _Source, window: _Window, points: Field, motion: Field) -> None:
        """Looks the network's mask up through ``motion``, and lets colours decide along its border."""
        source.window, source.motion = window, motion
        at = points + motion
        soft = cv2.remap(source.mask, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
        inside = soft > 0.5
        source.carried = None
        if not inside.any():
            return
        pixels = inside.view(np.uint8)
        area = cv2.countNonZero(pixels)
        distance = cv2.distanceTransform(pixels, cv2.DIST_L2, 3) - cv2.distanceTransform(1 - pixels, cv2.DIST_L2, 3)
        moved = motion[inside] / window.pitch
        deformation = sum(cv2.mean(np.abs(moved - np.array(cv2.mean(moved[:, None])[:2], np.float32))[:, None])[:2]) / 2
        source.confidence = math.exp(-DOUBT * deformation / math.sqrt(area))
        band = min(WIDEST_BAND, BAND + deformation)
        level = np.clip(distance / band, -1, 1) * LARGEST
        if source.colours is not None:
            newest = self._newest
            assert newest is not None
            level += np.where(
                np.abs(distance) < band, COLOUR_GAIN * source.colours.evidence(window.sample(newest.image)), 0
            )
        self._show(source, window, level)

    def _show(self, source: _Source, window: _Window, level: Field) -> None:
        """Makes the mask, in pixels of the camera's image, of what is above zero."""
        x0, y0, x1, y1 = (self._factor * edge for edge in window.box)
        width, height = self._size
        x1, y1 = min(x1, width), min(y1, height)
        full = CroppedMask.from_full(cv2.resize(level, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR) > 0)
        if not full.area:
            return
        source.carried = CroppedMask(full.crop, x0 + full.x, y0 + full.y, width, height)
        left, top, right, bottom = source.carried.box
        n = self._factor
        source.box = (left // n, top // n, -(-right // n), -(-bottom // n))


def _is_cut(now: Image, before: Image, flow: Field) -> bool:
    """Whether ``before`` does not show, where ``flow`` points to, what ``now`` shows."""
    height, width = now.shape
    at = flow + np.stack(np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)), axis=2)
    explained = cv2.remap(before, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    difference = cv2.mean(cv2.absdiff(now, explained))[0]
    contrast = float(cv2.meanStdDev(now)[1][0, 0])
    return difference > max(NOISE, CUT_DIFFERENCE * contrast)


def _grey(rgb: Image) -> Image:
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY))


def _box_of(mask: NDArray[np.bool_]) -> Box | None:
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    return (x, y, x + width, y + height) if width else None


def _clipped(box: Sequence[float], shape: tuple[int, ...]) -> Box:
    """Within an image of ``shape``, at least one pixel."""
    height, width = shape[:2]
    x0, y0 = min(max(0, int(box[0])), width - 1), min(max(0, int(box[1])), height - 1)
    return x0, y0, min(width, max(x0 + 1, int(box[2]))), min(height, max(y0 + 1, int(box[3])))


def _grown(box: Box, shape: tuple[int, ...]) -> Box:
    """With a margin, within an image of ``shape``."""
    x0, y0, x1, y1 = box
    dx, dy = max(MIN_MARGIN, MARGIN * (x1 - x0)), max(MIN_MARGIN, MARGIN * (y1 - y0))
    return _clipped((x0 - dx, y0 - dy, x1 + dx, y1 + dy), shape)


def _contains(outer: Box, inner: Box) -> bool:
    return outer[0] <= inner[0] and outer[1] <= inner[1] and inner[2] <= outer[2] and inner[3] <= outer[3]


def _merged(boxes: Sequence[Box]) -> list[Box]:
    """Boxes that overlap become one where that is smaller than both."""
    merged = list(boxes)
    while True:
        for i, a in enumerate(merged):
            for j in range(i):
                b = merged[j]
                both = (min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3]))
                if _area(both) <= _area(a) + _area(b):
                    merged[j] = both
                    del merged[i]
                    break
            else:
                continue
            break
        else:
            return merged


def _area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])
