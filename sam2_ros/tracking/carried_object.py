"""One object as the network saw it, carried from image to image: by the motion, and by its colours at the border."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from sam2_ros.tracking.colour_model import LARGEST, ColourModel
from sam2_ros.tracking.flow_window import Box, Field, FlowWindow, Pyramid, affine, area_of, both, box_of, grown
from sam2_ros.tracking.image_motion import ImageMotion, Step
from sam2_ros.tracking.types import CroppedMask

FLOW_SAMPLES = 20_000  # of all windows of an image together, so that the cost does not grow with the image
# Where the newest image differs from what the motion makes of the network's image, colours decide on both sides of a
# carried border: the more they differ the further, in samples, and the more they count.
DIFFERENT = 100.0  # levels of a channel at which the doubt is 1 - 1/e
BAND = 1.0  # without doubt
BAND_IN_DOUBT = 24.0  # more
WIDEST_BAND = 20.0
COLOUR_GAIN = 5.0
DOUBT = 2.5  # confidence is exp(-DOUBT × deformation / object's side), fitted to the IoU that carrying keeps


@dataclass
class CarriedObject:
    """Begins in the image that the network saw; :meth:`advance` carries it on, one image at a time."""

    given: CroppedMask  # the network's
    factor: int  # pixels of the camera's image on a side of one of the work image
    mask: Field  # the same: [h, w] in [0, 1], a part of the work image with a border of zeros
    corner: tuple[int, int]  # of that part in the work image: x, y
    box: Box  # in the newest image
    velocity: Field  # [2] pixels an image
    image: Pyramid  # RGB, that the network saw
    colours: ColourModel | None = None
    window: FlowWindow | None = None  # in the newest image, halved
    motion: Field | None = None  # from there to the network's image, pixels
    soft: Field | None = None  # the mask there, by the motion alone

    @classmethod
    def of(cls, given: CroppedMask, image: Pyramid, factor: int, samples: float) -> CarriedObject | None:
        """An object that stands, its colours learned from so many samples; None if its mask is empty in ``image``."""
        mask, corner = _reduced(given, factor)
        box = box_of(mask > 0)
        if box is None:
            return None
        box = (box[0] + corner[0], box[1] + corner[1], box[2] + corner[0], box[3] + corner[1])
        obj = cls(given, factor, mask, corner, box, np.zeros(2, np.float32), image)
        window = FlowWindow.of(grown(box, image.shape), samples)
        obj.colours = ColourModel.of(window.sample(image), obj._mask_at(window.points) > 0.5)
        return obj

    @property
    def reach(self) -> Box:
        """Where it may be in the next image."""
        dx, dy = map(round, self.velocity.tolist())
        x0, y0, x1, y1 = self.box
        return both(self.box, (x0 + dx, y0 + dy, x1 + dx, y1 + dy))

    def advance(self, step: Step, measured: ImageMotion) -> bool:
        """From the image before to ``step``; False after a cut."""
        reach = self.reach
        found = measured.around(step, reach, self.velocity, FLOW_SAMPLES / 4)
        if found is None:
            return False
        flow_window, backward = found
        area = grown(reach, step.image.shape)
        window = FlowWindow.of(area, 4 * area_of(area) / math.prod(flow_window.pitch)).halved
        if window.box == flow_window.box:
            window, last = flow_window, backward
        else:
            last = flow_window.look_up(backward, window.points)
        points = window.points
        motion = last
        if self.window is not None and self.motion is not None:
            motion = last + self.window.look_up(self.motion, points + last)
        self.window, self.motion = window, motion
        self.soft = self._mask_at(points + motion)
        inside = (self.soft > 0.5).view(np.uint8)
        x, y, width, height = cv2.boundingRect(inside)
        if width:
            left, top = window.box[:2]
            px, py = window.pitch
            right, bottom = math.ceil(left + (x + width) * px), math.ceil(top + (y + height) * py)
            self.box = int(left + x * px), int(top + y * py), right, bottom
            self.velocity = -np.array(cv2.mean(last, inside)[:2], np.float32)
        else:
            self.box = reach
        return True

    def shown(self, image: Pyramid) -> tuple[CroppedMask, float]:
        """The mask in the newest image, which is ``image``, in the camera's pixels; and the trust in it."""
        window, motion, soft = self.window, self.motion, self.soft
        if window is None or motion is None or soft is None:
            return self.given, 1.0
        empty = CroppedMask.empty(self.given.width, self.given.height), 0.0
        fine = window.doubled
        size = fine.width, fine.height
        at = cv2.resize(motion, size, interpolation=cv2.INTER_LINEAR)
        at += fine.points
        pixels = (self._mask_at(at) > 0.5).view(np.uint8)
        area = cv2.countNonZero(pixels)
        if not area:
            return empty
        distance = cv2.distanceTransform(pixels, cv2.DIST_L2, 3) - cv2.distanceTransform(1 - pixels, cv2.DIST_L2, 3)
        inside = (soft > 0.5).view(np.uint8)
        (px, py), mean = fine.pitch, cv2.mean(motion, inside)
        spread = np.abs(affine(motion, (1 / px, 1 / py), (-mean[0] / px, -mean[1] / py)))
        deformation = sum(cv2.mean(spread, inside)[:2]) / 2
        level = distance
        if self.colours is not None:
            now = image.sampled(fine)
            small = cv2.resize(now, (window.width, window.height), interpolation=cv2.INTER_AREA)
            doubt = _doubt(small, window.sample_at(self.image, window.points + motion))
            doubt = cv2.resize(doubt, size, interpolation=cv2.INTER_LINEAR)
            band = np.minimum(BAND_IN_DOUBT * doubt + np.float32(BAND + deformation), np.float32(WIDEST_BAND))
            evidence = doubt * self.colours.evidence(now)
            evidence *= np.abs(distance) < band
            level = np.clip(distance / band, -1, 1)
            level += np.float32(COLOUR_GAIN / LARGEST) * evidence
        mask = self._in_camera_pixels(level, fine)
        return (mask, math.exp(-DOUBT * deformation / math.sqrt(area))) if mask.area else empty

    def _in_camera_pixels(self, level: Field, window: FlowWindow) -> CroppedMask:
        """Where ``level``, at the window's samples, is above 0."""
        x0, y0, x1, y1 = (self.factor * edge for edge in window.box)
        signs = (np.clip(level, -1, 1) * 127 + 128).astype(np.uint8)  # bytes are enlarged several times as fast
        large = cv2.resize(signs, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR)
        seen = box_of(signs > 128)
        if seen is None:
            return CroppedMask.empty(self.given.width, self.given.height)
        # Beyond the next sample nothing can be above. A window may reach over the image.
        px, py = (x1 - x0) / window.width, (y1 - y0) / window.height
        left, top = max(0, int((seen[0] - 1) * px)), max(0, int((seen[1] - 1) * py))
        right = min(self.given.width - x0, math.ceil((seen[2] + 1) * px))
        bottom = min(self.given.height - y0, math.ceil((seen[3] + 1) * py))
        mask = CroppedMask.from_full(large[top:bottom, left:right] > 128)
        return mask.within(x0 + left, y0 + top, self.given.width, self.given.height)

    def _mask_at(self, points: Field) -> Field:
        """The network's mask at points of the work image of its own frame."""
        at = affine(points, (1, 1), (-self.corner[0], -self.corner[1]))
        return np.asarray(cv2.remap(self.mask, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT))


def _doubt(now: NDArray[np.uint8], seen: NDArray[np.uint8]) -> Field:
    """How far two pictures differ, averaged over 3x3 samples: 0 = not at all, below 1."""
    red, green, blue = cv2.split(cv2.absdiff(now, seen))
    different = cv2.blur(cv2.max(cv2.max(red, green), blue).astype(np.float32), (3, 3))
    return np.asarray(1 - np.exp(different * np.float32(-1 / DIFFERENT)))


def _reduced(mask: CroppedMask, factor: int) -> tuple[Field, tuple[int, int]]:
    """Every ``factor``-th pixel of a mask, of its crop alone, with a border of zeros; and where that lies."""
    x, y = -(-mask.x // factor), -(-mask.y // factor)
    crop = mask.crop[y * factor - mask.y :: factor, x * factor - mask.x :: factor]
    return np.pad(crop.astype(np.float32), 1), (x - 1, y - 1)
