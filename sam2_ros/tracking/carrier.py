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

import cv2
import numpy as np
from numpy.typing import NDArray

from sam2_ros.tracking.colour_model import LARGEST, ColourModel
from sam2_ros.tracking.flow_window import Box, Field, FlowWindow, Pyramid, area_of, both, box_of, clipped, contains, grown
from sam2_ros.tracking.types import CroppedMask, FrameResult

Image = NDArray[np.uint8]

WORK_PIXELS = 1_000_000  # larger images are reduced by a whole factor
KEPT_IMAGES = 24  # the network may be that many images late
KEPT_SECONDS = 2.0  # a mask is carried no longer
FLOW_SAMPLES = 24_000  # of all windows of an image together, so that the cost does not grow with the image
LEAST_SAMPLES = 4_000  # of an object's colours, among many objects
BAND = 4.0  # samples on both sides of a carried border that colours may decide; more where the object deforms
WIDEST_BAND = 16.0
COLOUR_GAIN = 1.2
DOUBT = 2.5  # confidence is exp(-DOUBT × deformation / object's side), fitted to the IoU that carrying keeps
# Two images in a row show different scenes where the flow leaves a mean difference of more than this share of the
# contrast, and more than noise. Of 29 films 99 % of the images stay below 0.53, and of pairs from two films none.
CUT_DIFFERENCE = 0.6
NOISE = 6.0  # grey levels
ALIKE = 4.0  # pixels an image: objects whose velocities differ less share a window


@dataclass(frozen=True)
class Carried:
    """The objects as of the newest camera image."""

    result: FrameResult  # masks carried; stamp and size are the newest image's, everything else the network's
    network_stamp: int  # ns, of the image that the network processed
    frames: int  # camera images from there to the newest one
    confidence: Mapping[int, float]  # [0, 1] by object id


@dataclass
class _Step:
    """A camera image, and the motion from it to the image before, measured where it was needed."""

    stamp: int
    number: int  # counts up by 1
    image: Pyramid  # RGB, reduced
    grey: Pyramid
    before: Pyramid | None  # grey, of the same scene
    flows: list[tuple[FlowWindow, Field]] = field(default_factory=list)  # pixels


