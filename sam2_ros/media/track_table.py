"""A table of tracks, one row for each object in each frame, as JSON, CSV and a summary."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import fmean
from typing import Any

from sam2_ros.media.text_table import align, number
from sam2_ros.media.whole_files import write_whole
from sam2_ros.tracking.types import FrameResult, ObjectState


@dataclass(frozen=True)
class TrackRow:
    """One object in one frame. ``box`` holds edges in pixels, all 0 if the object is not visible."""

    frame: int
    stamp: int  # ns
    id: int
    name: str
    label: str
    state: ObjectState
    box: tuple[int, int, int, int]  # x0, y0, x1, y1
    area: int  # pixels
    object_score: float  # logit
    predicted_iou: float
    visibility: float
    prompted: bool


@dataclass(frozen=True)
class FrameRecord:
    """A frame and its objects."""

    frame: int
    name: str
    stamp: int  # ns
    objects: tuple[TrackRow, ...]


def record(result: FrameResult, frame: int, name: str, ids: Callable[[int], int] | None = None) -> FrameRecord:
    """``result`` as the record of frame ``frame``; ``ids`` maps a tracker's id to the id to write."""
    rows = tuple(
        TrackRow(
            frame=frame,
            stamp=result.stamp,
            id=ids(obj.object_id) if ids else obj.object_id,
            name=obj.name,
            label=obj.label,
            state=obj.state,
            box=obj.mask.box,
            area=obj.mask.area,
            object_score=float(obj.object_score),
            predicted_iou=float(obj.predicted_iou),
            visibility=float(obj.visibility),
            prompted=obj.prompted,
        )
        for obj in result.objects
    )
    return FrameRecord(frame, name, result.stamp, tuple(sorted(rows, key=lambda row: row.id)))


def write_tracks(path: Path, frames: Sequence[FrameRecord], about: dict[str, Any]) -> None:
    """Writes ``about`` (source, model, …) and ``frames`` as JSON; states are written by name."""

    def plain(row: TrackRow) -> dict[str, Any]:
        content = asdict(row) | {"state": row.state.name.lower()}
        del content["frame"], content["stamp"]  # written with the frame
        return content

    def line(frame: FrameRecord) -> str:
        content = {"frame": frame.frame, "name": frame.name, "stamp": frame.stamp}
        return json.dumps(content | {"objects": [plain(row) for row in frame.objects]}, allow_nan=False)

    # One line for each frame: short enough to read, and easy to search.
    head = json.dumps(about, indent=1, allow_nan=False).removesuffix("\n}").removesuffix("}")
    separator = ",\n" if about else "\n"
    lines = ",\n  ".join(line(frame) for frame in frames)
    write_whole(path, f'{head}{separator} "frames": [\n  {lines}\n ]\n}}\n')


def write_csv(path: Path, frames: Iterable[FrameRecord]) -> None:
    """Writes a heading and one line for each object in each frame."""
    names = [field.name for field in fields(TrackRow) if field.name != "box"]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([*names, "x0", "y0", "x1", "y1"])
    for frame in frames:
        for row in frame.objects:
            values = asdict(row) | {"state": row.state.name.lower(), "prompted": int(row.prompted)}
            cells = [f"{value:.4f}" if isinstance(value := values[name], float) else value for name in names]
            writer.writerow([*cells, *row.box])
    write_whole(path, text.getvalue())


def summary_table(frames: Sequence[FrameRecord]) -> str:
    """A text table, one line for each object: frames in each state, mean predicted IoU and area while visible."""
    heading = ("id", "name", "frames", "visible", "occluded", "lost", "mean IoU", "mean area")
    lines: list[tuple[str, ...]] = [heading]
    for object_id in sorted({row.id for frame in frames for row in frame.objects}):
        rows = [row for frame in frames for row in frame.objects if row.id == object_id]
        seen = [row for row in rows if row.state is ObjectState.VISIBLE]
        counts = [sum(row.state is state for row in rows) for state in ObjectState]
        iou = number(fmean(row.predicted_iou for row in seen) if seen else None, 3)
        area = number(fmean(row.area for row in seen) if seen else None, 0)
        name = rows[-1].name or rows[-1].label or "-"
        lines.append((str(object_id), name, str(len(rows)), *map(str, counts), iou, area))
    return align(lines, left=(1,))
