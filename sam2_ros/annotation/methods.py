"""How objects are found in a recording: by a detector, by recorded detections, by themselves, or by a prompts file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from sam2_ros.annotation.bags import Bag
from sam2_ros.annotation.detectors import Detector
from sam2_ros.annotation.masks import Rle, encode
from sam2_ros.annotation.recordings import Frames, Images
from sam2_ros.annotation.two_ways import ANYTHING, BoxFeed, Feed, MaskFeed, PromptFeed
from sam2_ros.inference.detections import DetectionSettings
from sam2_ros.inference.discovery import DiscoverySettings, whole_objects
from sam2_ros.inference.matching import Detection, pair_up
from sam2_ros.media.errors import UserError
from sam2_ros.media.prompts_file import FramePrompt
from sam2_ros.media.source_frame import Rgb
from sam2_ros.tracking.image_segmenter import ImageSegmenter
from sam2_ros.tracking.types import CroppedMask

_TOLERANCE = 20_000_000  # ns between the stamps of an image and of its detections


@dataclass(frozen=True)
class Plan:
    """What was found in a recording before it is tracked."""

    feed: Callable[[], Feed]  # one for each direction
    boxes: Mapping[int, Sequence[Detection]] = field(default_factory=dict)  # by image that the detector saw


class Method(Protocol):
    """A way to find objects. ``about`` says which, for a person."""

    @property
    def about(self) -> str: ...

    def plan(self, frames: Frames, images: Images, done: Callable[[], object]) -> Plan:
        """Looks at a recording, from whose ``frames`` the ``images`` come.

        Raises:
            UserError: it can't be done with this recording.
        """


def key_frames(count: int, every: int) -> list[int]:
    """Every ``every``-th image and the last one."""
    return sorted({*range(0, count, every), count - 1})


@dataclass(frozen=True)
class ByDetector:
    """A detector looks at every ``every``-th image."""

    detect: Detector
    every: int
    settings: DetectionSettings
    about: str = "OpenCV's people detector"

    def find(self, rgb: Rgb) -> list[Detection]:
        """The boxes in an image that have at least the wanted score."""
        return [each for each in self.detect(rgb) if each.score >= self.settings.min_score]

    def plan(self, frames: Frames, images: Images, done: Callable[[], object]) -> Plan:
        found = {}
        for index in key_frames(len(images), self.every):
            found[index] = self.find(images.read(index))
            done()
        return _by_boxes(found, self.settings)


@dataclass(frozen=True)
class ByRecorded:
    """The bag holds detections, ``vision_msgs/Detection2DArray`` with the stamps of their images."""

    topic: str
    settings: DetectionSettings
    about: str = "detections of the recordings"

    def plan(self, frames: Frames, images: Images, done: Callable[[], object]) -> Plan:
        if not isinstance(frames, Bag):
            raise UserError(f"recorded:{self.topic} needs a bag; this is none")
        stamps = np.array([file.stamp for file in images.files], np.int64)
        found: dict[int, list[Detection]] = {}
        for stamp, boxes in frames.detections(self.topic).items():
            index = int(np.abs(stamps - stamp).argmin())
            if abs(int(stamps[index]) - stamp) <= _TOLERANCE:
                wanted = [each for each in boxes if each.score >= self.settings.min_score]
                found.setdefault(index, []).extend(wanted)
        if not found:
            raise UserError(f"no detections on {self.topic} have the stamp of an image")
        return _by_boxes(found, self.settings)


@dataclass(frozen=True)
class Everything:
    """Whatever the network finds by itself in every ``every``-th image."""

    segmenter: ImageSegmenter
    every: int
    about: str = "everything that the network finds"

    def find(self, images: Images, index: int) -> list[tuple[CroppedMask, float]]:
        """Whole objects, the largest first, with their predicted IoU."""
        found = self.segmenter.everything(images.read(index), self.segmenter.everything_settings(points=16))
        ious = {id(each.mask): each.predicted_iou for each in found}
        return [(mask, ious[id(mask)]) for mask in whole_objects([each.mask for each in found], DiscoverySettings())]

    def plan(self, frames: Frames, images: Images, done: Callable[[], object]) -> Plan:
        masks: dict[int, list[Rle]] = {}  # of a long recording; pixels would fill gigabytes
        for index in key_frames(len(images), self.every):
            masks[index] = [encode(mask) for mask, _ in self.find(images, index)]
            done()
        return Plan(lambda: MaskFeed(masks))


@dataclass(frozen=True)
class ByPrompts:
    """A prompts file says where the objects are."""

    prompts: Sequence[FramePrompt]
    about: str = "objects of a prompts file"

    def plan(self, frames: Frames, images: Images, done: Callable[[], object]) -> Plan:
        last = max(each.frame for each in self.prompts)
        if last >= len(images):
            raise UserError(f"there is a prompt for frame {last}, and there are frames 0 to {len(images) - 1}")
        return Plan(lambda: PromptFeed(self.prompts))


def _by_boxes(found: dict[int, list[Detection]], settings: DetectionSettings) -> Plan:
    named = {
        index: [Detection(each.box, each.label or ANYTHING, each.score) for each in boxes]
        for index, boxes in found.items()
    }
    twice = detected_twice(named)
    return Plan(lambda: BoxFeed(named, twice, settings), named)


def detected_twice(found: Mapping[int, Sequence[Detection]]) -> dict[int, list[Detection]]:
    """The detections of what only two of three successive looks see. The tracker adds something new when it is detected
    again. Then it would know these in neither direction between both looks, and not as one object."""
    looks = sorted(found)
    if len(looks) == 1:  # of a single image; nothing can be detected again
        return {look: list(found[look]) for look in looks}
    others: dict[tuple[int, int], set[tuple[int, int]]] = defaultdict(set)  # look and place in its list
    for distance in (1, 2):
        for look, later in zip(looks, looks[distance:], strict=False):
            pairs = pair_up([each.box for each in found[later]], [each.box for each in found[look]])
            for place, earlier in pairs.items():
                others[later, place].add((look, earlier))
                others[look, earlier].add((later, place))
    chosen: dict[int, list[Detection]] = {look: [] for look in looks}
    for (look, place), known in others.items():
        if len(known) == 1 and others[next(iter(known))] == {(look, place)}:
            chosen[look].append(found[look][place])
    return chosen
