"""Labelled photographs as stills, and clips made of them."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from sam2_ros.media.labelled_photos import Photo, photos_in
from sam2_ros.training.clips import Clip, ClipSettings, Cutout, Still, composite, cutouts, read_rgb
from sam2_ros.training.synthetic import occlusion_clip, patch

MAX_INSTANCES = 250  # a label map has 255 values, and pasted objects need some
CACHED_STILLS = 64  # decoded photographs in memory


def read_still(photo: Photo, longest: int) -> Still:
    """Photograph and label map, reduced to ``longest`` pixels."""
    image = read_rgb(photo.path)
    ratio = min(1.0, longest / max(image.shape[:2]))
    if ratio < 1:
        image = cv2.resize(image, None, fx=ratio, fy=ratio, interpolation=cv2.INTER_AREA).astype(np.uint8)
    height, width = image.shape[:2]
    labels = np.zeros((height, width), np.uint8)
    # Large instances come first, so that those on top of them stay visible in the map.
    for index, rings in enumerate(photo.instances(width, height)[:MAX_INSTANCES]):
        for ring in rings:
            cv2.fillPoly(labels, [ring], index + 1)
    return Still(photo.path.stem, image, labels)


_cached_still = lru_cache(CACHED_STILLS)(read_still)


def read_stills(root: Path) -> list[Still]:
    """The photographs of :func:`photos_in`, those in COCO's format reduced to 900 pixels; raises as it does."""
    longest = 900 if (root / "annotations.json").is_file() else 1_000_000
    return [read_still(photo, longest) for photo in photos_in(root, unlabelled=True)]


class StillSet:
    """Draws clips that are made of photographs."""

    def __init__(self, photos: list[Photo], settings: ClipSettings) -> None:
        self.photos, self.settings = photos, settings

    def _still(self, rng: np.random.Generator) -> Still:
        """A photograph drawn at random."""
        return _cached_still(self.photos[rng.integers(len(self.photos))], 2 * self.settings.size)

    def draw(self, rng: np.random.Generator) -> Clip | None:
        """A photograph under a moving camera, with objects cut out of other photographs.

        A share of the clips shows occlusion (:func:`~sam2_ros.training.synthetic.occlusion_clip`). In the others the
        cut-outs fly over the photograph's own objects, which are labelled, too
        (:func:`~sam2_ros.training.clips.composite`). None if no object fits.
        """
        settings = self.settings
        background = self._still(rng)
        if rng.random() >= settings.occlusion:
            pieces = self._pieces(rng, int(rng.integers(settings.pieces + 1)))
            return composite(background, pieces, rng, settings.size, settings.length)
        pieces = self._pieces(rng, int(rng.integers(1, settings.pieces + 1)))
        if not pieces:
            return None
        textures = [patch(self._still(rng).image, rng) for _ in range(3)]
        occluders = [*textures, *self._pieces(rng, 1)]
        return occlusion_clip(background, pieces, occluders, rng, settings.size, settings.length)

    def _pieces(self, rng: np.random.Generator, count: int) -> list[Cutout]:
        """Up to ``count`` cut-out objects; a photograph may have none of a fitting size."""
        drawn = (cutouts(self._still(rng)) for _ in range(count))
        return [pieces[rng.integers(len(pieces))] for pieces in drawn if pieces]
