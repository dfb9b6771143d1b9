"""Clips made of stills."""

from __future__ import annotations

import numpy as np

from sam2_ros.training.clips import Clip, Image, Still, composite

Piece = tuple[Image, Image]  # cropped RGB and mask, 0 or 255


def synthetic_clip(
    background: Still, pieces: list[Piece], occluders: list[Piece], rng: np.random.Generator, size: int, steps: int
) -> Clip:
    """A clip ``[steps, size, size]`` of ``background`` under a moving camera with ``pieces`` flying over it.

    With ``occluders``, objects are covered, leave and come back; they are not labelled.
    """
    if occluders:
        try:
            from sam2_ros.training.synthetic import occlusion_clip  # type: ignore[import-not-found, unused-ignore]
        except ImportError:
            clip = composite(background, [*pieces, *occluders], rng, size, steps)
            return clip
        made: Clip = occlusion_clip(background, pieces, occluders, rng, size, steps)
        return made
    return composite(background, pieces, rng, size, steps)
