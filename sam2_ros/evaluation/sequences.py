"""Labelled videos of all data sets: frames, and labelled masks for some of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sam2_ros.evaluation.mask_metrics import Mask
from sam2_ros.media.errors import UserError
from sam2_ros.media.frame_sources import Frame, Source
from sam2_ros.media.label_images import read_labels, read_mask

VOID = 255
MASKLET_STEP = 4  # frames: SA-V is labelled at 6 of 24 frames a second


class Truth(Protocol):
    """The labels of a sequence. Objects are numbered from 1, frames by their index in the video, from 0."""

    overlapping: bool  # whether a pixel may belong to several objects

    @property
    def objects(self) -> tuple[int, ...]:
        """Ids, ascending."""

    def annotated(self, object_id: int) -> tuple[int, ...]:
        """The frames on which this object is labelled, also as absent; ascending."""

    def masks(self, frame: int) -> dict[int, Mask]:
        """The masks, also empty ones, of the objects that are labelled on ``frame``; read from disk at each call."""


@dataclass(frozen=True)
class LabelledSequence:
    """Frames and their labels."""

    name: str
    frames: Source
    truth: Truth

    def __len__(self) -> int:
        return self.frames.length or 0

    @cached_property
    def annotated(self) -> frozenset[int]:
        """The frames on which any object is labelled."""
        return frozenset(frame for object_id in self.truth.objects for frame in self.truth.annotated(object_id))

    @cached_property
    def first_frames(self) -> dict[int, int]:
        """By object, the first frame on which it has a pixel: there it is prompted.

        Objects without any pixel are left out. Reads labels until every object was seen.
        """
        first: dict[int, int] = {}
        for frame in sorted(self.annotated):
            for object_id, mask in self.truth.masks(frame).items():
                if object_id not in first and mask.any():
                    first[object_id] = frame
            if len(first) == len(self.truth.objects):
                break
        return first

    @cached_property
    def prompts_only(self) -> bool:
        """Whether every labelled frame is the first one of some object, so that nothing can be measured.

        The validation sets of YouTube-VOS and MOSE are like this; a server has their other labels.
        """
        return self.annotated == frozenset(self.first_frames.values())

    def __iter__(self) -> Iterator[Frame]:
        return iter(self.frames)


class LabelImages:
    """One label image a frame (pixel = object id), as in DAVIS, YouTube-VOS, MOSE and LVOS.

    ``files`` are label images by frame. The value 255 beside other ids is void and counts as background, as in the
    semi-supervised evaluation of DAVIS 2017. If it is the only value, as in DAVIS 2016, it is object 1. ``objects`` are
    the ids; None reads every file to find them.
    """

    overlapping = False

    def __init__(self, files: dict[int, Path], objects: tuple[int, ...] | None = None) -> None:
        self._files = dict(sorted(files.items()))
        self._given = objects

    @cached_property
    def _values(self) -> set[int]:
        if self._given is not None:
            return set(self._given)
        counts = (np.bincount(read_labels(file).ravel()) for file in self._files.values())
        return {int(value) for count in counts for value in np.flatnonzero(count)} - {0}

    @property
    def objects(self) -> tuple[int, ...]:
        return (1,) if self._values == {VOID} else tuple(sorted(self._values - {VOID}))

    def annotated(self, object_id: int) -> tuple[int, ...]:
        return tuple(self._files)

    def masks(self, frame: int) -> dict[int, Mask]:
        if frame not in self._files:
            return {}
        labels = read_labels(self._files[frame])
        if self._values == {VOID}:
            return {1: np.asarray(labels == VOID)}
        return {object_id: np.asarray(labels == object_id) for object_id in self.objects}


class ObjectImages:
    """One black-and-white image for each object and frame, as in SA-V's validation and test sets.

    ``files`` are masks by object and frame; objects may overlap.
    """

    overlapping = True

    def __init__(self, files: dict[int, dict[int, Path]]) -> None:
        self._files = {object_id: dict(sorted(of_one.items())) for object_id, of_one in sorted(files.items())}

    @property
    def objects(self) -> tuple[int, ...]:
        return tuple(self._files)

    def annotated(self, object_id: int) -> tuple[int, ...]:
        return tuple(self._files[object_id])

    def masks(self, frame: int) -> dict[int, Mask]:
        return {object_id: read_mask(files[frame]) for object_id, files in self._files.items() if frame in files}


class Masklets:
    """The masklets of one SA-V training video: objects by run lengths, on every fourth frame; they may overlap.

    ``masks`` are, for each labelled frame, the objects' run lengths in the order of ``ids``; None is an absent object.
    """

    overlapping = True

    def __init__(self, masks: Sequence[Sequence[Any]], ids: Sequence[int], size: tuple[int, int]) -> None:
        self._masks, self._ids, self._size = masks, tuple(ids), size
        self._frames = tuple(MASKLET_STEP * index for index in range(len(masks)))

    @property
    def objects(self) -> tuple[int, ...]:
        return tuple(sorted(self._ids))

    def annotated(self, object_id: int) -> tuple[int, ...]:
        return self._frames

    def masks(self, frame: int) -> dict[int, Mask]:
        index, rest = divmod(frame, MASKLET_STEP)
        if rest or index >= len(self._masks):
            return {}
        empty = np.zeros(self._size, np.bool_)
        return {
            object_id: empty if rle is None else decode_run_lengths(rle)
            for object_id, rle in zip(self._ids, self._masks[index], strict=True)
        }


def decode_run_lengths(rle: Mapping[str, Any]) -> Mask:
    """The mask of COCO's compressed run lengths, ``{"size": [height, width], "counts": "…"}``.

    Raises:
        UserError: pycocotools is missing.
        ValueError: the run lengths are damaged.
    """
    try:
        from pycocotools import mask as coco
    except ImportError:
        raise UserError("SA-V's training set needs pycocotools: python3 -m pip install pycocotools") from None
    counts = rle["counts"].encode() if isinstance(rle["counts"], str) else rle["counts"]
    try:
        pixels = coco.decode({"size": rle["size"], "counts": counts})
    except ValueError:
        pixels = None
    # pycocotools leaves the rest of the mask uninitialised where runs are missing.
    if pixels is None or coco.encode(pixels)["counts"] != counts:
        raise ValueError(f"damaged run lengths; accepted: COCO's compressed text for {rle['size']} pixels")
    return np.asarray(pixels, np.bool_)
