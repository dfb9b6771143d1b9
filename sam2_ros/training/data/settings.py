"""What a drawn clip is like."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ClipSettings:
    """Settings of drawn clips."""

    size: int  # pixels, side of the network's input
    length: int = 8  # frames
    objects: int = 3  # at most, of those that are seen in the first frame
    stride: int = 2  # at most this many frames of a video from one of a clip to the next
    camera: float = 0.5  # share of real clips that a moving virtual camera films
    occlusion: float = 0.5  # share of clips made of stills in which objects are covered or leave
    pieces: int = 3  # at most this many cut-out objects fly over a still
    smallest: float = 0.001  # share of the first frame that an object must cover to be chosen
    largest: float = 0.7
