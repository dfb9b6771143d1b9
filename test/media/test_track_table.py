"""The table of tracks as text: counts of states, and means while visible."""

import csv
from pathlib import Path

from sam2_ros.media.track_table import FrameRecord, TrackRow, summary_table, write_csv
from sam2_ros.tracking.types import ObjectState

VISIBLE, OCCLUDED, LOST = ObjectState.VISIBLE, ObjectState.OCCLUDED, ObjectState.LOST


def frame(index: int, *objects: tuple[int, ObjectState, float, int]) -> FrameRecord:
    rows = tuple(
        TrackRow(index, index, number, "cup" * (number == 1), "mug", state, (1, 2, 3, 4), area, 0.5, iou, 0.25, False)
        for number, state, iou, area in objects
    )
    return FrameRecord(index, f"{index:06d}", index, rows)


FRAMES = [
    frame(0, (1, VISIBLE, 0.9, 100)),
    frame(1, (1, VISIBLE, 0.7, 300), (12, LOST, 0.1, 0)),
    frame(2, (1, OCCLUDED, 0.2, 0), (12, LOST, 0.1, 0)),
]


def test_means_are_those_of_the_frames_in_which_the_object_is_seen() -> None:
    head, first, second = (line.split() for line in summary_table(FRAMES).splitlines())
    assert head == ["id", "name", "frames", "visible", "occluded", "lost", "mean", "IoU", "mean", "area"]
    assert first == ["1", "cup", "3", "2", "1", "0", "0.800", "200"]
    assert second == ["12", "mug", "2", "0", "0", "2", "-", "-"]


def test_the_csv_has_a_row_for_each_object_in_each_frame(tmp_path: Path) -> None:
    write_csv(tmp_path / "tracks.csv", FRAMES)
    with (tmp_path / "tracks.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["frame"], row["id"], row["state"]) for row in rows] == [
        ("0", "1", "visible"), ("1", "1", "visible"), ("1", "12", "lost"), ("2", "1", "occluded"), ("2", "12", "lost"),
    ]  # fmt: skip
    assert (rows[1]["predicted_iou"], rows[1]["prompted"], rows[1]["x1"]) == ("0.7000", "0", "3")
