"""How the camera's own motion moves the picture from one frame to the next. Free of torch.

What is hidden stays where it is on the table, not where it was in the picture, and what moves by itself is told better
where the camera's share is taken away. Corners beside the objects are followed by the pyramids of Lucas and Kanade's
method (Bouguet, 2001). A homography, which is exact for a plane, is fitted to them by RANSAC (Fischler and Bolles,
1981).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

Box: TypeAlias = tuple[float, float, float, float]  # x0, y0, x1, y1, edges in shares of the frame
Grey: TypeAlias = NDArray[np.uint8]

SIDE = 240  # pixels, the longer side of the pictures in which corners are followed
CORNERS = 200
LEAST = 20  # corners that must agree, and
AGREEING = 0.3  # share of those found that must; else the camera is taken to stand
TOLERANCE = 2.0  # pixels
ATTEMPTS = 500  # of RANSAC, at most
NOTICED = 0.2  # pixels, half-way from the middle to the corners; less is an error of a camera that stands
LARGEST_SCALE = 1.5  # factor by which a thing grows or shrinks from one frame to the next
FARTHEST = 100.0  # frames from the picture; else places that a camera drives past would grow without end


@dataclass(frozen=True)
class Motion:
    """From places of a frame to those of the next; ``matrix`` is a homography in shares of its width and height."""

    matrix: NDArray[np.float64]  # [3, 3]

    def moved(self, box: Box) -> Box:
        """Where what is in ``box`` lies on the next frame, if it does not move by itself."""
        x0, y0, x1, y1 = box
        middle_x, middle_y = (x0 + x1) / 2, (y0 + y1) / 2
        x, y, w = (a * middle_x + b * middle_y + c for a, b, c in self._rows)
        if w <= 0.1:  # beyond the horizon, where no plane is seen
            return box
        scale = min(max((self._growth / w**3) ** 0.5, 1 / LARGEST_SCALE), LARGEST_SCALE)
        half_x, half_y = scale * (x1 - x0) / 2, scale * (y1 - y0) / 2
        moved = x / w - half_x, y / w - half_y, x / w + half_x, y / w + half_y
        return moved if all(abs(edge) <= FARTHEST for edge in moved) else box

    def moved_pixels(self, box: Box, width: int, height: int) -> Box:
        """:meth:`moved` for a box in pixels of frames of this size."""
        x0, y0, x1, y1 = box
        x0, y0, x1, y1 = self.moved((x0 / width, y0 / height, x1 / width, y1 / height))
        return x0 * width, y0 * height, x1 * width, y1 * height

    # Plain numbers, known once: every object has some ten boxes.

    @cached_property
    def _rows(self) -> list[list[float]]:
        return self.matrix.tolist()

    @cached_property
    def _growth(self) -> float:
        """Of areas where w is 1."""
        return abs(float(np.linalg.det(self.matrix)))


STANDING = Motion(np.eye(3))


class CameraMotion:
    """Measures it from frame to frame. Not thread-safe."""

    def __init__(self) -> None:
        self._before: Grey | None = None
        self._frame = -1  # its number

    def follow(self, image: NDArray[np.uint8], frame: int, things: Sequence[Box] | None) -> Motion:
        """The motion from the frame before to ``image``; :data:`STANDING` where it can't be told.

        Args:
            image: RGB ``uint8 [H, W, 3]``.
            frame: its number.
            things: where objects are on the frame before; they may move by themselves. None: the motion is not needed.
        """
        height, width = image.shape[:2]
        factor = min(1.0, SIDE / max(height, width))
        size = max(1, round(width * factor)), max(1, round(height * factor))
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)  # first, since it is then reduced in half the time
        now = np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8)
        before, follows, self._before, self._frame = self._before, frame == self._frame + 1, now, frame
        if before is None or not follows or things is None or before.shape != now.shape:
            return STANDING
        matrix = _homography(before, now, things)
        if matrix is None:
            return STANDING
        inside = np.array([(x, y) for x in (0.25, 0.75) for y in (0.25, 0.75)])[:, None] * size
        if np.abs(cv2.perspectiveTransform(inside, matrix) - inside).max() < NOTICED:
            return STANDING
        scale = np.array([*size, 1.0])
        return Motion(matrix / scale[:, None] * scale)


def _homography(before: Grey, now: Grey, things: Sequence[Box]) -> NDArray[np.float64] | None:
    """From pixels of ``before`` to those of ``now``; None where it can't be told."""
    height, width = now.shape
    free = np.full(now.shape, 255, np.uint8)
    for x0, y0, x1, y1 in np.clip(np.reshape(things, (-1, 4)), 0, 1).tolist():
        free[int(y0 * height) : round(y1 * height), int(x0 * width) : round(x1 * width)] = 0
    corners = cv2.goodFeaturesToTrack(before, CORNERS, 0.005, 6, mask=free)
    if corners is None or len(corners) < LEAST:
        return None
    found, known, _ = cv2.calcOpticalFlowPyrLK(before, now, corners, np.empty_like(corners), winSize=(21, 21))
    kept = known[:, 0] == 1
    if np.count_nonzero(kept) < LEAST:
        return None
    matrix, agree = cv2.findHomography(corners[kept], found[kept], cv2.RANSAC, TOLERANCE, maxIters=ATTEMPTS)
    if matrix is None or np.count_nonzero(agree) < max(LEAST, AGREEING * np.count_nonzero(kept)):
        return None
    return np.asarray(matrix, np.float64)
