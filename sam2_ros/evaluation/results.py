"""The result of one sequence: a row for each object and frame, and the file that holds them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from sam2_ros.media.whole_files import write_whole


@dataclass(frozen=True)
class Row:
    """One object on one frame, from its prompt on. Without a label, measures are None."""

    object: int
    frame: int  # index in the video, from 0
    name: str  # of the frame
    prompted: bool
    state: str  # of the tracker: "visible", "occluded" or "lost"
    object_score: float  # score logit
    predicted_iou: float
    visibility: float  # [0, 1]
    area: int  # predicted pixels, as in a label image
    truth_area: int | None = None  # labelled pixels
    j: float | None = None  # region similarity
    f: float | None = None  # boundary measure
    other: int | None = None  # the other object whose label the prediction overlaps most, if any
    other_iou: float = 0.0  # intersection over union with that one
    scored: bool = False  # whether the protocol's J and F count this frame


@dataclass(frozen=True)
class ObjectScore:
    """Mean J and F of an object over the frames that count."""

    object: int
    frames: int
    j: float
    f: float

    @property
    def jf(self) -> float:
        return (self.j + self.f) / 2


@dataclass(frozen=True)
class SequenceResult:
    """What is stored of a sequence."""

    name: str
    width: int
    height: int
    frames: int  # of the video
    rows: tuple[Row, ...]
    seconds: tuple[float, ...]  # of the engine, for each tracked frame without prompts
    extra: dict[str, Any] = field(default_factory=dict)  # of one protocol

    @property
    def objects(self) -> list[int]:
        """Ids of the objects that were prompted."""
        return sorted({row.object for row in self.rows})

    def of(self, object_id: int) -> list[Row]:
        """The rows of an object, in the order of frames."""
        return [row for row in self.rows if row.object == object_id]

    @property
    def scores(self) -> list[ObjectScore]:
        """The objects of which any frame counts."""
        result = []
        for object_id in self.objects:
            scored = [row for row in self.of(object_id) if row.scored]
            if scored:
                result.append(ObjectScore(object_id, len(scored), mean(r.j for r in scored), mean(r.f for r in scored)))
        return result


def mean(values: Iterable[float | None]) -> float:
    """Arithmetic mean of the values that are not None, at least one; their order does not matter."""
    numbers = [value for value in values if value is not None]
    return math.fsum(numbers) / len(numbers)


def save(result: SequenceResult, path: Path, settings: str) -> None:
    """Writes a result as JSON, whole or not at all.

    ``settings`` is the hash of the settings.
    """
    names = [column.name for column in fields(Row)]
    content = {key: value for key, value in vars(result).items() if key != "rows"} | {
        "settings": settings,
        "columns": names,
        "rows": [list(asdict(row).values()) for row in result.rows],
    }
    write_whole(path, json.dumps(content, allow_nan=False))


def load(path: Path) -> tuple[SequenceResult, str]:
    """Reads what :func:`save` wrote: the result and the hash of its settings.

    Raises:
        ValueError, KeyError, TypeError: not such a file.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    settings, columns, rows = content.pop("settings"), content.pop("columns"), content.pop("rows")
    made = tuple(Row(**dict(zip(columns, row, strict=True))) for row in rows)
    return SequenceResult(rows=made, seconds=tuple(content.pop("seconds")), **content), settings
