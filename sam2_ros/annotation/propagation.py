"""Tracks corrected objects from one image into the others, until the annotation agrees."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

from pycocotools import mask as coco

from sam2_ros.annotation.corrections import Version
from sam2_ros.annotation.masks import Mask, decode, encode
from sam2_ros.annotation.recordings import Images
from sam2_ros.inference.backend import Backend
from sam2_ros.media.errors import UserError
from sam2_ros.tracking.types import ObjectResult, ObjectState, Prompt, PromptRequest

AGREED = 0.8  # IoU from which on a tracked mask and the annotation are the same
ENOUGH = 3  # images in a row on which they are the same
GONE = 30  # images in a row in which neither has the object
PERIOD = 10**8  # ns between two frames, for the engine


@dataclass
class _Way:
    """One object on its way through the images."""

    key: int
    detection_score: float
    agreed: int = 0
    gone: int = 0

    @property
    def done(self) -> bool:
        return self.agreed >= ENOUGH or self.gone >= GONE


def propagate(
    backend: Backend, images: Images, version: Version, frame: int, keys: Sequence[int], step: int
) -> Iterator[Mapping[tuple[int, int], Mask | None]]:
    """What changes in each image from ``frame`` on.

    An object ends before an image in which a person has decided on it, after :data:`ENOUGH` images in a row in which
    the annotation agrees (it stays there), and after :data:`GONE` in which neither has it.

    Args:
        backend: without objects; it is closed at the end.
        keys: objects with a mask in ``frame``, which is right.
        step: 1 = forwards, -1 = backwards.

    Raises:
        UserError: an image can't be read, or a mask can't be tracked.
    """
    with closing(backend):
        backend.step(images.read(frame), PERIOD)
        ways: dict[int, _Way] = {}  # by the engine's id
        for key in keys:
            mask = version.masks[frame, key]
            prompt = Prompt(mask=decode(mask.mask).full())
            answer = backend.add([PromptRequest(prompt, label=version.labels[key])])[0]
            if not answer.success:
                raise UserError(f"object {key} can't be tracked: {answer.message}")
            ways[answer.object_id] = _Way(key, mask.detection_score)
        for place, index in enumerate(range(frame + step, len(images) if step > 0 else -1, step), 2):
            for engine_id, way in list(ways.items()):
                if way.done or (index, way.key) in version.corrected:
                    backend.remove(engine_id)
                    del ways[engine_id]
            if not ways:
                return
            changes: dict[tuple[int, int], Mask | None] = {}
            for obj in backend.step(images.read(index), place * PERIOD).objects:
                way = ways[obj.object_id]
                changes |= _compared(way, index, obj, version.masks.get((index, way.key)))
            yield changes


def _compared(way: _Way, index: int, obj: ObjectResult, old: Mask | None) -> dict[tuple[int, int], Mask | None]:
    """The change in one image, if the annotation does not agree."""
    new = None
    if obj.state is ObjectState.VISIBLE and obj.mask.crop.size:
        new = Mask(index, way.key, encode(obj.mask), obj.predicted_iou, detection_score=way.detection_score)
    if new is None and old is None:
        way.gone += 1
        return {}
    way.gone = 0
    if new is not None and old is not None and coco.iou([new.mask], [old.mask], [0])[0, 0] >= AGREED:
        way.agreed += 1
        return {}
    way.agreed = 0
    return {(index, way.key): new}
