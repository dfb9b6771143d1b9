"""One picture that tells a run: frames around each change of state, and below them states and scores over time."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from sam2_ros.media.figures import contact_sheet, timeline
from sam2_ros.media.overlay import Rgb
from sam2_ros.media.track_table import FrameRecord
from sam2_ros.tracking.types import ObjectState

CELL_WIDTH = 300  # pixels
COLUMNS = 4
_MOST = 64  # small pictures of each kind that are kept while the end is not known


@dataclass(frozen=True)
class _Shot:
    index: int  # of the frame in the run
    picture: Rgb


class Storyboard:
    """Collects a run of any length in bounded memory: evenly spread frames, and those on which a state changed."""

    def __init__(self, title: str, cells: int = 2 * COLUMNS) -> None:
        self._title, self._cells = title, cells
        self._records: list[FrameRecord] = []
        self._spread: list[_Shot] = []
        self._changes: list[_Shot] = []
        self._last: _Shot | None = None
        self._every = 1
        self._states: dict[int, ObjectState] = {}

    def add(self, drawn: Rgb, record: FrameRecord) -> None:
        """The next frame with its objects drawn in, ``uint8 [H, W, 3]``."""
        height, width = drawn.shape[:2]
        size = (CELL_WIDTH, round(CELL_WIDTH * height / width))
        shot = _Shot(len(self._records), np.asarray(cv2.resize(drawn, size, interpolation=cv2.INTER_AREA), np.uint8))
        self._last = shot
        if shot.index % self._every == 0:
            self._spread.append(shot)
            if len(self._spread) > _MOST:
                self._spread = self._spread[::2]
                self._every *= 2
        states = {row.id: row.state for row in record.objects}
        changed = any(self._states.get(one, state) is not state for one, state in states.items())
        if changed and len(self._changes) < _MOST:
            self._changes.append(shot)
        self._states = states
        self._records.append(record)

    def draw(self) -> Rgb:
        """The picture, ``uint8 [H, W, 3]``.

        Raises:
            ValueError: no frame was added.
        """
        if self._last is None:
            raise ValueError("a storyboard needs at least one frame")
        start = self._records[0].stamp
        cells = [(shot.picture, f"{(self._records[shot.index].stamp - start) / 1e9:.1f} s") for shot in self._chosen()]
        sheet = contact_sheet(cells, COLUMNS, CELL_WIDTH)
        graph = timeline(self._records, sheet.shape[1], self._title)
        return np.concatenate((sheet, graph))

    def _chosen(self) -> list[_Shot]:
        """First, last, changes of state from the first on, then whatever lies in the widest gap between those."""
        assert self._last is not None
        known = {shot.index: shot for shot in (*self._spread, *self._changes, self._last)}
        chosen = {0, self._last.index}
        for shot in self._changes:
            if len(chosen) < self._cells:
                chosen.add(shot.index)
        while len(chosen) < min(self._cells, len(known)):
            rest = known.keys() - chosen
            chosen.add(max(rest, key=lambda index: (min(abs(index - other) for other in chosen), -index)))
        return [known[index] for index in sorted(chosen)]