@dataclass
class _Source:
    """One object as the network saw it, and where that is in the newest image."""

    mask: Field  # [h, w] in [0, 1], a part of the work image with a border of zeros
    corner: tuple[int, int]  # of that part in the work image: x, y
    colours: ColourModel | None
    box: Box  # in the newest image
    velocity: Field  # [2] pixels an image
    window: FlowWindow | None = None  # in the newest image
    motion: Field | None = None  # from there to the network's image, pixels
    soft: Field | None = None  # the mask there, by the motion alone

    def mask_at(self, points: Field) -> Field:
        """The network's mask at points of the work image of its own frame."""
        at = points - np.array(self.corner, np.float32)
        return np.asarray(cv2.remap(self.mask, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT))

    @property
    def reach(self) -> Box:
        """Where it may be in the next image."""
        dx, dy = np.rint(self.velocity)
        x0, y0, x1, y1 = self.box
        return both(self.box, (int(x0 + dx), int(y0 + dy), int(x1 + dx), int(y1 + dy)))


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
        self._count = 0  # of images
        self._answer: FrameResult | None = None
        self._carried: FrameResult | None = None  # the newest answer whose image is known
        self._answered: _Step | None = None  # that image
        self._awaited = False  # the image of the newest answer may still come
        self._sources: dict[int, _Source] = {}

    def add_image(self, rgb: Image, stamp: int) -> None:
        """The next camera image, RGB ``uint8 [H, W, 3]``, at ``stamp`` (ns).

        After a cut, a jump back in time or another image size, no mask is carried until the network has answered for an
        image after it.
        """
        height, width = rgb.shape[:2]
        before = self._newest
        if before is not None and stamp <= before.stamp:
            before, self._awaited = None, False
        if (width, height) != self._size:
            self._size, before = (width, height), None
            self._factor = max(1, math.ceil(math.sqrt(width * height / WORK_PIXELS)))
        image = _reduced(rgb, self._factor)
        if before is None:
            self._steps.clear()
            self._sources.clear()
            self._carried = self._answered = None
        self._count += 1
        step = self._steps[stamp] = _Step(stamp, self._count, Pyramid(image), Pyramid(_grey(image)), before.grey if before else None)
        while len(self._steps) > KEPT_IMAGES:
            self._steps.popitem(last=False)
        if self._answered is not None and _too_late(self._answered, step):
            self._sources.clear()
        if self._sources:
            self._measure(step, [(source.reach, source.velocity) for source in self._sources.values()], FLOW_SAMPLES)
        for object_id, source in list(self._sources.items()):
            if not self._advance(source, step):
                del self._sources[object_id]
        if self._awaited and self._answer is not None and stamp == self._answer.stamp:
            self.update(self._answer)

    def update(self, result: FrameResult) -> None:
        """The network's newest answer, also a changed one for the same image.

        Its masks are carried if its image was added and belongs to the same scene. If the image comes later or was left
        out, the masks of the answer before are carried on.
        """
        self._answer = result
        again = self._answered is not None and self._carried is not None and self._carried.stamp == result.stamp
        answered = self._answered if again else self._steps.get(result.stamp)
        if answered is None or (result.width, result.height) != self._size:
            self._awaited = not self._steps or result.stamp > next(reversed(self._steps))
            living = {obj.object_id for obj in result.objects if obj.mask.area}
            self._sources = {key: source for key, source in self._sources.items() if key in living}
            if not self._sources:
                self._carried = self._answered = None
            return
        moving, before = self._velocities(result), self._sources
        same = {obj.object_id: obj.mask for obj in self._carried.objects} if again and self._carried else {}
        self._carried, self._answered, self._awaited, self._sources = result, answered, False, {}
        image = answered.image
        later = [step for step in self._steps.values() if step.stamp > result.stamp]
        complete = not later or (later[0].number == answered.number + 1 and not _too_late(answered, later[-1]))
        samples = max(LEAST_SAMPLES, FLOW_SAMPLES / max(1, len(result.objects)))
        for obj in result.objects:
            if obj.object_id in before and obj.object_id in same and _equal(obj.mask, same[obj.object_id]):
                self._sources[obj.object_id] = before[obj.object_id]
                continue
            mask, corner = _reduced_mask(obj.mask, self._factor)
            box = box_of(mask > 0)
            if box is None or not complete:
                continue
            box = (box[0] + corner[0], box[1] + corner[1], box[2] + corner[0], box[3] + corner[1])
            still = np.zeros(2, np.float32)
            colours = None
            for velocity in (moving.get(obj.object_id, still), still):  # what moved over a cut is no velocity
                source = _Source(mask, corner, colours, box, velocity)
                if source.colours is None:
                    window = FlowWindow.of(grown(box, image.shape), samples)
                    colours = ColourModel.of(window.sample(image), source.mask_at(window.points()) > 0.5)
                    source.colours = colours
                if all(self._advance(source, step) for step in later):
                    self._sources[obj.object_id] = source
                    if source.soft is None or source.soft.any():
                        break

    def _velocities(self, result: FrameResult) -> dict[int, Field]:
        """How objects moved from the answer before to this one, in pixels of the work image in one image."""
        last = self._carried
        images = sum(last is not None and last.stamp < stamp <= result.stamp for stamp in self._steps)
        if last is None or not images or last.stamp not in self._steps:
            return {}
        before = {obj.object_id: _centre(obj.mask) for obj in last.objects if obj.mask.area}
        return {
            obj.object_id: (_centre(obj.mask) - before[obj.object_id]) / np.float32(images * self._factor)
            for obj in result.objects
            if obj.mask.area and obj.object_id in before
        }

    def carried(self) -> Carried | None:
        """The objects as of the newest image; None before the first image or answer."""
        newest, answer, answered = self._newest, self._answer, self._answered
        if newest is None or answer is None:
            return None
        if newest is answered and answer is self._carried:
            return Carried(answer, answer.stamp, 0, {obj.object_id: 1.0 for obj in answer.objects})
        network_stamp = answer.stamp if answered is None else answered.stamp
        width, height = self._size
        empty = CroppedMask.empty(width, height)
        objects, confidence = [], {}
        for obj in answer.objects:
            source = self._sources.get(obj.object_id)
            mask, trust = (empty, 0.0) if source is None else self._shown(source, newest.image)
            objects.append(replace(obj, mask=mask, prompted=False))
            confidence[obj.object_id] = trust
        result = replace(answer, stamp=newest.stamp, width=width, height=height, objects=tuple(objects), changes=())
        later = sum(stamp > network_stamp for stamp in self._steps)
        frames = later if answered is None else newest.number - answered.number
        return Carried(result, network_stamp, frames, confidence)

    @property
    def _newest(self) -> _Step | None:
        return next(reversed(self._steps.values())) if self._steps else None

    def _measure(self, step: _Step, places: Sequence[tuple[Box, Field]], samples: float) -> None:
        """Adds the motion around boxes, with the velocity that is expected there, at so many samples in all."""
        areas = _merged([(grown(box, step.image.shape), velocity) for box, velocity in places])
        share = samples / sum(area_of(area) for area, _ in areas)
        for area, velocity in areas:
            window = FlowWindow.of(area, share * area_of(area))
            flow = self._flow_between(step, window, velocity)
            if flow is not None:
                step.flows.append((window, flow))

    def _flow_between(self, step: _Step, window: FlowWindow, velocity: Field) -> Field | None:
        """From a window of ``step`` to the image before, in pixels; None where that shows another scene.

        The image before is looked at where the window was by ``velocity``, so that the flow has less to find.
        """
        if step.before is None:
            return None
        height, width = step.image.shape[:2]
        x0, y0, x1, y1 = window.box
        dx = int(np.clip(round(float(-velocity[0])), -x0, width - x1))
        dy = int(np.clip(round(float(-velocity[1])), -y0, height - y1))
        now, before = window.sample(step.grey), window.sample(step.before, (dx, dy))
        flow = self._flow.calc(now, before, None)
        return None if _is_cut(now, before, flow) else flow * window.pitch + np.array([dx, dy], np.float32)

    def _flow_at(self, step: _Step, box: Box) -> tuple[FlowWindow, Field] | None:
        """The motion that was measured around a box."""
        inside = clipped(box, step.image.shape)
        return next(((window, flow) for window, flow in step.flows if contains(window.box, inside)), None)

    def _advance(self, source: _Source, step: _Step) -> bool:
        """Carries an object from the image before to ``step``; False after a cut."""
        reach = source.reach
        flow = self._flow_at(step, reach)
        if flow is None:
            self._measure(step, [(reach, source.velocity)], FLOW_SAMPLES / 4)
            flow = self._flow_at(step, reach)
        if flow is None:
            return False
        flow_window, backward = flow
        area = grown(reach, step.image.shape)
        window = FlowWindow.of(area, area_of(area) / float(np.prod(flow_window.pitch)))
        points = window.points()
        last = flow_window.look_up(backward, points)
        motion = last
        if source.window is not None and source.motion is not None:
            motion = last + source.window.look_up(source.motion, points + last)
        source.window, source.motion = window, motion
        source.soft = source.mask_at(points + motion)
        inside = (source.soft > 0.5).view(np.uint8)
        x, y, width, height = cv2.boundingRect(inside)
        if width:
            left, top = window.box[:2]
            px, py = window.pitch
            source.box = (
                int(left + x * px),
                int(top + y * py),
                *np.ceil((left + (x + width) * px, top + (y + height) * py)).astype(int).tolist(),
            )
            source.velocity = -np.array(cv2.mean(last, inside)[:2], np.float32)
        else:
            source.box = reach
        return True

    def _shown(self, source: _Source, image: Pyramid) -> tuple[CroppedMask, float]:
        """The carried mask, its border decided by colours too, in the camera's pixels; and the trust in it."""
        window, motion, soft = source.window, source.motion, source.soft
        empty = CroppedMask.empty(*self._size), 0.0
        if window is None or motion is None or soft is None:
            return empty
        pixels = (soft > 0.5).view(np.uint8)
        area = cv2.countNonZero(pixels)
        if not area:
            return empty
        distance = cv2.distanceTransform(pixels, cv2.DIST_L2, 3) - cv2.distanceTransform(1 - pixels, cv2.DIST_L2, 3)
        spread = np.abs(motion - np.array(cv2.mean(motion, pixels)[:2], np.float32)) / window.pitch
        deformation = sum(cv2.mean(spread, pixels)[:2]) / 2
        band = min(WIDEST_BAND, BAND + deformation)
        level = np.clip(distance / band, -1, 1) * np.float32(LARGEST)
        if source.colours is not None:
            level += np.where(np.abs(distance) < band, COLOUR_GAIN * source.colours.evidence(window.sample(image)), 0)
        x0, y0, x1, y1 = (self._factor * edge for edge in window.box)
        width, height = self._size
        size = x1 - x0, y1 - y0
        found = CroppedMask.from_full(cv2.resize(level, size, interpolation=cv2.INTER_LINEAR) > 0)
        if not found.area:
            return empty
        mask = CroppedMask(found.crop, x0 + found.x, y0 + found.y, width, height)
        return mask, math.exp(-DOUBT * deformation / math.sqrt(area))


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


