"""The table of what corrections are worth."""

from pathlib import Path

import clips
import pytest
from clips import labels_of, square
from corrections import measure

from sam2_ros.evaluation.datasets import open_dataset
from sam2_ros.inference.null import NullBackend


def test_the_same_clicks_are_replayed(tmp_path: Path) -> None:
    # The engine's masks stay where the click was; the object jumps twice, and is larger then.
    places = [(10, 17)] * 3 + [(50, 19)] * 3 + [(90, 19)] * 2
    clips.write_davis(tmp_path, "a", [labels_of({1: square(x, 20, side)}) for x, side in places])
    (row,) = measure(open_dataset(tmp_path).open("a"), NullBackend(), NullBackend(), 3)
    # The jumps first, then one of the frames on which the mask is a little too small.
    assert list(row["clicks"]) == [0, 3, 6, 4]  # type: ignore[call-overload]
    ours = row["ours"]
    assert isinstance(ours, list) and ours[0] < ours[1] < ours[2]
    # An engine that answers alike in both ways must give alike numbers.
    assert row["reference"] == pytest.approx(ours)
