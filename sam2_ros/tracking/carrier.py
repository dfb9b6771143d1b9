"""Carries the network's newest masks to the newest camera image, by optical flow and colour; without torch.

A mask that the network made of one image is out of date when it is ready. The carrier follows every camera image: it
measures the motion from the image before, only around the objects and at a resolution that keeps the cost constant,
adds the motions up to the image of the mask, and looks the mask up there. Along the mask's border, where the newest
image is not what the motion makes of the network's, the object's colours decide, which brings back thin and fast parts
that the flow misses.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from sam2_ros.tracking.carried_object import FLOW_SAMPLES, CarriedObject
from sam2_ros.tracking.flow_window import Field, Pyramid
from sam2_ros.tracking.image_motion import ImageMotion, Step
from sam2_ros.tracking.types import CroppedMask, FrameResult, ObjectResult

Image = NDArray[np.uint8]

WORK_PIXELS = 1_000_000  # larger images are reduced by a whole factor
KEPT_BYTES = 96 * 2**20  # of images: an answer for one that is no longer kept comes too late
KEPT_SECONDS = 2.0  # a mask is carried no longer
LEAST_SAMPLES = 4_000  # of an object's colours, among many objects


@dataclass(frozen=True)
class Carried:
    """The objects as of the newest camera image."""

    result: FrameResult  # masks carried; stamp and size are the newest image's, everything else the network's
    network_stamp: int  # ns, of the image that the network processed
    frames: int  # camera images from there to the newest one
    confidence: Mapping[int, float]  # [0, 1] by object id
    too_late: bool = False  # the image of the newest answer is no longer kept


class MaskCarrier:
    """Takes every camera image and every answer of the network; gives the masks of the newest image.

    Not thread-safe. It keeps images of at most :data:`KEPT_BYTES`, and about as much again of what is made from them.
    """

    def __init__(self) -> None:
        self._motion = ImageMotion()
        self._steps: OrderedDict[int, Step] = OrderedDict()  # by stamp, the newest last
        self._size = (0, 0)  # of the camera's image: width, height
        self._factor = 1
        self._count = 0  # of images
        self._answer: FrameResult | None = None
        self._carried: FrameResult | None = None  # the newest answer whose image is known
        self._answered: Step | None = None  # that image
        self._awaited = False  # the image of the newest answer may still come
        self._too_late = False
        self._sources: dict[int, CarriedObject] = {}  # by object id
        self._asked: dict[int, tuple[int, ObjectResult]] = {}  # by object id: masks of prompts, and their stamps

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
        if before is None:
            for known in (self._steps, self._sources, self._asked):
                known.clear()
            self._carried = self._answered = None
        self._count += 1
        image = Pyramid(reduced_image(rgb, self._factor))
        step = Step(stamp, self._count, image, before.image if before else None)
        self._steps[stamp] = step
        while len(self._steps) * step.size_bytes > KEPT_BYTES or _out_of_date(self._oldest, step):
            self._steps.popitem(last=False)
        self._sources = {key: obj for key, obj in self._sources.items() if not self._is_out_of_date(key, step)}
        if self._sources:
            self._motion.measure(step, [(obj.reach, obj.velocity) for obj in self._sources.values()], FLOW_SAMPLES)
        self._sources = {key: obj for key, obj in self._sources.items() if obj.advance(step, self._motion)}
        if self._awaited and self._answer is not None and stamp == self._answer.stamp:
            self.update(self._answer)

    def update(self, result: FrameResult) -> None:
        """The network's newest answer, also a changed one for the same image.

        Its masks are carried if its image was added and belongs to the same scene. If the image comes later or was left
        out, the masks of the answer before are carried on.
        """
        self._answer, self._too_late = result, False
        self._asked = {key: asked for key, asked in self._asked.items() if asked[0] > result.stamp}
        again = self._answered is not None and self._carried is not None and self._carried.stamp == result.stamp
        answered = self._answered if again else self._steps.get(result.stamp)
        before = self._sources
        if answered is None or (result.width, result.height) != self._size:
            stamps = list(self._steps)
            self._awaited = not stamps or result.stamp > stamps[-1]
            self._too_late = bool(stamps) and result.stamp < stamps[0]
            living = {obj.object_id for obj in result.objects if obj.mask.area} | set(self._asked)
            self._sources = {key: obj for key, obj in before.items() if key in living}
            if not self._sources:
                self._carried = self._answered = None
            return
        moving = self._velocities(result)
        same = {obj.object_id: obj.mask for obj in self._carried.objects} if again and self._carried else {}
        self._carried, self._answered, self._awaited = result, answered, False
        self._sources = {key: before[key] for key in self._asked if key in before}
        samples = max(LEAST_SAMPLES, FLOW_SAMPLES / max(1, len(result.objects)))
        for obj in result.objects:
            key = obj.object_id
            if key in before and key in same and _equal(obj.mask, same[key]):
                self._sources[key] = before[key]
            elif key not in self._asked:
                self._begin(key, obj.mask, answered, samples, moving.get(key))

    def ask(self, obj: ObjectResult, stamp: int) -> None:
        """An object's mask as a prompt gives it for a kept image, until the network answers for that or a later one."""
        asked = self._steps.get(stamp)
        if asked is None or (obj.mask.width, obj.mask.height) != self._size:
            return
        self._asked[obj.object_id] = stamp, obj
        self._sources.pop(obj.object_id, None)
        self._begin(obj.object_id, obj.mask, asked, FLOW_SAMPLES, None)

    def _begin(self, key: int, mask: CroppedMask, seen: Step, samples: float, velocity: Field | None) -> None:
        """Carries a mask from the image ``seen`` to the newest one, if that shows the same scene."""
        later = [step for step in self._steps.values() if step.stamp > seen.stamp]
        if later and (later[0].number != seen.number + 1 or _out_of_date(seen, later[-1])):
            return
        obj = CarriedObject.of(mask, seen.image, self._factor, samples)
        if obj is None:
            return
        # What moved over a cut is no velocity: if the object is not found with it, it is taken to stand.
        for begun in (obj, copy(obj)) if velocity is not None else (obj,):
            begun.velocity = velocity if velocity is not None and begun is obj else obj.velocity * 0
            if all(begun.advance(step, self._motion) for step in later):
                self._sources[key] = begun
                if begun.soft is None or begun.soft.any():
                    return

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
        newest, answer, answered, asked = self._newest, self._answer, self._answered, self._asked
        if newest is None or (answer is None and not asked):
            return None
        if newest is answered and answer is self._carried and answer is not None and not asked:
            return Carried(answer, answer.stamp, 0, {obj.object_id: 1.0 for obj in answer.objects})
        width, height = self._size
        if answer is None:
            answer = FrameResult(0, min(stamp for stamp, _ in asked.values()), width, height, ())
        network_stamp = answer.stamp if answered is None else answered.stamp
        told = {obj.object_id: obj for obj in answer.objects}
        told |= {key: obj for key, (_, obj) in asked.items() if key not in told}
        empty = CroppedMask.empty(width, height)
        objects, confidence = [], {}
        for key, obj in told.items():
            source = self._sources.get(key)
            mask, trust = (empty, 0.0) if source is None else source.shown(newest.image)
            objects.append(replace(obj, mask=mask, prompted=False))
            confidence[key] = trust
        result = replace(answer, stamp=newest.stamp, width=width, height=height, objects=tuple(objects), changes=())
        if answered is None:
            frames = sum(stamp > network_stamp for stamp in self._steps)
        else:
            frames = newest.number - answered.number
        return Carried(result, network_stamp, frames, confidence, self._too_late)

    def _is_out_of_date(self, key: int, now: Step) -> bool:
        """Whether an object's mask, of a prompt or of the newest answer, is too old to be carried."""
        if key in self._asked:
            return now.stamp - self._asked[key][0] > KEPT_SECONDS * 1e9
        return self._answered is not None and _out_of_date(self._answered, now)

    @property
    def _oldest(self) -> Step:
        return next(iter(self._steps.values()))

    @property
    def _newest(self) -> Step | None:
        return next(reversed(self._steps.values())) if self._steps else None


def _out_of_date(answered: Step, now: Step) -> bool:
    return now.stamp - answered.stamp > KEPT_SECONDS * 1e9


def _equal(a: CroppedMask, b: CroppedMask) -> bool:
    return a is b or (a.box == b.box and np.array_equal(a.crop, b.crop))


def reduced_image(image: Image, factor: int) -> Image:
    """Every ``factor``-th pixel of every ``factor``-th row."""
    if factor == 1:
        return np.ascontiguousarray(image)
    height, width = image.shape[0] // factor, image.shape[1] // factor
    rows = np.ascontiguousarray(image[: height * factor : factor])
    # Four bytes at a time, a pixel and one of the next, which is there: NumPy and OpenCV copy three more slowly.
    wide = np.ndarray((height, width), np.uint32, rows, strides=(rows.strides[0], 3 * factor))
    return np.asarray(
        cv2.cvtColor(np.ascontiguousarray(wide).view(np.uint8).reshape(height, width, 4), cv2.COLOR_RGBA2RGB)
    )


def _centre(mask: CroppedMask) -> Field:
    x0, y0, x1, y1 = mask.box
    return np.array([(x0 + x1) / 2, (y0 + y1) / 2], np.float32)