def _merged(places: Sequence[tuple[Box, Field]]) -> list[tuple[Box, Field]]:
    """Boxes that move alike become one where that is no larger than both."""
    merged: list[tuple[Box, Field]] = []
    for box, velocity in places:
        index = 0
        while index < len(merged):
            other, its = merged[index]
            union = both(box, other)
            alike = float(np.abs(velocity - its).max()) <= ALIKE
            if alike and area_of(union) <= area_of(box) + area_of(other):
                share = area_of(other) / (area_of(box) + area_of(other))
                box, velocity = union, share * its + (1 - share) * velocity
                del merged[index]
                index = 0
            else:
                index += 1
        merged.append((box, velocity))
    return merged


def _too_late(answered: _Step, now: _Step) -> bool:
    return now.stamp - answered.stamp > KEPT_SECONDS * 1e9


def _equal(a: CroppedMask, b: CroppedMask) -> bool:
    return a is b or (a.box == b.box and np.array_equal(a.crop, b.crop))


def _reduced(image: Image, factor: int) -> Image:
    """Every ``factor``-th pixel of every ``factor``-th row."""
    if factor == 1:
        return np.ascontiguousarray(image)
    height, width = image.shape[0] // factor, image.shape[1] // factor
    whole = image[: height * factor, : width * factor]
    return np.asarray(cv2.resize(whole, (width, height), interpolation=cv2.INTER_NEAREST))


def _reduced_mask(mask: CroppedMask, factor: int) -> tuple[Field, tuple[int, int]]:
    """The same pixels of a mask, of its crop alone, with a border of zeros; and where that lies."""
    x, y = -(-mask.x // factor), -(-mask.y // factor)
    crop = mask.crop[y * factor - mask.y :: factor, x * factor - mask.x :: factor]
    return np.pad(crop.astype(np.float32), 1), (x - 1, y - 1)


def _centre(mask: CroppedMask) -> Field:
    x0, y0, x1, y1 = mask.box
    return np.array([(x0 + x1) / 2, (y0 + y1) / 2], np.float32)
