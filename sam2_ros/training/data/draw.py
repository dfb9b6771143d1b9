"""Draws training clips. A clip depends only on the seed, the step and its number in the step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from sam2_ros.media.labelled_photos import coco_photos, yolo_photos
from sam2_ros.training.clip_folder import check_split
from sam2_ros.training.clips import ClipSettings, Image
from sam2_ros.training.data.stills import StillSet
from sam2_ros.training.data.videos import FRAMES, VideoSet

TRIES = 200
CLIP, PROMPTS = 0, 1  # purposes of a random generator
ClipSet = VideoSet | StillSet


class DataError(ValueError):
    """Unusable data; ``str(error)`` says which file and why."""


@dataclass(frozen=True)
class Sample:
    """A drawn clip and the objects to track in it.

    ``frames`` ``uint8 [T, S, S, 3]`` RGB, ``masks`` ``bool [T, B, S, S]``; ``key`` seeds its random generators.
    """

    name: str
    frames: Image
    masks: NDArray[np.bool_]
    key: tuple[int, ...]

    @property
    def visible(self) -> NDArray[np.bool_]:
        """``[T, B]``, which objects are in which frame."""
        return np.asarray(self.masks.any(axis=(2, 3)))

    def rng(self, purpose: int) -> np.random.Generator:
        return np.random.default_rng((*self.key, purpose))


def open_data(path: Path, settings: ClipSettings) -> ClipSet:
    """Opens a DAVIS folder, a list of sequences inside one, COCO JSON, or YOLO polygons.

    Raises:
        ValueError: the layout is none of these, or rendered scenes are not of the split to train on.
        FileNotFoundError: ``path`` does not exist.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no data at {path}; give a folder or a file that exists")
    if (path / FRAMES).is_dir() or (path.is_file() and path.suffix != ".json"):
        root, names = sequence_list(path) if path.is_file() else (path, None)
        check_split(root, "training", "train")
        return VideoSet(root, names, settings)
    annotations = path if path.is_file() else path / "annotations.json"
    if annotations.is_file():
        return StillSet(coco_photos(annotations), settings)
    if (path / "labels").is_dir() and (path / "images").is_dir():
        return StillSet(yolo_photos(path), settings)
    raise ValueError(
        f"{path} holds no data of a known layout; accepted: a folder with JPEGImages/ and Annotations/ (DAVIS), a text "
        "file in it that lists sequences, a folder with images/ and annotations.json (COCO) or that file, a folder "
        "with images/ and labels/*.txt (YOLO polygons)"
    )


def sequence_list(path: Path) -> tuple[Path, list[str]]:
    """The DAVIS folder above a list of sequences, at any depth, and the names in the list.

    Raises:
        ValueError: there is no such folder, or the list is empty.
    """
    root = next((parent for parent in path.absolute().parents if (parent / FRAMES).is_dir()), None)
    if root is None:
        raise ValueError(f"{path} lies in no folder with {FRAMES}/; move the list into the folder of its sequences")
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
        seed: of all random numbers.
        clips: of a step, for this process.
        rank: number of this process; the processes share the clips of a step.
    """

    def __init__(
        self, sets: Sequence[ClipSet], shares: Sequence[float], settings: ClipSettings, seed: int, clips: int, rank: int
    ) -> None:
        self.sets, self.settings, self.seed = list(sets), settings, seed
        self.shares = np.array(shares, np.float64) / np.sum(shares)
        self.clips, self.rank = clips, rank

    def __getitem__(self, step: int) -> list[Sample]:
        """This process's clips of ``step``."""
        return [self.sample(step, self.rank * self.clips + index) for index in range(self.clips)]

    def sample(self, step: int, index: int) -> Sample:
        """Clip ``index`` of those that all processes together see in ``step``.

        Raises:
            DataError: an unreadable file, or no object of a fitting size in any of many clips.
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
            shares = np.bincount(clip.labels[0].ravel(), minlength=2)[1:] / clip.labels[0].size
            fitting = 1 + np.flatnonzero((shares >= self.settings.smallest) & (shares <= self.settings.largest))
            if len(fitting):
                values = rng.permutation(fitting)[: self.settings.objects]
                masks = clip.labels[:, None] == values[None, :, None, None]
                return Sample(clip.name, np.ascontiguousarray(clip.frames), masks, key)
        raise DataError(
            f"none of {TRIES} clips shows an object that covers {self.settings.smallest:.1%} to "
            f"{self.settings.largest:.0%} of its first frame; are the label images those of the frames?"
        )

    def batches(self, first: int, workers: int) -> Iterator[list[Sample]]:
        """The clips of the steps from ``first`` on, drawn ahead by ``workers`` processes, or here if that is 0."""
        if workers == 0:
            return (self[step] for step in count(first))
        loader: DataLoader[Any] = DataLoader(
            self, batch_size=None, sampler=count(first), num_workers=workers, collate_fn=list,
            worker_init_fn=_one_thread,
            # Not "fork": locks that OpenCV's threads hold in this process would never be released in its copies.
            multiprocessing_context="forkserver",
        )  # fmt: skip
        return iter(loader)


def _one_thread(worker: int) -> None:
    cv2.setNumThreads(1)
