"""The position of one object in one frame, as messages carry it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Position:
    """The 3D fields of ``TrackedObject``; ``status`` is one of its DEPTH_* constants."""

    status: int
    reason: str = ""
    frame: str = ""
    position: tuple[float, float, float] = (0.0, 0.0, 0.0)  # metres
    center: tuple[float, float, float] = (0.0, 0.0, 0.0)  # metres, of the box that extent describes
    extent: tuple[float, float, float] = (0.0, 0.0, 0.0)  # metres
    points: int = 0
