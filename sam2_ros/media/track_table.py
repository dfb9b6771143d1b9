"""What was tracked, as rows of a table: one row for an object in a frame; written as JSON, CSV and a summary."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import fmean
from typing import Any

from sam2_ros.media.text_table import align, number
from sam2_ros.tracking.types import FrameResult, ObjectState


@dataclass(frozen=True)
class TrackRow:
    """One object in one frame. ``box`` holds edges in pixels, all 0 where the object is not visible."""

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
    """``result`` as a record of frame ``frame``; ``ids`` gives the id to write for a tracker's id."""
    rows = tuple(
        TrackRow(
            frame=frame,
            stamp=result.stamp,
            id=ids(item.object_id) if ids else item.object_id,
            name=item.name,
            label=item.label,
            state=item.state,
            box=item.mask.box,
            area=item.mask.area,
            object_score=float(item.object_score),
            predicted_iou=float(item.predicted_iou),
            visibility=float(item.visibility),
            prompted=item.prompted,
        )
        for item in result.objects
    )
    return FrameRecord(frame, name, result.stamp, tuple(sorted(rows, key=lambda row: row.id)))


def write_json(path: Path, frames: Sequence[FrameRecord], about: dict[str, Any]) -> None:
    """Writes ``about`` (source, model, …) and ``frames``; states are written by name, numbers are finite."""

    def plain(row: TrackRow) -> dict[str, Any]:
        content = asdict(row)
        for key in ("frame", "stamp"):  # of the frame, written there
            del content[key]
        return content | {"state": row.state.name.lower(), "box": list(row.box)}

    def line(frame: FrameRecord) -> str:
        content = {"frame": frame.frame, "name": frame.name, "stamp": frame.stamp}
        return json.dumps(content | {"objects": [plain(row) for row in frame.objects]}, allow_nan=False)

    # One line for a frame: short enough to read, easy to search.
    head = json.dumps(about, indent=1, allow_nan=False).removesuffix("\n}").removesuffix("}")
    separator = ",\n" if about else "\n"
    lines = ",\n  ".join(line(frame) for frame in frames)
    path.write_text(f'{head}{separator} "frames": [\n  {lines}\n ]\n}}\n', encoding="utf-8")


def write_csv(path: Path, frames: Iterable[FrameRecord]) -> None:
    """Writes one line per object and frame, with a heading."""
    names = [field.name for field in fields(TrackRow) if field.name != "box"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*names, "x0", "y0", "x1", "y1"])
        for frame in frames:
            for row in frame.objects:
                values = asdict(row) | {"state": row.state.name.lower(), "prompted": int(row.prompted)}
                writer.writerow([_cell(values[name]) for name in names] + list(row.box))


def summary_table(frames: Sequence[FrameRecord]) -> str:
    """A text table with a line per object: frames in each state, mean predicted IoU and area while visible."""
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


def _cell(value: Any) -> Any:
    return f"{value:.4f}" if isinstance(value, float) else value
