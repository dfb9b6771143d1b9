"""Carries masks over the frames on which the network does not look at their objects, by optical flow. Free of torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sam2_ros.tracking.camera_motion import STANDING, Motion
from sam2_ros.tracking.carried_object import FLOW_SAMPLES, CarriedObject
from sam2_ros.tracking.carrier import LEAST_SAMPLES, WORK_PIXELS, reduced_image
from sam2_ros.tracking.flow_window import Box, Field, Pyramid
from sam2_ros.tracking.image_motion import ImageMotion, Step
from sam2_ros.tracking.masks import resampled
from sam2_ros.tracking.objects import LiveObject
from sam2_ros.tracking.types import CroppedMask
from sam2_ros.tracking.windows import Window

Image = NDArray[np.uint8]

LONGEST = 4  # frames over which a mask is carried from one image; then anew from the newest one
MOST_BYTES = (LONGEST + 2) * WORK_PIXELS * 4  # of images and their halves


@dataclass(frozen=True)
class FollowedMask:
    """A mask that was carried from one frame to the next."""

    before: CroppedMask | None  # on the frame before
    mask: CroppedMask  # empty: it is not found
    trust: float  # [0, 1], less where it is deformed or where its area changed


@dataclass
class _Source:
    """What an object's mask is carried from."""

    carried: CarriedObject
    begin: int  # frame
    area: int  # of the mask there, pixels
    camera: Field  # [2] what of its velocity is the camera's, pixels an image
    shown: CroppedMask | None = None  # the newest mask that came of it


class MaskFollower:
    """Carries masks from each frame to the next. Not thread-safe."""

    def __init__(self) -> None:
        self._motion = ImageMotion()
        self._step: Step | None = None  # the newest frame
        self._size = self._frame_size = (0, 0)  # of its image, and of the frame: width, height
        self._sources: dict[int, _Source] = {}  # by object id

    def add_image(self, image: Image | None, frame: int, size: tuple[int, int]) -> None:
        """The next frame, RGB ``uint8 [h, w, 3]``, perhaps smaller than its ``size`` (width, height); None: it was not
        kept."""
        before, self._step = self._step, None
        if image is None:
            return
        follows = before is not None and frame == before.number + 1 and size == self._frame_size
        self._frame_size, self._size = size, (image.shape[1], image.shape[0])
        seen = Pyramid(reduced_image(image, self._factor))
        self._step = Step(frame, frame, seen, before.image if before is not None and follows else None)

    def carry(self, objects: Sequence[LiveObject], motion: Motion = STANDING) -> dict[int, FollowedMask]:
        """The masks of ``objects`` on the newest frame, by their ids, carried from the one before, from which the
        camera moved by ``motion``. Those that are not found are left out."""
        step, known, self._sources = self._step, self._sources, {}
        if step is None or step.before is None:
            return {}
        objects = [obj for obj in objects if self._is_of(obj, step.number - 1)]
        samples = max(LEAST_SAMPLES, FLOW_SAMPLES / max(1, len(objects)))
        for obj in objects:
            source = known.get(obj.object_id)
            if source is None or source.shown is not obj.mask or step.number - source.begin > LONGEST:
                source = self._begin(obj, step, samples)
            if source is not None:
                self._sources[obj.object_id] = source
                camera = _moved(source.carried.box, motion, step.image.shape)
                source.carried.velocity = source.carried.velocity + camera - source.camera
                source.camera = camera
        if self._sources:
            places = [(each.carried.reach, each.carried.velocity) for each in self._sources.values()]
            self._motion.measure(step, places, FLOW_SAMPLES)
        followed = {}
        for obj in objects:
            source = self._sources.get(obj.object_id)
            found = None if source is None or obj.mask is None else self._advanced(source, step)
            if source is None or obj.mask is None or found is None:
                self._sources.pop(obj.object_id, None)
                continue
            mask, trust = found
            source.shown = _scaled(mask, obj.mask.width, obj.mask.height)
            ratio = source.shown.area / source.area
            followed[obj.object_id] = FollowedMask(obj.mask, source.shown, trust * min(ratio, 1 / max(ratio, 1e-6)))
        return followed

    def _is_of(self, obj: LiveObject, frame: int) -> bool:
        """Whether the object's mask is of ``frame``, and of the newest frame's size."""
        mask = obj.mask
        return mask is not None and obj.newest_frame == frame and (mask.width, mask.height) == self._frame_size

    @property
    def _factor(self) -> int:
        return max(1, math.ceil(math.sqrt(self._size[0] * self._size[1] / WORK_PIXELS)))

    def _begin(self, obj: LiveObject, step: Step, samples: float) -> _Source | None:
        if obj.mask is None or step.before is None:
            return None
        carried = CarriedObject.of(_scaled(obj.mask, *self._size), step.before, self._factor, samples)
        if carried is None:
            return None
        if obj.trail.frames and obj.trail.frames[-1] == step.number - 1:
            carried.velocity = (obj.trail.step * self._size / self._factor).astype(np.float32)
        return _Source(carried, step.number - 1, obj.mask.area, np.zeros(2, np.float32))

    def _advanced(self, source: _Source, step: Step) -> tuple[CroppedMask, float] | None:
        carried = source.carried
        # Where it is not found with its velocity, it is taken to stand on the table.
        for attempt in (carried, replace(carried, velocity=source.camera)):
            if attempt.advance(step, self._motion) and attempt.soft is not None and attempt.soft.any():
                source.carried = attempt
                mask, trust = attempt.shown(step.image)
                return (mask, trust) if mask.area else None
        return None


def _scaled(mask: CroppedMask, width: int, height: int) -> CroppedMask:
    whole = Window.whole(mask.width, mask.height)
    return resampled(mask, whole, whole, width, height)


def _moved(box: Box, motion: Motion, shape: tuple[int, ...]) -> Field:
    """How far the camera moves what is in ``box`` of an image of ``shape`` (``[2]`` x, y, pixels)."""
    height, width = shape[:2]
    moved = np.subtract(motion.moved_pixels(box, width, height), box)
    return ((moved[:2] + moved[2:]) / 2).astype(np.float32)
