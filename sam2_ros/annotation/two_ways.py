"""Tracks the objects of one recording through its images, in either direction of time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from sam2_ros.annotation.masks import Rle, decode, encode
from sam2_ros.annotation.recordings import Images
from sam2_ros.inference.backend import Backend
from sam2_ros.inference.detections import DetectionFeeder, DetectionSettings
from sam2_ros.inference.discovery import SHARED, share
from sam2_ros.inference.matching import Detection
from sam2_ros.media.errors import UserError
from sam2_ros.media.prompts_file import FramePrompt
from sam2_ros.tracking.types import CroppedMask, FrameResult, ObjectState, Prompt, PromptRequest

ANYTHING = "object"  # label of what was found without a detector
_PERIOD = 10**8  # ns between two frames, for the engine


@dataclass(frozen=True)
class Sighting:
    """An object in one image."""

    mask: Rle
    predicted_iou: float


@dataclass
class Track:
    """What one direction saw of an object. ``key``: its id in the prompts file; 0 = it was found by itself."""

    label: str = ""
    label_score: float = 0.0
    key: int = 0
    seen: dict[int, Sighting] = field(default_factory=dict)  # by the number of the image
    prompted: set[int] = field(default_factory=set)  # images with a prompt for it


class Feed(Protocol):
    """Prompts the engine where it is time to. Each direction has one of its own."""

    def feed(self, backend: Backend, index: int, result: FrameResult) -> None:
        """Called with every image that was tracked, and its number."""

    def key(self, engine_id: int) -> int:
        """The id of an object in the prompts file; 0 where there is none."""


def follow(
    backend: Backend, images: Images, order: Iterable[int], feed: Feed, done: Callable[[], object]
) -> list[Track]:
    """The tracks of all objects through the images in this ``order``.

    Args:
        done: called after each image.

    Raises:
        UserError: an image can't be read, or a prompt is refused.
    """
    tracks: dict[int, Track] = {}
    for place, index in enumerate(order, 1):
        feed.feed(backend, index, backend.step(images.read(index), place * _PERIOD))
        result = backend.objects()
        assert result is not None
        for obj in result.objects:
            track = tracks.setdefault(obj.object_id, Track(key=feed.key(obj.object_id)))
            track.label, track.label_score = obj.label, obj.label_score
            if obj.prompted:
                track.prompted.add(index)
            if obj.state is ObjectState.VISIBLE and obj.mask.crop.size:
                track.seen[index] = Sighting(encode(obj.mask), obj.predicted_iou)
        done()
    return [track for track in tracks.values() if track.seen]


class BoxFeed:
    """Feeds detections, as the node does with those of a live detector.

    Args:
        found: by the number of the image; images that the detector did not see are not in it.
        at_once: those of them with which an object begins although it was not detected before.
    """

    def __init__(
        self, found: Mapping[int, Sequence[Detection]], at_once: Mapping[int, Sequence[Detection]],
        settings: DetectionSettings,
    ) -> None:  # fmt: skip
        self._found, self._at_once, self._settings = found, at_once, settings
        self._feeder = DetectionFeeder(0)

    def feed(self, backend: Backend, index: int, result: FrameResult) -> None:
        self._feeder.note(result)
        if self._at_once.get(index):
            self._feeder.apply(backend, self._at_once[index], result.stamp, replace(self._settings, new_after=1))
        if index in self._found:
            self._feeder.apply(backend, self._found[index], result.stamp, self._settings)

    def key(self, engine_id: int) -> int:
        return 0


class MaskFeed:
    """Adds the masks that no object covers, nor covered when it was last seen."""

    def __init__(self, found: Mapping[int, Sequence[Rle]]) -> None:
        self._found = found
        self._last: dict[int, CroppedMask] = {}

    def feed(self, backend: Backend, index: int, result: FrameResult) -> None:
        living = {obj.object_id for obj in result.objects}
        self._last = {key: mask for key, mask in self._last.items() if key in living}
        self._last |= {obj.object_id: obj.mask for obj in result.objects if obj.mask.crop.size}
        new = [
            mask
            for mask in map(decode, self._found.get(index, ()))
            if all(share(mask, known) < SHARED for known in self._last.values())
        ][: max(0, backend.info.max_objects - len(living))]
        if new:
            backend.add([PromptRequest(Prompt(mask=mask.full()), label=ANYTHING, label_score=1.0) for mask in new])

    def key(self, engine_id: int) -> int:
        return 0


class PromptFeed:
    """Applies the prompts of a file, each on its image; a picture of an object from the beginning on."""

    def __init__(self, prompts: Sequence[FramePrompt]) -> None:
        self._waiting = list(prompts)
        self._ids: dict[int, int] = {}  # the engine's, by the file's

    def feed(self, backend: Backend, index: int, result: FrameResult) -> None:
        due = [each for each in self._waiting if each.frame == index or each.prompt.like is not None]
        self._waiting = [each for each in self._waiting if each not in due]
        for each in due:
            known = self._ids.get(each.object_id)
            later = any(other.object_id == each.object_id for other in self._waiting)
            if known is None and (_is_empty(each.prompt) or (later and _only_takes_away(each.prompt))):
                continue  # it corrects an object that this direction does not know yet
            request = PromptRequest(each.prompt, known, each.name, each.label or each.name or ANYTHING, 1.0)
            answer = backend.add([request])[0]
            if not answer.success:
                raise UserError(f"the prompt for object {each.object_id} on frame {each.frame}: {answer.message}")
            self._ids[each.object_id] = answer.object_id

    def key(self, engine_id: int) -> int:
        return next(key for key, value in self._ids.items() if value == engine_id)


def _is_empty(prompt: Prompt) -> bool:
    return prompt.mask is not None and not prompt.mask.any()


def _only_takes_away(prompt: Prompt) -> bool:
    return prompt.labels is not None and prompt.box is None and not prompt.labels.any()
