"""Pictures of an evaluation, drawn with OpenCV: J over time, reliability of the visibility, the worst frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sam2_ros.evaluation.results import SequenceResult
from sam2_ros.media.figures import contact_sheet
from sam2_ros.media.overlay import Rgb, object_color

PANEL = (400, 190)  # pixels, width and height
COLUMNS = 3
MOST_PANELS = 30
PARTS = 10  # of a sequence, for the mean over all of them
_GRID, _TEXT, _LINE = (225, 225, 225), (70, 70, 70), (60, 90, 200)


@dataclass(frozen=True)
class _Axes:
    """A panel's rectangle in an image, with values from 0 to 1 upward and ``low`` to ``high`` to the right."""

    left: int
    top: int
    right: int
    bottom: int
    low: float
    high: float

    def point(self, x: float, y: float) -> tuple[int, int]:
        across = (x - self.low) / max(1e-9, self.high - self.low)
        return (
            round(self.left + across * (self.right - self.left)),
            round(self.bottom + min(1.0, max(0.0, y)) * (self.top - self.bottom)),
        )


def j_over_time(results: Sequence[SequenceResult]) -> Rgb:
    """A panel with the mean of all objects by part of their sequence, then one a sequence with a line an object.

    Of more sequences than ``MOST_PANELS`` those of least J are shown.

    Raises:
        ValueError: no object was scored.
    """
    scored = [result for result in results if result.scores]
    if not scored:
        raise ValueError("nothing was scored, so there is nothing to draw")
    shown = sorted(scored, key=lambda r: float(np.mean([s.j for s in r.scores])))[:MOST_PANELS]
    width, height = PANEL
    rows = -(-(1 + len(shown)) // COLUMNS)
    image = np.full((rows * height, COLUMNS * width, 3), 255, np.uint8)
    axes = _frame(image, 0, f"all {len(scored)} sequences: J by tenth of the sequence", 0, PARTS)
    _line(image, axes, [(i + 0.5, j) for i, j in enumerate(_by_part(scored)) if j is not None], _LINE, 2)
    for index, result in enumerate(shown, start=1):
        mean = float(np.mean([score.j for score in result.scores]))
        axes = _frame(image, index, f"{result.name}: J {mean:.2f}", 0, max(1, result.frames - 1))
        for score in result.scores:
            points = [(float(row.frame), row.j) for row in result.of(score.object) if row.j is not None]
            _line(image, axes, points, object_color(score.object), 1)
    return image


def _by_part(results: Sequence[SequenceResult]) -> list[float | None]:
    values: list[list[float]] = [[] for _ in range(PARTS)]
    for result in results:
        for row in result.rows:
            if row.scored and row.j is not None:
                values[min(PARTS - 1, PARTS * row.frame // max(1, result.frames))].append(row.j)
    return [float(np.mean(part)) if part else None for part in values]


def reliability(visibility: dict[str, Any]) -> Rgb:
    """Share of frames on which the object is in sight over the visibility that was published, with counts of frames.

    ``visibility`` is that part of the report. On the diagonal the probability means what it says.
    """
    image = np.full((420, 480, 3), 255, np.uint8)
    axes = _axes(image, _Axes(56, 40, 460, 372, 0.0, 1.0))
    error = visibility["expected_calibration_error"]
    title = "visibility: " + ("no labelled frames" if error is None else f"calibration error {error:.3f}")
    _text(image, title, 12, 22, 0.5)
    _text(image, "published visibility; beside the points: frames", 56, 408, 0.42)
    cv2.line(image, axes.point(0, 0), axes.point(1, 1), (170, 170, 170), 1, cv2.LINE_AA)
    points = [(mean, share) for mean, share, _ in visibility["reliability"]]
    _line(image, axes, points, _LINE, 2)
    for mean, share, count in visibility["reliability"]:
        x, y = axes.point(mean, share)
        cv2.circle(image, (x, y), 4, _LINE, -1, cv2.LINE_AA)
        _text(image, str(count), min(x + 6, 430), y + 14, 0.36)
    return image


def failure_sheet(folder: Path, results: Sequence[SequenceResult], count: int = 24) -> Rgb | None:
    """The ``count`` worst frames of all sequences as kept in ``folder``, worst first; None where there are none."""
    bad = sorted(
        ((one["j"], result.name, one) for result in results for one in result.extra.get("worst", [])),
        key=lambda entry: (entry[0], entry[1], entry[2]["frame"]),
    )
    cells = []
    for j, name, one in bad[:count]:
        picture = cv2.imread(str(folder / one["file"]), cv2.IMREAD_COLOR)
        if picture is not None:
            rgb = np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)
            cells.append((_fit(rgb, 480, 270), f"{name} frame {one['frame']} object {one['object']}: J {j:.2f}"))
    return contact_sheet(cells) if cells else None


def _fit(rgb: Rgb, width: int, height: int) -> Rgb:
    """The picture as large as it fits in, black beside it, so that a sheet may hold several shapes."""
    scale = min(width / rgb.shape[1], height / rgb.shape[0])
    size = (max(1, round(scale * rgb.shape[1])), max(1, round(scale * rgb.shape[0])))
    cell = np.zeros((height, width, 3), np.uint8)
    left, top = (width - size[0]) // 2, (height - size[1]) // 2
    cell[top : top + size[1], left : left + size[0]] = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    return cell


def _frame(image: Rgb, index: int, title: str, low: float, high: float) -> _Axes:
    row, column = divmod(index, COLUMNS)
    left, top = column * PANEL[0], row * PANEL[1]
    _text(image, title[:48], left + 10, top + 18, 0.45)
    axes = _Axes(left + 44, top + 28, left + PANEL[0] - 14, top + PANEL[1] - 22, low, high)
    _text(image, f"{low:g}", axes.left, axes.bottom + 15, 0.36)
    _text(image, f"{high:g}", axes.right - 22, axes.bottom + 15, 0.36)
    return _axes(image, axes)


def _axes(image: Rgb, axes: _Axes) -> _Axes:
    for value in (0.0, 0.5, 1.0):
        _, y = axes.point(axes.low, value)
        cv2.line(image, (axes.left, y), (axes.right, y), _GRID, 1)
        _text(image, f"{value:g}", axes.left - 30, y + 4, 0.36)
    return axes


def _line(
    image: Rgb, axes: _Axes, points: Sequence[tuple[float, float]], color: tuple[int, int, int], width: int
) -> None:
    pixels = [axes.point(*point) for point in points]
    for start, end in zip(pixels, pixels[1:] or pixels, strict=False):
        cv2.line(image, start, end, color, width, cv2.LINE_AA)


def _text(image: Rgb, text: str, x: int, baseline: int, scale: float) -> None:
    plain = text.encode("ascii", "replace").decode()  # OpenCV's fonts know no more
    cv2.putText(image, plain, (x, baseline), cv2.FONT_HERSHEY_SIMPLEX, scale, _TEXT, 1, cv2.LINE_AA)
