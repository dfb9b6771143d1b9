"""Pictures of a run show every frame, state and change that they should, however long the run."""

import numpy as np
import pytest

from sam2_ros.media.figures import CELL_WIDTH, Storyboard, contact_sheet, spread, timeline
from sam2_ros.media.track_table import FrameRecord, TrackRow
from sam2_ros.tracking.types import ObjectState

HIDDEN = range(700, 720)


def frame(index: int, hidden: range = HIDDEN) -> FrameRecord:
    state = ObjectState.OCCLUDED if index in hidden else ObjectState.VISIBLE
    stamp = index * 100_000_000
    row = TrackRow(index, stamp, 1, "cup", "", state, (0, 0, 1, 1), 1, 1.0, 0.9, 0.9, index == 0)
    return FrameRecord(index, f"{index:06d}", stamp, (row,))


def colored(index: int) -> np.ndarray:
    """A frame that says which one it is: its number in red and green."""
    return np.full((60, 80, 3), (index // 250, index % 250, 40), np.uint8)


def test_first_last_and_changes_are_shown() -> None:
    board = Storyboard("cup", cells=8)
    for index in range(1000):
        board.add(colored(index), frame(index))
    picture = board.draw()
    assert picture.dtype == np.uint8
    height = round(CELL_WIDTH * 60 / 80)
    shown = []
    for cell in range(8):
        row, column = divmod(cell, 4)
        first, second, _ = picture[
            row * (height + 4) + 4 + height // 3, column * (CELL_WIDTH + 4) + 4 + CELL_WIDTH // 2
        ]
        shown.append(int(first) * 250 + int(second))
    assert shown == sorted(shown) and len(set(shown)) == 8
    assert {0, 700, 720, 999} <= set(shown)
    assert max(np.diff(shown)) < 400  # the rest fills the gaps
    assert picture.shape[0] > 2 * height + 150  # states and scores below


def test_a_short_run_shows_all_it_has() -> None:
    board = Storyboard("cup")
    with pytest.raises(ValueError, match="at least one frame"):
        board.draw()
    for index in range(3):
        board.add(colored(index), frame(index))
    assert board.draw().shape[1] >= 3 * CELL_WIDTH


def test_a_contact_sheet_holds_every_frame() -> None:
    cells = [(np.full((48, 64, 3), level, np.uint8), "") for level in (10, 90, 170, 250, 50)]
    sheet = contact_sheet(cells, columns=2, cell_width=64)
    assert sheet.shape[0] > 3 * 48 and sheet.shape[1] > 2 * 64
    assert {10, 90, 170, 250, 50} <= set(np.unique(sheet).tolist())
    assert spread(217, 5) == [0, 54, 108, 162, 216]
    assert spread(3, 5) == [0, 1, 2]


def test_the_timeline_shows_states_at_their_times() -> None:
    records = [frame(index, hidden=range(40, 60)) for index in range(100)]
    picture = timeline(records, width=1130)  # the axis is 980 pixels wide
    bar = picture[64 + 18]
    green, amber = bar[130 + 100].tolist(), bar[130 + 490].tolist()
    assert green != amber
    amber_columns = np.flatnonzero((bar == amber).all(axis=1))
    assert amber_columns[0] == pytest.approx(130 + 979 * 40 / 99, abs=2)
    assert amber_columns[-1] == pytest.approx(130 + 979 * 60 / 99, abs=2)
