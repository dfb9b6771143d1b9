"""Labelled videos in the layout of DAVIS, and clips drawn from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image as PillowImage
from PIL import UnidentifiedImageError

from sam2_ros.training.clips import Clip, ClipSettings, Image, film, read_rgb, squash

FRAMES, LABELS = "JPEGImages", "Annotations"
SUFFIXES = (".jpg", ".jpeg", ".png")
VOID = 255  # "not labelled" in palette images


@dataclass(frozen=True)
class Video:
    """A sequence: its labelled frames, in order."""

    name: str
    frames: tuple[Path, ...]
    labels: tuple[Path, ...]


def read_labels(path: Path) -> Image:
    """Object numbers ``uint8 [H, W]``; 0 is background, and so is void (255) in a palette image.

    A grey or black-and-white image with only 0 and 255 shows one object.

    Raises:
        ValueError: not an 8-bit label image.
    """
    try:
        with PillowImage.open(path) as image:
            if image.mode not in ("P", "L", "1"):
                raise ValueError(f"{path} has the mode {image.mode}; accepted: palette or 8-bit grey, one channel")
            palette = image.mode == "P"
            values = np.array(image.convert("L") if image.mode == "1" else image, np.uint8)
    except UnidentifiedImageError as error:
        raise ValueError(f"{path} is no image") from error
    if not palette and not np.any((values > 0) & (values < VOID)):
        return (values > 0).astype(np.uint8)
    return np.where(values == VOID, np.uint8(0), values)


def find_videos(root: Path, names: list[str] | None = None) -> list[Video]:
    """The sequences under ``root``: ``JPEGImages/NAME/*.jpg`` and ``Annotations/NAME/*.png`` of the same stem.

    There may be folders of resolutions between (``JPEGImages/480p/NAME``). Frames without a label image are left out.
    ``names`` selects sequences.

    Raises:
        ValueError: a selected sequence is missing, or there is none at all.
    """
    found: dict[str, Video] = {}
    for folder in sorted(path for path in (root / LABELS).rglob("*") if path.is_dir()):
        labels = sorted(folder.glob("*.png"), key=lambda path: path.name)
        if not labels:
            continue
        place = folder.relative_to(root / LABELS)
        frames = {path.stem: path for path in (root / FRAMES / place).glob("*") if path.suffix.lower() in SUFFIXES}
        pairs = [(frames[path.stem], path) for path in labels if path.stem in frames]
        if pairs:
            found[place.name] = Video(place.name, *zip(*pairs, strict=True))
    missing = [name for name in names or () if name not in found]
    if missing:
        raise ValueError(f"{root} has no labelled sequence '{missing[0]}'; there are: {', '.join(sorted(found)[:20])}")
    if not found:
        raise ValueError(f"{root} has no labelled sequence; expected {FRAMES}/NAME/*.jpg and {LABELS}/NAME/*.png")
    return [found[name] for name in (names if names is not None else sorted(found))]


class VideoSet:
    """Draws clips of real videos."""

    def __init__(self, root: Path, names: list[str] | None, settings: ClipSettings) -> None:
        self.settings = settings
        videos = find_videos(root, names)
        self.videos = [video for video in videos if len(video.frames) >= settings.length]
        if not self.videos:
            longest = max(len(video.frames) for video in videos)
            raise ValueError(
                f"{root}: the longest sequence has {longest} labelled frames and a clip {settings.length}; "
                f"use --clip-length {longest}, or longer videos"
            )

    def draw(self, rng: np.random.Generator) -> Clip:
        """A part of a video, backwards half the time, often filmed by a virtual camera."""
        settings = self.settings
        video = self.videos[rng.integers(len(self.videos))]
        gaps = settings.length - 1
        stride = int(rng.integers(1, min(settings.stride, (len(video.frames) - 1) // gaps) + 1))
        start = int(rng.integers(len(video.frames) - stride * gaps))
        indices = [start + stride * t for t in range(settings.length)]
        if rng.random() < 0.5:
            indices.reverse()
        frames = [read_rgb(video.frames[index]) for index in indices]
        labels = [_fit(read_labels(video.labels[index]), frame) for index, frame in zip(indices, frames, strict=True)]
        clip = Clip(video.name, np.stack(frames), np.stack(labels))
        if rng.random() < settings.camera:
            return film(clip, rng, settings.size)
        clip = squash(clip, settings.size)
        if rng.random() < 0.5:
            clip = Clip(clip.name, clip.frames[:, :, ::-1].copy(), clip.labels[:, :, ::-1].copy())
        return clip


def _fit(labels: Image, frame: Image) -> Image:
    """Labels in the size of the frame; in some data sets they are smaller."""
    if labels.shape == frame.shape[:2]:
        return labels
    return cv2.resize(labels, frame.shape[1::-1], interpolation=cv2.INTER_NEAREST).astype(np.uint8)
