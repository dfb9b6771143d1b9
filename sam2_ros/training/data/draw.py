"""Draws training clips. What is drawn depends on seed, step and the clip's number in the step, and on nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from sam2_ros.training.clips import Clip, ClipSettings, Image
from sam2_ros.training.data.stills import StillSet, coco_photos, yolo_photos
from sam2_ros.training.data.videos import FRAMES, VideoSet

TRIES = 200
CLIP, PROMPTS = 0, 1  # what a generator is for


class DataError(ValueError):
    """Data that can't be drawn from; ``str(error)`` says which file and why."""


class ClipSet(Protocol):
    """A data set that clips are drawn from."""

    def draw(self, rng: np.random.Generator) -> Clip | None:
        """A clip, or None where this attempt gave none."""
        ...


@dataclass(frozen=True)
class Sample:
    """A drawn clip and the objects in it that are to be tracked.

    ``frames`` ``uint8 [T, S, S, 3]`` RGB, ``masks`` ``bool [T, B, S, S]``; ``key`` seeds what else belongs to the clip.
    """

    name: str
    frames: Image
    masks: NDArray[np.bool_]
    key: tuple[int, ...]

    @property
    def visible(self) -> NDArray[np.bool_]:
        """``[T, B]``, which objects are in which frame."""
        seen: NDArray[np.bool_] = np.any(self.masks, axis=(2, 3))
        return seen

    def rng(self, purpose: int) -> np.random.Generator:
        return np.random.default_rng((*self.key, purpose))


def open_data(path: Path, settings: ClipSettings) -> ClipSet:
    """Recognises what lies at ``path``: a DAVIS folder, or a list of sequences inside one; COCO JSON; YOLO polygons.

    Raises:
        ValueError: none of them; says what was looked for.
        FileNotFoundError: nothing is there.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no data at {path}; give a folder or a file that exists")
    if path.is_file():
        if path.suffix == ".json":
            return StillSet(coco_photos(path), settings)
        root, names = sequence_list(path)
        return VideoSet(root, names, settings)
    if (path / FRAMES).is_dir():
        return VideoSet(path, None, settings)
    if (path / "annotations.json").is_file():
        return StillSet(coco_photos(path / "annotations.json"), settings)
    if (path / "labels").is_dir() and (path / "images").is_dir():
        return StillSet(yolo_photos(path), settings)
    raise ValueError(
        f"{path} holds no data that is known; accepted: a folder with JPEGImages/ and Annotations/ (DAVIS), a text "
        "file in it that lists sequences, a folder with images/ and annotations.json (COCO) or that file, a folder "
        "with images/ and labels/*.txt (YOLO polygons)"
    )


def sequence_list(path: Path) -> tuple[Path, list[str]]:
    """The DAVIS folder that a list of sequences lies in, at whatever depth, and the names in the list.

    Raises:
        ValueError: there is no such folder above it, or the list is empty.
    """
    root = next((parent for parent in path.absolute().parents if (parent / FRAMES).is_dir()), None)
    if root is None:
        raise ValueError(f"{path} lies in no folder with {FRAMES}/; a list of sequences is kept beside what it lists")
    names = path.read_text(encoding="utf-8").split()
    if not names:
        raise ValueError(f"{path} lists no sequence; expected names of folders in {root / FRAMES}, one a line")
    return root, names


class ClipSource(Dataset[list[Sample]]):
    """Clips of several data sets, by step.

    Args:
        sets: the data sets.
        shares: of the clips, by data set.
        settings: of the clips.
        seed: of everything drawn.
        clips: a step has for this process.
        rank: number of this process; the processes share the clips of a step.
    """

    def __init__(
        self,
        sets: Sequence[ClipSet],
        shares: Sequence[float],
        settings: ClipSettings,
        seed: int,
        clips: int,
        rank: int = 0,
    ) -> None:
        self.sets, self.settings, self.seed = list(sets), settings, seed
        self.shares = np.array(shares, np.float64) / np.sum(shares)
        self.clips, self.rank = clips, rank

    def __getitem__(self, step: int) -> list[Sample]:
        """This process's clips of ``step``."""
        return [self.sample(step, self.rank * self.clips + index) for index in range(self.clips)]

    def sample(self, step: int, index: int) -> Sample:
        """Clip ``index`` of all that the processes together see in ``step``.

        Raises:
            DataError: a file that can't be read, or no object of a fitting size in any of many clips.
        """
        key = (self.seed, step, index)
        rng = np.random.default_rng((*key, CLIP))
        for _ in range(TRIES):
            try:
                clip = self.sets[int(rng.choice(len(self.sets), p=self.shares))].draw(rng)
            except (ValueError, OSError) as error:
                raise DataError(str(error)) from error
            if clip is None:
                continue
            values = self._objects(clip.labels[0], rng)
            if len(values):
                masks = clip.labels[:, None] == values[None, :, None, None]
                return Sample(clip.name, np.ascontiguousarray(clip.frames), masks, key)
        raise DataError(
            f"none of {TRIES} clips shows an object that covers {self.settings.smallest:.1%} to "
            f"{self.settings.largest:.0%} of its first frame; are the label images those of the frames?"
        )

    def _objects(self, first: Image, rng: np.random.Generator) -> np.ndarray:
        """Numbers of the objects to track: some of those that the first frame shows."""
        shares = np.bincount(first.ravel(), minlength=2)[1:] / first.size
        fitting = 1 + np.flatnonzero((shares >= self.settings.smallest) & (shares <= self.settings.largest))
        chosen: np.ndarray = rng.permutation(fitting)[: self.settings.objects]
        return chosen

    def batches(self, first: int, workers: int) -> Iterator[list[Sample]]:
        """The clips of the steps from ``first`` on, drawn ahead in ``workers`` processes, or here where that is 0."""
        if workers == 0:
            return (self[step] for step in count(first))
        loader: DataLoader[Any] = DataLoader(
            self,
            batch_size=None,
            sampler=count(first),
            num_workers=workers,
            collate_fn=list,
            worker_init_fn=_one_thread,
            # Not "fork": OpenCV's threads of this process would be locked for ever in its copies.
            multiprocessing_context="forkserver",
        )
        return iter(loader)


def _one_thread(worker: int) -> None:
    cv2.setNumThreads(1)
